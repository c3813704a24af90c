"""Files of a data set that nothing uses: pictures without annotations, labels without a picture, and what is neither.

A listing alone does not decide what there is: what it passes over is counted on both sides, and said.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from decodetr.annotations.written_paths import find_written
from decodetr.utils.excerpts import some_of
from decodetr.utils.images import is_image
from decodetr.utils.paths import file_names, visible_below

# Files that lie about in every data set and are nobody's picture or label.
_COMPANIONS = (
    *(".cache", ".csv", ".html", ".json", ".jsonl", ".md", ".names", ".npy", ".parquet", ".pdf", ".txt", ".xml"),
    *(".yaml", ".yml"),
)
_LISTS = ("classes.txt", "labels.txt", "notes.txt", "predefined_classes.txt", "test.txt", "train.txt", "val.txt")
# Field of a COCO file's info that is true where it means to name some pictures of its folder alone.
SOME_OF_FOLDER = "some_of_folder"
NO_PICTURE = "files that are no pictures by their suffix: convert them or take them away"
NO_LABELS = "pictures without a label file: background"
NO_IMAGE = "label files of no picture"
UNNAMED = "pictures that the annotation file does not name"
NO_ROW = "pictures that no row names"


def pictures_below(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """(pictures, other files) of a folder and the folders in it, sorted `Path`s. Links are followed. Hidden files and
    folders and the usual companions of data are left out."""
    return sort_out(visible_below(folder))


def sort_out(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(pictures, other files but for the usual companions of data), in their order. Hidden files are neither."""
    pictures, others = [], []
    for path in files:
        if path.name.startswith("."):  # such as ._1.jpg, which macOS puts beside 1.jpg
            continue
        if is_image(path):
            pictures.append(path)
        elif _is_odd(path):
            others.append(path)
    return pictures, others


def _is_odd(path):
    """Whether a file that is no picture by its suffix may be meant as one."""
    return not path.name.startswith(("README", "LICENSE", "Thumbs.db")) and (path.suffix.lower() not in _COMPANIONS)


def unused_labels(labels: Mapping[Path, Path]) -> dict[str, list[Path]]:
    """
    What is left over of a YOLO data set's labels and pictures.

    Args:
        labels (dict): picture -> label file, of one part.

    Returns:
        dict: NO_LABELS -> pictures without a label file. NO_IMAGE -> label files in the same folders that are of no
        picture there, of whatever part.
    """
    places = {}  # folder of labels: folders of its pictures
    for picture, label in labels.items():
        places.setdefault(label.parent, set()).add(picture.parent)
    listings = {folder: file_names(folder) for folder in places}
    without = [picture for picture, label in labels.items() if label.name not in listings[label.parent]]
    orphans = []
    for folder, image_folders in places.items():
        pictures = (name for place in image_folders for name in file_names(place) if is_image(name))
        meant = {f"{Path(name).stem}.txt" for name in pictures}
        meant.update(find_written(folder, meant).values())
        meant |= {label.name for label in labels.values() if label.parent == folder}  # of a list, from anywhere
        rows = (name for name in sorted(listings[folder] - meant) if name.lower().endswith(".txt"))
        orphans += [folder / name for name in rows if name not in _LISTS and not name.startswith(("README", "."))]
    return {NO_LABELS: without, NO_IMAGE: orphans}


def unnamed_pictures(image_folder: str | Path, paths: Iterable[str], whole: bool) -> dict[str, list[Path]]:
    """
    What is left over of the folder of a COCO file's pictures.

    Args:
        image_folder (Path). paths (list[str]): of the pictures that the file names.
        whole (bool): look through all of the image folder, else only where named pictures lie, as other parts of the
            data set are in it too.

    Returns:
        dict: UNNAMED -> pictures. NO_PICTURE -> files with another suffix.
    """
    named = {os.path.normpath(path) for path in paths}
    if whole:
        files = visible_below(image_folder, strict=False)
    else:
        folders = {os.path.dirname(path) for path in named}
        files = [Path(folder, name) for folder in sorted(folders) for name in sorted(file_names(folder))]
    pictures, others = sort_out(path for path in files if os.path.normpath(path) not in named)
    return {UNNAMED: pictures, NO_PICTURE: others}


def in_a_line(left_over: Mapping[str, Sequence[Path]]) -> str:
    """What is left over as a text. Empty where nothing is."""
    parts = []
    for what, paths in left_over.items():
        if paths:
            parts.append(f"{len(paths)} {what} ({some_of(paths, 3, str)})")
    return "; ".join(parts)
