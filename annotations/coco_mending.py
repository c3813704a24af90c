"""What a COCO document means although it is not written so, for training and `decodetr validate` alike.

Only what has one meaning: ids and sizes that are texts, sizes that are missing, files in another spelling, boxes that
CVAT says are turned, and the root that Roboflow puts above the categories.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decodetr.annotations.box_style import is_box, polygon_points
from decodetr.annotations.federated_lists import LISTS, with_lists
from decodetr.annotations.turned_shapes import around, turned_corners
from decodetr.annotations.written_paths import find_written
from decodetr.utils.excerpts import short
from decodetr.utils.images import image_header, upright_size
from decodetr.utils.paths import inside

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from decodetr.annotations.findings import Findings

_IDS = {"images": ("id", "width", "height"), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
_NO_INTEGERS = "ids and sizes that are texts, or numbers with a point"
# COCO's own evaluation overwrites the field by iscrowd. LVIS' and MMDetection obey it.
_IGNORED = 'annotations with "ignore", which are objects here; write "iscrowd": 1 for what is to be ignored'
_WHOLE = re.compile(r"-?\d{1,18}")


def mend(document: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """The document with ids and sizes as numbers, with boxes around turned ones, without a root category. What is not
    mended stays the same object.

    Args:
        document (dict): with lists of dicts under images, annotations and categories.
        findings (Findings): is told of it, by warnings.
    """
    document = dict(document)
    for key, fields in _IDS.items():
        document[key] = _with_numbers(key, document[key], fields, findings)
    document["images"] = _with_numbers_listed(document["images"], findings)
    document["annotations"] = _with_extents(document["annotations"], findings)
    for row, entry in enumerate(document["annotations"]):
        if entry.get("ignore"):
            findings.add("warning", _IGNORED, f"annotations[{row}] (id {short(entry.get('id'))})")
    document["categories"] = _without_root(document, findings)
    return document


def degrees_turned(entry: dict[str, Any]) -> float:
    """By how much the box of an annotation is turned, clockwise around its center. CVAT and Datumaro write it as an
    attribute, and as `bbox` the box before."""
    attributes = entry.get("attributes")
    degrees = attributes.get("rotation") if isinstance(attributes, dict) else None
    if isinstance(degrees, bool) or not isinstance(degrees, int | float) or not math.isfinite(degrees):
        return 0.0
    return degrees % 360


def file_name_of(entry: dict[str, Any]) -> str | None:
    """The file of an image's entry. Of LVIS, which has none, the end of its URL: train2017/000000000001.jpg. None
    without either."""
    file_name = entry.get("file_name")
    if file_name is None and isinstance(entry.get("coco_url"), str):
        file_name = "/".join(entry["coco_url"].split("/")[-2:])
    return file_name if isinstance(file_name, str) and file_name else None


def mend_files(entries: list[dict[str, Any]], folder: str | Path, findings: Findings) -> list[dict[str, Any]]:
    """Entries of images with the files of a folder that they mean in another spelling."""
    names = [file_name_of(entry) for entry in entries]
    found = find_written(folder, [name for name in names if name])
    entries = list(entries)
    for row, name in enumerate(names if found else ()):
        if name in found:
            what = "files in another spelling"
            findings.add("warning", what, f"images[{row}]: {name!r} is {found[name]!r}", "as they are in the folder")
            entries[row] = {**entries[row], "file_name": found[name]}
    return entries


def mend_sizes(
    entries: list[dict[str, Any]], folders: Sequence[str | Path], findings: Findings
) -> list[dict[str, Any]]:
    """Entries of images with the sizes of their pictures, as EXIF turns them, where they have none; "size_declared" is
    then False. `folders`: that the pictures may lie in, see [`inside`]."""
    entries = list(entries)
    for row, entry in enumerate(entries):
        given, name = [entry.get(side) for side in ("width", "height")], file_name_of(entry)
        if not name or all(given):
            continue
        try:
            size = upright_size(*image_header(inside(folders, name, f"images[{row}]")))
        except (OSError, ValueError):  # said of the picture
            continue
        if any(side and side != true for side, true in zip(given, size)):
            continue
        what = "images without width and height"
        findings.add("warning", what, f"images[{row}]: {name}, {given}", "those of the picture")
        entries[row] = {**entry, "width": size[0], "height": size[1], "size_declared": False}
    return entries


def _with_numbers(key, entries, fields, findings):
    """Entries with texts such as "12", and ids such as 12.0, as the number 12."""
    for field in fields:
        if all(type(entry.get(field)) is int for entry in entries):
            continue
        entries = list(entries)
        for row, entry in enumerate(entries):
            value = entry.get(field)
            if type(value) is int or (number := whole_number(value)) is None:
                continue
            if not (type(value) is float and field in ("width", "height")):
                findings.add("warning", _NO_INTEGERS, f"{key}[{row}]: {field} {short(value)}", "whole numbers")
                entries[row] = {**entry, field: number}
    return entries


def _with_numbers_listed(images, findings):
    """The same of LVIS' lists of category ids."""

    def numbers(row):
        def change(key, values):
            found = [whole_number(value) for value in values]
            if all(type(value) is int or number is None for value, number in zip(values, found)):
                return values
            findings.add("warning", _NO_INTEGERS, f"images[{row}]: {key} {short(values)}", "whole numbers")
            return [value if number is None else number for value, number in zip(values, found)]

        return change

    return [with_lists(entry, numbers(row)) for row, entry in enumerate(images)]


def whole_number(value: object) -> int | None:
    """The whole number that a value means as an id, be it a number, a text such as "12", or 12.0. None for others."""
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    if isinstance(value, str):
        return int(value) if value.isascii() and _WHOLE.fullmatch(value) is not None else None
    return value if type(value) is int else None


def _with_extents(annotations, findings):
    """Annotations with the box around a turned one, or around the polygons of an object that has some: those lie where
    they are drawn. What is mended is not turned any more. `area` is that of the object, and stays."""
    turned = [row for row, entry in enumerate(annotations) if degrees_turned(entry)]
    annotations = list(annotations) if turned else annotations
    for row in turned:
        entry = annotations[row]
        box, degrees = entry.get("bbox"), degrees_turned(entry)
        if not is_box(box) or min(box[2:]) <= 0:
            continue  # said of the box
        x, y, w, h = box
        points = polygon_points(entry.get("segmentation")) or turned_corners([x, y, x + w, y + h], degrees)
        findings.add(
            "warning", "boxes that are turned", f"annotations[{row}]: {short(box)} by {degrees:g}", "the box around it"
        )
        still = {**entry["attributes"], "rotation": 0.0}
        annotations[row] = {**entry, "bbox": around(points), "attributes": still}
    return annotations


def _without_root(document, findings):
    """Categories but for one that only stands above all others: it is their supercategory, and neither an annotation
    nor a list of LVIS has it.

    Its own supercategory is nothing: a name that means something, such as COCO's `person`, is in a group.
    """
    categories = document["categories"]
    for row, root in enumerate(categories if len(categories) > 1 else ()):
        name = root.get("name")
        if not name or root.get("supercategory") not in (None, "", "none", "None", "root"):
            continue
        others = categories[:row] + categories[row + 1 :]
        if not all(entry.get("supercategory") == name for entry in others):
            continue
        if not any(root.get("id") == entry.get("category_id") for entry in document["annotations"]) and not any(
            root.get("id") in values
            for entry in document["images"]
            for key in LISTS
            if isinstance(values := entry.get(key), list)
        ):
            what = "categories that are no name of objects, but stand above all others and have no annotation"
            findings.add("warning", what, f"categories[{row}] (id {short(root.get('id'))}): {short(name)}", "left out")
            return others
    return categories
