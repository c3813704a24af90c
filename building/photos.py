"""The photos that are built from: those of a plain folder, listed in a COCO file without boxes, or a data set."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from decodetr.annotations.layouts import KINDS
from decodetr.annotations.left_over import SOME_OF_FOLDER, pictures_below
from decodetr.annotations.sources import has_part, kind_of, load_annotations
from decodetr.utils.documents import read_json, read_text
from decodetr.utils.files import committed, limit, write_json
from decodetr.utils.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, image_header, open_image
from decodetr.utils.limits import MAX_PIXELS, MAX_PIXELS_VARIABLE
from decodetr.utils.markup import one_line

logger = logging.getLogger(__name__)

FOLDER = "photos"  # in OUT/data: a link to the folder of the user
LEARNED, KEPT, SAMPLE, UNREADABLE = "learned.json", "kept.json", "sample.json", "unreadable.json"
KEPT_SHARE, MOST_KEPT = 0.1, 200  # photos that are kept aside, to calibrate the scores on
MOST_SAMPLED = 60  # photos whose captions say how much the detector finds
_CONVERT = "convert .heic, .dng and the like to JPEG"
_IN_FILES = tuple(kind for kind in KINDS if kind not in ("images", "datasets"))  # data sets of annotated picture files
_OBJECT = "object"  # the one category as long as names are not known


def has_boxes(images: str | Path) -> bool:
    """Whether `images` is a data set with annotated training images, and not a folder of photos.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it is recognised.
    """
    if _is_list(images):
        return False
    try:
        kind = kind_of(images)
        learned = kind != "images" and has_part(images, "train")
    except FileNotFoundError as error:
        if not os.path.isdir(images):
            no_file = not os.path.exists(images)
            there, more = ("no such folder", error) if no_file else ("a file of another kind", "docs/data.md")
            raise FileNotFoundError(
                f"--images {images}: {there}; expected a folder of photos, a .txt file with a path a line, or a data "
                f"set ({more})"
            ) from error
        if _unread(images):
            find_photos(images)  # says what to do with them
        raise
    if kind == "images":
        return False
    if not learned:
        logger.warning(
            "--images %s: a data set without training images: all its pictures count as photos, and its boxes are not "
            "used",
            images,
        )
        return False
    coco = load_annotations(images, "train", check_images=False)
    if len(coco.annotations_by_image.column("id", crowds=False)):
        return True
    if kind in _IN_FILES:
        logger.warning(
            "--images %s: a data set whose training images have no boxes: they alone count as photos, and those of "
            "its other parts are not looked at",
            images,
        )
    return False


def find_photos(images: str | Path) -> list[Path]:
    """The pictures below a folder, sorted; those that a .txt file lists, one a line, beginning in its folder; or the
    training images of a data set, as a later evaluation is to measure on others.

    Raises:
        FileNotFoundError: there are none, or a file of the list is missing. ValueError: training images lie outside of
            their data set.
    """
    if _is_list(images):
        return _listed(Path(images))
    if _has_training_part(images):
        return _training_images(images)
    pictures, others = pictures_below(images)
    if not pictures:
        some = ", ".join(sorted(path.name for path in others)[:5]) or "nothing else"
        mend = f"; {_CONVERT}" if _unread(images) else ""
        raise FileNotFoundError(
            f"--images {images}: expected pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in it or its sub-folders, "
            f"got none (there is {some}){mend}"
        )
    return pictures


def photos_to_learn(images: str | Path) -> list[Path]:
    """[`find_photos`], after it was seen that they are enough, which costs the opening of two.

    Raises:
        FileNotFoundError: as of `find_photos`. ValueError: fewer than two can be read.
    """
    paths = find_photos(images)
    check_enough(images, len(list(islice((path for path in paths if can_be_read(open_image, path)), 2))))
    return paths


def check_enough(images: str | Path, readable: int) -> None:
    """ValueError unless there is a photo to learn from besides one that is kept aside."""
    if readable < 2:
        raise ValueError(f"--images {images}: expected at least two pictures that can be read, got {readable}")


def kept_aside(photos: int) -> int:
    """How many of the photos are kept aside."""
    return min(max(round(KEPT_SHARE * photos), 1), MOST_KEPT)


def can_be_read(read: Callable[..., object], *given: object) -> bool:
    """Whether a picture can be read by a function, of what it is given."""
    try:
        read(*given)
    except (OSError, ValueError):
        return False
    return True


def listed_otherwise(photos: Iterable[Path], root: Path, folder: Path) -> list[Path]:
    """Photos that [`write_photos`] has listed in FOLDER and would leave out now, or has left out and would list, as
    with another limit of pixels. Costs the opening of those that were left out, and of very large ones.

    Args:
        photos, root: of [`find_photos`] and [`photos_root`].
    """
    pixels = {entry["file_name"]: entry["width"] * entry["height"] for entry in photos_of(folder, "train.json")}
    least = limit(MAX_PIXELS_VARIABLE, MAX_PIXELS // 2)  # the lowest limit, whatever the format
    found = []
    for path in photos:
        listed = pixels.get(_place(path, root))
        if listed is None:
            other = can_be_read(open_image, path)
        else:
            other = listed > least and not can_be_read(image_header, path)
        if other:
            found.append(path)
    return found


def _place(path, root):
    return Path(os.path.abspath(path)).relative_to(root).as_posix()


def photos_root(images: str | Path) -> Path:
    """The folder in which all photos lie: the given one, that of the file which describes a data set, or what the
    files of a list have in common."""
    if not _is_list(images):
        place = Path(os.path.abspath(images))
        return place.parent if place.is_file() else place
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in find_photos(images)]))


def _has_training_part(images):
    """Whether training images are told from others."""
    try:
        return kind_of(images) in _IN_FILES and has_part(images, "train")
    except FileNotFoundError:  # nothing that is recognised: photos in unread forms, or none
        return False


def _training_images(images):
    root = photos_root(images)
    coco = load_annotations(images, "train", check_images=False)
    found = sorted({Path(os.path.abspath(image["path"])) for image in coco.images})
    if other := next((path for path in found if not path.is_relative_to(root)), None):
        raise ValueError(
            f"--images {images}: {other}, a training image, lies outside of it; give a .txt file with a path a line"
        )
    return found


def _unread(images):
    """The pictures below a folder in forms that are not read."""
    others = [] if _is_list(images) or not Path(images).is_dir() else pictures_below(images)[1]
    return [path for path in others if path.suffix.lower() in UNREAD_SUFFIXES]


def _is_list(images):
    return Path(images).suffix.lower() == ".txt" and Path(images).is_file()


def _listed(file):
    """The pictures of a list, each once."""
    found = {}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = file.parent / line.strip()
        if not path.is_file():
            raise FileNotFoundError(
                f"--images {file}, line {number}: {path}: no such file; correct or remove the line"
            )
        found[os.path.abspath(path)] = path
    if not found:
        raise FileNotFoundError(f"--images {file}: expected a picture's path a line, got none")
    return list(found.values())


def write_photos(images: str | Path, folder: Path) -> dict[str, int]:
    """List the photos of a folder, in FOLDER/annotations: train.json all that can be read, learned.json those that
    are learned from, kept.json the others, sample.json some of all. unreadable.json says what cannot be read, and why.

    Args:
        images: folder of photos, or a list. folder (Path): OUT/data.

    Returns:
        dict: counts of "photos", "kept" and "unreadable".

    Raises:
        FileNotFoundError: no pictures. ValueError: fewer than two can be read, or links cannot be made.
    """
    root, entries, unreadable = photos_root(images), [], []
    for path in tqdm(find_photos(images), desc="reading the photos", unit="photo"):
        try:
            picture = open_image(path)
        except (OSError, ValueError) as error:
            unreadable.append({"file": str(path), "error": str(error)})
            continue
        place = _place(path, root)
        entries.append({"id": len(entries) + 1, "file_name": place, "width": picture.width, "height": picture.height})
    unread = [] if _has_training_part(images) else _unread(images)  # of a data set its reader says it
    if unread:
        forms = ", ".join(sorted({path.suffix.lower() for path in unread}))
        logger.warning("left out: %d photos in forms that are not read (%s); %s", len(unread), forms, _CONVERT)
    for problem in unreadable[:5]:
        logger.warning("left out: %s", problem["error"])
    if len(unreadable) > 5:
        logger.warning("%d photos are left out; %s names all", len(unreadable), one_line(folder / UNREADABLE))
    unreadable += [{"file": str(path), "error": f"{path}: {path.suffix} is not read; {_CONVERT}"} for path in unread]
    check_enough(images, len(entries))
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0)).tolist()
    kept = set(order[: kept_aside(len(entries))])
    parts = {
        "train.json": entries,
        LEARNED: [entry for number, entry in enumerate(entries) if number not in kept],
        KEPT: [entry for number, entry in enumerate(entries) if number in kept],
        SAMPLE: [entries[number] for number in sorted(order[:MOST_SAMPLED])],
    }
    folder.mkdir(parents=True, exist_ok=True)
    link_photos(images, folder)
    with committed(folder) as staging:
        for name, some in parts.items():
            write_json(staging / "annotations" / name, coco_document(some, (_OBJECT,)), indent=None)
        write_json(staging / UNREADABLE, unreadable)
    return {"photos": len(entries), "kept": len(kept), "unreadable": len(unreadable)}


def coco_document(
    images: Iterable[dict[str, Any]], names: Sequence[str], annotations: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """A COCO document over the photos of OUT/data.

    Args:
        images: its entries. names: of the categories 1, 2, ... annotations: its rows.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {
        "info": {"description": "photos of decodetr build", "image_folder": FOLDER, SOME_OF_FOLDER: True},
        "images": list(images),
        "annotations": list(annotations),
        "categories": categories,
    }


def photos_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The image entries of OUT/data/annotations/NAME."""
    return read_json(folder / "annotations" / name, dict)["images"]


def link_photos(images: str | Path, folder: Path) -> None:
    """Make FOLDER/photos, of OUT/data, lead to the folder of the photos, wherever an earlier one led. A data set names
    no files outside of its folder; what a link in it leads to counts as inside.

    Raises:
        ValueError: links cannot be made there.
    """
    place, root = folder / FOLDER, photos_root(images).resolve()
    try:
        if place.is_symlink() and place.readlink() == root:
            return
        place.unlink(missing_ok=True)
        place.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise ValueError(
            f"{place}: a link to {root} cannot be made here ({error}); give an --output on a file system with links"
        ) from error
