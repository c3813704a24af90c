"""Where annotations come from: what annotation tools export, or a data set of `datasets`. One form for all.

`datasets` takes seconds to import, and only its own data sets need it: it is imported where one is opened.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.box_style import doubts
from decodetr.annotations.coco import CocoAnnotations, data_folder, find_image_folder
from decodetr.annotations.coco_mending import file_name_of
from decodetr.annotations.cvat import read_cvat
from decodetr.annotations.formats import DATA_HELP, PARTS
from decodetr.annotations.hub_dataset import picture_paths, read_dataset
from decodetr.annotations.image_folder import read_image_folder
from decodetr.annotations.label_studio import read_label_studio
from decodetr.annotations.labelme import read_labelme
from decodetr.annotations.layouts import (
    KINDS,
    Layout,
    annotated_below,
    find_layout,
    found_parts,
    not_recognised,
    part_named,
)
from decodetr.annotations.left_over import NO_PICTURE, NO_ROW, UNNAMED, in_a_line, pictures_below
from decodetr.annotations.pascal_voc import read_pascal_voc
from decodetr.annotations.stream import AnnotationStream
from decodetr.annotations.yolo import read_yolo
from decodetr.utils.documents import decoded, parse_json
from decodetr.utils.excerpts import some_of

if TYPE_CHECKING:
    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)

# What the parts are called in data sets of the Hub.
_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid"), "test": ("test",)}
_SHARDS = 64  # of a saved data set that is streamed. The same whatever the number of processes
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def load_annotations(
    data: str | Path | None,
    part: str,
    file: str | Path | None = None,
    images: str | Path | None = None,
    *,
    class_names: list[str] | None = None,
    box_format: str = "coco",
    check_images: bool = True,
    findings: Findings | None = None,
    boxes: bool = True,
) -> CocoAnnotations:
    """
    The annotations of a part of a data set.

    Args:
        data: a folder in a form of docs/data.md, such as COCO's, or the file that describes it (data.yaml, CVAT's
            annotations.xml, an export of Label Studio), a folder that `datasets` can read, or a data set on the Hub,
            "NAME" or "NAME:CONFIG"; None where `file` is given.
        part (str): "train", "val" or "test".
        file: a COCO annotation file, wherever it lies. `data` is not looked at then.
        images: the folder of the pictures, where they are not those of the data set. Not of YOLO and `datasets`.
        class_names, box_format: see [`read_dataset`], which alone needs them.
        check_images (bool): the pictures must be there.
        findings (Findings, optional): of any form but COCO's: is told of what cannot be used, which is left out then.
            Default: the first such thing is an error.
        boxes (bool): without them, a folder of pictures is taken too. It has no names.

    Returns:
        CocoAnnotations.

    Raises:
        FileNotFoundError: nothing of the kind. ValueError: what the reader refuses.
    """
    coco = _load(data, part, file, images, class_names, box_format, check_images, findings)
    bare = False
    if file is None and data is not None and not coco.names:
        bare = kind_of(data) == "images"
        if bare and boxes and findings is None:
            raise ValueError(without_boxes(data))
        if bare and findings is None and (inner := annotated_below(data)):
            logger.warning("%s: pictures without boxes%s", data, _are_data_sets(inner))
    for what, found in (("images", coco.images), ("names", coco.names or bare)):
        if not found:
            raise ValueError(f"{coco.file}: expected {what}, got none; is it the right file?")
    if findings is None and (said := _doubts(coco)):
        logger.warning("%s: %s; `decodetr validate %s --repair DIR` mends a copy", coco.file, said, data or file)
    if UNNAMED in coco.left_over:
        coco.left_over = of_no_part(coco.left_over, coco.file, images)
    if findings is None and (unused := in_a_line(coco.left_over)):
        logger.warning("%s: not used: %s", coco.file, unused)
    return coco


# What a COCO file says of where its pictures are. A large one is parsed in minutes, and searched in a second.
_OF_PICTURES = re.compile(rb'"(file_name|coco_url|image_folder)"\s*:\s*("(?:[^"\\]|\\.)*")')


def of_no_part(
    left_over: Mapping[str, Sequence[Path]], file: Path, images: str | Path | None = None
) -> dict[str, Sequence[Path]]:
    """What is left over of the pictures of a COCO file, without those that another annotation file of its data set
    names: images/ may have the training and the validation pictures.

    Args:
        left_over (dict): as of `unnamed_pictures`. file: the COCO file.
        images (*optional*): the folder of the pictures, where the user gave one.
    """
    if not (pictures := left_over.get(UNNAMED)):
        return dict(left_over)
    layout, named = find_layout(data_folder(file)), set()
    others = {other for files in layout.parts.values() for other in files} if layout.kind == "coco" else set()
    for other in others:
        if os.path.realpath(other) != os.path.realpath(file):
            named |= _named_pictures(other, images)
    return {**left_over, UNNAMED: [path for path in pictures if os.path.normpath(path) not in named]}


def _named_pictures(file, images):
    """Paths of the pictures that a COCO file names. None of one that is damaged: who reads it says so."""
    found: dict[bytes, list[bytes]] = {b"file_name": [], b"coco_url": [], b"image_folder": []}
    try:
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for key, text in (match.groups() for match in _OF_PICTURES.finditer(content)):
                found[key].append(text)
        names, urls, folders = (
            parse_json(decoded(b"[" + b",".join(texts) + b"]", file), file, list) for texts in found.values()
        )
        names = names or [name for url in urls if (name := file_name_of({"coco_url": url}))]
        document = {"images": [{"file_name": name} for name in names[:1]], "info": {}}
        if folders:
            document["info"] = {"image_folder": folders[0]}
        folder = find_image_folder(file, document, images, check=False)
    except (OSError, ValueError):
        return set()
    return {os.path.normpath(os.path.join(folder, name)) for name in names}


def _doubts(coco):
    """What speaks against the boxes of a data set."""
    index = coco.annotations_by_image
    sizes = np.array([(image["width"], image["height"]) for image in coco.images], dtype=np.float64)
    return doubts(index.column("bbox"), sizes[index.image_rows])


def _load(data, part, file, images, class_names, box_format, check_images, findings):
    if file is not None:
        if Path(file).suffix.lower() in (".yaml", ".yml", ".xml"):
            raise ValueError(f"{file}: expected an annotation file of COCO (.json); of other forms give --data {file}")
        return CocoAnnotations.load(file, images, check_images)
    layout = _layout(data)
    if layout.kind == "datasets":
        coco = read_dataset(*_load_split(data, part, False), class_names, box_format, findings, _folders(data))
        if os.path.isdir(data):
            coco.left_over = _of_no_row(data)
        return coco
    if layout.kind == "coco":
        return CocoAnnotations.load(coco_file(data, part), images, check_images)
    place = _place(data, layout, part)
    if findings is None and layout.kind in ("cvat", "label_studio") and layout.others and not layout.subsets:
        logger.warning("%s: exports that are in no part, not read: %s", data, some_of(layout.others, say=str))
    if layout.kind == "yolo":
        return read_yolo(place, part, findings)
    if layout.kind == "images":
        return read_image_folder(place, findings)
    if layout.kind == "cvat":
        others = layout.others if layout.subsets else ()
        return read_cvat(place, layout.subsets.get(part), others, images, check_images, findings)
    if layout.kind == "label_studio":
        return read_label_studio(place, images, check_images, findings)
    if place.is_file():
        return read_pascal_voc(layout.files, data, images, check_images, findings, place)
    files = layout.members.get(part) or [file for file in layout.files if file.is_relative_to(place)]
    if layout.kind == "voc":
        others = layout.files if layout.members else ()  # folders of their own may be of another program
        coco = read_pascal_voc(files, place, images, check_images, findings, others=others)
    else:
        coco = read_labelme(files, place, images, check_images, findings)
    if layout.members:  # pictures of other parts are left over of none
        kept = {what: [path for path in paths if _is_in(path, data, part)] for what, paths in coco.left_over.items()}
        coco.left_over = kept
    return coco


def _of_no_row(data):
    """What is left over in the folder of a data set of `datasets`: files that no row of any split names, where rows
    name files at all, as those of an ImageFolder do."""
    pictures, others = pictures_below(data)
    if not pictures:
        return {}
    splits, load = _dataset(data)
    named = {os.path.realpath(path) for split in splits for path in picture_paths(load(split, False)) if path}
    rest = [path for path in pictures if os.path.realpath(path) not in named]
    return {NO_ROW: rest, NO_PICTURE: others} if len(rest) < len(pictures) else {}


def _is_in(path, data, part):
    """Whether no folder that a file of a data set is in is called as another part."""
    folders = Path(os.path.relpath(path, data)).parts[:-1]
    return all(part_named(word) in (None, part) for word in folders)


def _layout(data):
    """The layout of a data set. Of a name of the Hub: that of `datasets`.

    Raises:
        FileNotFoundError: there is no such folder, and it is no name of the Hub, or nothing in it is recognised.
    """
    if not os.path.exists(data) and Path(data).suffix not in (".yaml", ".yml"):
        if not _HUB_NAME.fullmatch(str(data)):
            raise FileNotFoundError(f"{data}: no such folder; expected a {DATA_HELP}")
        return Layout("datasets")
    layout = find_layout(data)
    if not layout.kind:
        raise FileNotFoundError(not_recognised(data))
    return layout


def _place(data, layout, part):
    """Where a part is.

    Raises:
        FileNotFoundError: nowhere. ValueError: several files can be it.
    """
    places = layout.parts.get(part, [])
    if not places:
        if layout.kind == "yolo" and not layout.parts:
            raise FileNotFoundError(
                f"{data}: expected the folders of the images in its YAML file, got names alone; write "
                f"`{part}: images/{part}`, or wherever its images are, into it"
            )
        there = "; ".join(f"{name}: {', '.join(map(str, found))}" for name, found in layout.parts.items())
        raise FileNotFoundError(
            f"{data}: {KINDS[layout.kind]} without a part {part!r}; it has {there or 'none'}. Hold a share of the "
            "training images back (`decodetr train --val-share 0.1`), evaluate another part (`decodetr eval --part`), "
            "or name the annotation file"
        )
    if len(places) > 1:
        raise ValueError(
            f"{data}: several files can be the part {part!r}: {', '.join(map(str, places))}; take the others away, or "
            f"call them {', '.join(PARTS)}; an annotation file of COCO can be given by its own option"
        )
    return places[0]


def without_boxes(data: str | Path) -> str:
    """The message where a folder of pictures is given and boxes are needed."""
    labels = any(path.is_dir() for place in ("labels", "*/labels") for path in Path(data).glob(place))
    yolo = "; there are labels as YOLO has them, but no data.yaml with their names" if labels else ""
    return (
        f"{data}: expected annotated images, got pictures without boxes ({found_parts(data)}){yolo}"
        f"{_are_data_sets(annotated_below(data))}. Annotate them, or take `decodetr pool build` or `predict`: "
        "they need no boxes"
    )


def _are_data_sets(folders):
    """That folders in the folder are data sets themselves."""
    return "".join(f"; {path} is {KINDS[kind]}: is it meant?" for path, kind in folders)


def load_stream(
    data: str | Path, part: str, *, class_names: list[str] | None = None, box_format: str = "coco"
) -> AnnotationStream:
    """
    The same of a data set of `datasets`, streamed: an `AnnotationStream`.

    Raises:
        FileNotFoundError: nothing of the kind. ValueError: another form, or what the reader refuses.
    """
    kind = kind_of(data)
    if kind != "datasets":
        raise ValueError(
            f"{data}: expected a data set of `datasets` to stream, got {KINDS[kind]}, whose images are read from disk "
            "one by one anyway; leave out --streaming"
        )
    dataset, name = _load_split(data, part, streaming=True)
    return AnnotationStream(dataset, name, class_names, box_format, _folders(data))


def has_part(data: str | Path, part: str) -> bool:
    """Whether a data set has a part."""
    layout = find_layout(data) if os.path.isdir(data) else _layout(data)
    if layout.kind == "datasets":
        return _split_of(_dataset(data)[0], part) is not None
    return part in layout.parts


def part_to_evaluate(data: str | Path | None) -> str:
    """The part that a data set is evaluated on where nobody names one: "val", or the only one that it has, which is
    said."""
    if data is None or has_part(data, "val"):
        return "val"
    there = [part for part in PARTS if has_part(data, part)]
    if len(there) != 1:
        return "val"  # which the reader misses, and says what there is
    logger.warning("%s: no part 'val'; %s, the only one, is evaluated", data, there[0])
    return there[0]


def check_part(data: str | Path, part: str) -> None:
    """Check, without reading it, that a data set has a part with boxes.

    Raises:
        FileNotFoundError: there is nothing of the kind. ValueError: pictures without boxes, or several files can be
            the part.
    """
    kind = kind_of(data)
    if kind == "images":
        raise ValueError(without_boxes(data))
    if kind == "coco":
        coco_file(data, part)
    elif kind != "datasets":
        _place(data, _layout(data), part)
    elif not has_part(data, part):
        raise ValueError(f"{data}: it has no part {part!r}")


def part_names(data: str | Path, parts: Collection[str]) -> list[str]:
    """What a data set has besides some parts: parts, names of folders of images, of subsets, or of splits."""
    layout = _layout(data)
    if layout.kind == "datasets":
        splits = _dataset(data)[0]
        return [split for split in splits if split not in {_split_of(splits, part) for part in parts}]
    return [part for part in layout.parts if part not in parts] + layout.others


def kind_of(data: str | Path) -> str:
    """What form a data set has: a word of `layouts.KINDS`, such as "coco", "yolo" or "datasets".

    Raises:
        FileNotFoundError: there is no such folder, and it is no name of the Hub, or nothing in it is recognised.
    """
    return _layout(data).kind


def coco_file(data: str | Path, part: str) -> Path:
    """The annotation file of a part of a COCO folder.

    Raises:
        FileNotFoundError: it has no such part. ValueError: several files can be it, or it is a file itself.
    """
    if os.path.isfile(data):
        raise ValueError(f"{data}: expected a folder, got a file; an annotation file of COCO has an option of its own")
    return _place(data, _layout(data), part)


def _dataset(data):
    """(names of the splits, what loads or streams one) of a data set that is saved, local files, or on the Hub."""
    import datasets

    folder, (name, _, config) = Path(data), str(data).partition(":")
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # a damaged folder: a dozen types
            raise ValueError(
                f"{folder}: expected what `Dataset.save_to_disk` writes, got {type(error).__name__}: {error}; save it "
                "again"
            ) from error
        saved = {"train": saved} if isinstance(saved, datasets.Dataset) else saved
        return list(saved), lambda split, streaming: _stream(saved[split]) if streaming else saved[split]
    name, config = (str(data), None) if folder.exists() else (name, config or None)
    try:
        splits = datasets.get_dataset_split_names(name, config)
    except Exception as error:  # offline, unknown, or nothing that datasets can read: a dozen types
        raise FileNotFoundError(f"{data}: expected a {DATA_HELP}; datasets says: {error}") from error
    return splits, lambda split, streaming: datasets.load_dataset(name, config, split=split, streaming=streaming)


def _stream(dataset):
    """A saved data set as a stream. It has no files to deal out to processes and workers: they are made here."""
    return dataset.with_format(None).to_iterable_dataset(num_shards=max(1, min(_SHARDS, len(dataset))))


def _folders(data):
    """Where images of a data set of `datasets` may lie: in its folder, and where the Hub's files are kept."""
    import datasets
    from huggingface_hub import constants

    caches = [datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]
    return [data, *caches] if os.path.exists(data) else caches


def _load_split(data, part, streaming):
    """(data set of `datasets`, its name for messages)."""
    splits, load = _dataset(data)
    split = _split_of(splits, part)
    if split is None:
        raise ValueError(f"{data}: expected a split called {' or '.join(_SPLITS[part])}, got {', '.join(splits)}")
    try:
        return load(split, streaming), f"{data} ({split})"
    except Exception as error:  # damaged files, no network: a dozen types
        raise ValueError(
            f"{data} ({split}): expected a data set that `datasets` can read, got {type(error).__name__}: {error}"
        ) from error


def _split_of(splits, part):
    return next((split for split in _SPLITS[part] if split in splits), None)
