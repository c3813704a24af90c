"""YOLO data sets: data.yaml, images, and a text file of boxes for each, read into `CocoAnnotations`.

A row is `class cx cy w h`, or a polygon or a pose, whose box is taken (yolo_labels.py). An image without a text file
has no objects.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco import AnnotationIndex, CocoAnnotations
from decodetr.annotations.coco_checks import is_name
from decodetr.annotations.findings import FirstError
from decodetr.annotations.left_over import NO_LABELS, NO_PICTURE, pictures_below, unused_labels
from decodetr.annotations.written_paths import find_written
from decodetr.annotations.yolo_labels import declared_format, read_label_files
from decodetr.utils.documents import read_text
from decodetr.utils.excerpts import short, some_of
from decodetr.utils.images import image_header, upright_size
from decodetr.utils.paths import file_names, inside
from decodetr.utils.yaml_documents import read_yaml

if TYPE_CHECKING:
    from typing import Any

    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)


NAMES_ALONE = "classes.txt"  # names in lines: what Label Studio and LabelImg write instead of data.yaml
_PART_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_yolo(file: str | Path, part: str, findings: Findings | None = None) -> CocoAnnotations:
    """
    One part of a YOLO data set.

    Args:
        file: data.yaml, with `names` (list, or {number: name}) and for each part a folder of images, a list of such,
            or a text file with a path in each line. Relative to `path`, if given, else to the file. Without a part,
            and classes.txt: next to `images` and `labels`, whose pictures are all "train".
        part (str): "train", "val" or "test".
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.

    Returns:
        CocoAnnotations: category ids are the class numbers, images are numbered from 1 in the order of their paths,
        annotations in the order of their lines.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: anything else. The message names file and line.
    """
    file, told = Path(file), FirstError() if findings is None else findings
    config = read_data_yaml(file)
    names, declared = _names(file, config), declared_format(file, config)
    (paths, others), images = _image_paths(file, config, part, told), []
    labels = _label_files(paths, told)
    left_over = {**unused_labels(labels), NO_PICTURE: others}
    if paths and len(left_over[NO_LABELS]) == len(paths):
        raise ValueError(
            f"{file}: {part}: none of the {len(paths)} pictures has a label file; expected {labels[paths[0]]} "
            f"for {paths[0]}, and so on"
        )
    for path in paths:
        try:
            width, height = _size(path)
        except FileNotFoundError as error:
            told.add("error", "images that are not there", str(error), "left out with their labels")
        except ValueError as error:
            told.add("error", "images that cannot be read", str(error), "left out with their labels")
        else:
            entry = {"image_id": len(images) + 1, "file_name": os.path.relpath(path, file.parent), "path": str(path)}
            images.append({**entry, "width": width, "height": height, "size_declared": False})
    files = [labels[Path(image["path"])] for image in images]
    rows, classes, boxes = read_label_files(files, len(names), file, declared, told)
    sizes = np.array([(image["width"], image["height"]) for image in images], dtype=np.float64).reshape(-1, 2)
    boxes = boxes * np.tile(sizes[rows], 2)
    index = AnnotationIndex(
        [image["image_id"] for image in images],
        rows,
        np.arange(1, len(rows) + 1),
        classes,
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.zeros(len(rows), dtype=np.int64),
    )
    if findings is None:
        told.warn(logger, f"{file} ({part})")
    coco = CocoAnnotations(file, file.parent, names, list(range(len(names))), images, index)
    coco.left_over = left_over
    return coco


def read_data_yaml(file: str | Path) -> dict[str, Any]:
    """What a data.yaml holds, a dict with `names`. Every value is the text that stands in the file. A classes.txt has
    the names in its lines. Where neither names a part, the pictures of `images` are the training part."""
    if Path(file).name == NAMES_ALONE:
        return {"names": read_text(file).strip().splitlines(), "train": "images"}
    try:
        config = read_yaml(file, texts=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such file; expected YOLO's data.yaml") from error
    if not isinstance(config, dict) or "names" not in config:
        raise ValueError(f"{file}: expected YOLO's data.yaml, with `names` and a folder for each part")
    return {**config, "train": "images"} if _is_of_one_folder(file, config) else config


def _is_of_one_folder(file, config):
    """Whether a data.yaml has the names alone, next to `images` and `labels`: what supervision writes. Folders of
    parts in `images` are not guessed."""
    images, keys = Path(file).parent / "images", [key for keys in _PART_KEYS.values() for key in keys]
    return (
        "nc" in config  # other YAML files have names too
        and not any(config.get(key) or (images / key).is_dir() for key in keys)
        and images.is_dir()
        and images.with_name("labels").is_dir()
    )


def is_data_yaml(file: str | Path) -> bool:
    """Whether a YAML file of any name is what data.yaml is: it has `names`, and images of a part."""
    try:
        config = read_data_yaml(file)
    except (OSError, ValueError):  # a recipe, or something else
        return False
    return any(part_of_yaml(config, part) for part in _PART_KEYS)


def part_of_yaml(config: dict[str, Any], part: str) -> str | None:
    """The key that a data.yaml has the images of a part under: that of `val` may be `valid`. None without them."""
    return next((key for key in _PART_KEYS[part] if config.get(key)), None)


def _names(file, config):
    names = config["names"]
    if isinstance(names, dict):
        if set(names) != {str(number) for number in range(len(names))}:
            raise ValueError(
                f"{file}: expected names numbered 0 to {len(names) - 1}, got {sorted(names, key=str)[:5]} ..."
            )
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{file}: expected `names` as a list or as {{number: name}}, got {short(names)}")
    for number, name in enumerate(names):
        if not is_name(name):
            raise ValueError(
                f"{file}: names: {number}: expected a name, got {'nothing' if name is None else short(name)}; write "
                "it, in quotes if it is a sign of YAML such as ~ or null"
            )
    if config.get("nc", str(len(names))) != str(len(names)):
        raise ValueError(f"{file}: expected nc names, {config['nc']!s:.80}, got {len(names)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{file}: expected different names, got {sorted(twice)[:5]} more than once; merge the classes"
        )
    return names


def _image_paths(file, config, part, findings):
    """([path of each picture of a part], files in its folders that are no pictures)."""
    if (key := part_of_yaml(config, part)) is None:
        parts = [name for name in _PART_KEYS if part_of_yaml(config, name)]
        raise ValueError(f"{file}: expected a folder under {part!r}; the file has {', '.join(parts) or 'no part'}")
    above = config.get("path") or ""
    entries = config[key] if isinstance(config[key], list) else [config[key]]
    for word, value in (("path", above), *((key, entry) for entry in entries)):
        if not isinstance(value, str):
            raise ValueError(f"{file}: {word}: expected the path of a folder or of a list, got {short(value)}")
    top, paths, others = file.parent, [], []
    for entry in entries:
        nearer = entry.removeprefix("../")  # as exported with a path that is one level too high
        places = [Path(above, entry), Path(above, nearer), Path(entry), Path(nearer)]
        place = next((place for place in places if os.path.exists(top / place)), None)
        if place is None:
            raise FileNotFoundError(
                f"{file}: {key}: no such folder or list of images: {os.path.normpath(top / places[1])}; correct "
                f"{'`path` or ' if above else ''}{key!r}, or take it away"
            )
        if place not in places[:2]:
            what, text = "`path` that leads to nothing", f"{file}: path: {above!r} has no {entry!r}"
            findings.add("warning", what, text, f"{place}, next to data.yaml")
        place = Path(inside([top], place, f"{file}: {key}"))
        if place.is_dir():
            pictures, rest = pictures_below(place)
            paths, others = [*paths, *pictures], [*others, *rest]
        else:
            paths += _listed(place, top, findings)
    return list(dict.fromkeys(paths)), others


def _listed(file, top, findings):
    """The pictures of a text file with a path in each line, all of them below the folder `top`."""
    lines = {number: line.strip() for number, line in enumerate(read_text(file).splitlines(), start=1) if line.strip()}
    found, paths = find_written(file.parent, lines.values()), []
    for number, line in lines.items():
        if line in found:
            what = "listed files in another spelling"
            findings.add("warning", what, f"{file}: {line!r} is {found[line]!r}", "as they are in the folder")
        try:
            paths.append(Path(inside([file.parent, top], found.get(line, line), f"{file}: line {number}")))
        except ValueError as error:
            findings.add("error", "images outside of the data set's folder", str(error), "left out with their labels")
    return paths


def _label_files(pictures, findings):
    """{picture: its label file}, in another spelling where it is there in no other."""
    expected, pictures_of = {picture: _label_file(picture) for picture in pictures}, {}
    labels = _as_spelled(expected)
    lacking = {picture for picture, label in labels.items() if not label.is_file()}
    folders = {folder for folder in {picture.parent for picture in lacking} if _has_texts(folder)}
    beside = _as_spelled({picture: picture.with_suffix(".txt") for picture in pictures if picture.parent in folders})
    labels |= {picture: label for picture, label in beside.items() if picture in lacking and label.is_file()}
    for picture, label in labels.items():
        if label.name != expected[picture].name:
            text = f"{picture}: {expected[picture].name!r} is {label.name!r}"
            findings.add("warning", "label files in another spelling", text, "as they are in the folder")
        pictures_of.setdefault(label, []).append(picture)
    for label, found in pictures_of.items():
        if len(found) > 1 and label.is_file():
            text = f"{label}: {some_of(found, 3, str)}"
            findings.add("warning", "label files of several pictures", text, "its boxes are put on each of them")
    return labels


def _has_texts(folder):
    return any(name.lower().endswith(".txt") for name in file_names(folder))


def _as_spelled(labels):
    """{picture: label file}, with the only file of the folder that each can be, in whatever spelling."""
    names = {}
    for label in labels.values():
        names.setdefault(label.parent, []).append(label.name)
    found = {folder: find_written(folder, names) for folder, names in names.items()}
    return {
        picture: label.parent / found[label.parent].get(label.name, label.name) for picture, label in labels.items()
    }


def _label_file(image):
    """images/ -> labels/ (the last such folder), the suffix -> .txt. Next to the image if it is only there."""
    beside, parts = image.with_suffix(".txt"), list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    label = Path(*parts).with_suffix(".txt")
    return beside if beside.is_file() and not label.is_file() else label


def _size(path):
    """(width, height) of a picture as EXIF turns it, from its header: labels are of what annotation tools show."""
    try:
        return upright_size(*image_header(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such image; correct the list or restore it") from error
