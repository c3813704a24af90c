"""What a COCO document means although it is not written so, for training and `decodetr validate` alike.

Only what has one meaning: ids and sizes that are texts, sizes that are missing, files in another spelling, and the
root that Roboflow puts above the categories.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from decodetr.annotations.written_paths import find_written
from decodetr.utils.excerpts import short
from decodetr.utils.images import image_header, upright_size
from decodetr.utils.paths import inside

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from decodetr.annotations.findings import Findings

_IDS = {"images": ("id", "width", "height"), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
_WHOLE = re.compile(r"-?\d{1,18}")


def mend(document: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """The document with ids and sizes as numbers, without a root category. What is not mended stays the same object.

    Args:
        document (dict): with lists of dicts under images, annotations and categories.
        findings (Findings): is told of it, by warnings.
    """
    document = dict(document)
    for key, fields in _IDS.items():
        document[key] = _with_numbers(key, document[key], fields, findings)
    document["categories"] = _without_root(document["categories"], document["annotations"], findings)
    return document


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
            if _is_whole(value) and not (type(value) is float and field in ("width", "height")):
                what = "ids and sizes that are texts, or numbers with a point"
                findings.add("warning", what, f"{key}[{row}]: {field} {short(value)}", "whole numbers")
                entries[row] = {**entry, field: int(value)}
    return entries


def _is_whole(value):
    if type(value) is float:
        return value.is_integer() and abs(value) < 2**53
    return isinstance(value, str) and value.isascii() and _WHOLE.fullmatch(value) is not None


def _without_root(categories, annotations, findings):
    """Categories but for one that only stands above all others: no annotation has it, and it is their supercategory.

    Its own supercategory is nothing: a name that means something, such as COCO's `person`, is in a group.
    """
    for row, root in enumerate(categories if len(categories) > 1 else ()):
        name = root.get("name")
        if not name or root.get("supercategory") not in (None, "", "none", "None", "root"):
            continue
        others = categories[:row] + categories[row + 1 :]
        if not all(entry.get("supercategory") == name for entry in others):
            continue
        if all(entry.get("category_id") != root.get("id") for entry in annotations):
            what = "categories that are no name of objects, but stand above all others and have no annotation"
            findings.add("warning", what, f"categories[{row}] (id {short(root.get('id'))}): {short(name)}", "left out")
            return others
    return categories
