"""The checks of a COCO file, entry by entry, on flat arrays.

Every error is a ValueError with the file, the row and its id, what was expected, what was found and what to do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco_mending import degrees_turned, file_name_of, mend
from decodetr.annotations.federated_lists import LISTS
from decodetr.annotations.findings import FirstError
from decodetr.annotations.image_entries import Federation
from decodetr.annotations.object_area import NOTHING
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from typing import Any, TypeGuard

    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)


def read_document(file: Path, findings: Findings | None = None, polygons: bool = True) -> dict[str, Any]:
    """A COCO file's JSON object, with lists of objects under images, annotations and categories. See `coco_mending`.

    Args:
        file (Path). findings (Findings, optional): is told of what was mended. Default: the log.
        polygons: with the outlines of the objects, which are most of a file. Without, those of turned boxes stay.
    """
    try:
        document = read_json(file, each=None if polygons else _without_polygons)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: no such annotation file; expected a COCO JSON file") from error
    check_lists(file, document)
    told = FirstError() if findings is None else findings
    document = mend(document, told)
    if findings is None:
        told.warn(logger, file)
    return document


def _without_polygons(entry):
    if "segmentation" in entry and not degrees_turned(entry):
        del entry["segmentation"]
    return entry


def check_lists(file: str | Path, document: object) -> None:
    """Raise ValueError unless a document has lists of objects under images, annotations and categories."""
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected a JSON object with images, annotations, categories, got {short(document)}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise ValueError(
                f"{file}: expected a list under {key!r}, got {short(document.get(key))}; COCO detection files have "
                "images, annotations and categories (an image-info or captions file cannot be used)"
            )
        for row, entry in enumerate(document[key]):
            if not isinstance(entry, dict):
                raise ValueError(f"{file}: {key}[{row}]: expected an object, got {short(entry)}")


def _where(file, key, row, entry):
    return f"{file}: {key}[{row}] (id {short(entry.get('id'))})"


def _integers(file, key, entries, field, remedy):
    """(n,) int64 of `field` over entries. A ValueError names the first row where it isn't an integer."""
    values = [entry.get(field) for entry in entries]
    if not all(type(value) is int for value in values):
        row = next(row for row, value in enumerate(values) if type(value) is not int)
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected an integer {field!r}, got "
            f"{short(values[row])}; {remedy}"
        )
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as error:
        row = next(row for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected a 64-bit {field!r}, got {values[row]}; {remedy}"
        ) from error


def _unique_ids(file, key, entries):
    ids = _integers(file, key, entries, "id", "give every entry a different integer id")
    unique, first = np.unique(ids, return_index=True)
    if len(unique) < len(ids):
        repeated = np.ones(len(ids), dtype=bool)
        repeated[first] = False
        row = int(repeated.argmax())
        raise ValueError(
            f"{file}: {key}[{row}]: expected a unique id, got {ids[row]} again ({repeated.sum()} repeated); "
            "renumber the ids"
        )
    return ids


def read_categories(file: str | Path, entries: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """(ids, names), both lists ordered by id."""
    ids = _unique_ids(file, "categories", entries)
    order = np.argsort(ids).tolist()
    row_of_name = {}
    for row in order:
        name = entries[row].get("name")
        if not is_name(name):
            raise ValueError(
                f"{_where(file, 'categories', row, entries[row])}: expected a name, got {short(name)}; write it as a "
                "text"
            )
        if name in row_of_name:
            raise ValueError(
                f"{_where(file, 'categories', row, entries[row])}: expected a unique name, got {name!r}, which is "
                f"also categories[{row_of_name[name]}]; rename one or merge the two, labels are matched by name"
            )
        row_of_name[name] = row
    return ids[order].tolist(), list(row_of_name)


def is_name(value: object) -> bool:
    """Whether a value is a text that can be embedded and written: not blank, and no half of a character."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def read_images(file: str | Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """list of {"image_id", "file_name", "width", "height"} in file order."""
    ids = _unique_ids(file, "images", entries).tolist()
    images = []
    for row, (image_id, entry) in enumerate(zip(ids, entries)):
        file_name = file_name_of(entry)
        if not file_name:
            got = short(entry.get("file_name"))
            raise ValueError(f"{_where(file, 'images', row, entry)}: expected a file_name, got {got}; add it")
        width, height = entry.get("width"), entry.get("height")
        if not (is_size(width) and is_size(height)):
            raise ValueError(
                f"{_where(file, 'images', row, entry)}: expected a width and height of at least 1 pixel, got "
                f"{short(width)} and {short(height)}; write the size of {file_name}"
            )
        image = {"image_id": image_id, "file_name": file_name, "width": int(width), "height": int(height)}
        images.append(image | ({"size_declared": False} if entry.get("size_declared") is False else {}))
    return images


def is_own_file(
    names: dict[str, str], name: str, where: str, findings: Findings, file: str | Path | None = None
) -> bool:
    """Whether an image can have its file: no other has it, or under the same name, which is only told.

    Args:
        names: {path: name} of the images before. This one is added.
        name, where: of this image: its file_name, and the row.
        file: the annotation file, for an error that is raised.
    """
    path = os.path.normpath(name)
    if path not in names:
        names[path] = name
        return True
    if (first := names[path]) == name:
        findings.add("warning", "files that are listed twice", f"{where}: {name}")
        return True
    message = f"{where}: expected a file of its own, got {name!r}, which is {first!r} of another image; merge the two"
    findings.add("error", "files that are listed under two names", f"{file}: {message}" if file else message)
    return False


def read_federation(file: str | Path, entries: list[dict[str, Any]], category_ids: list[int]) -> Federation | None:
    """image id -> (absent, not exhaustive), indices of categories as int64 arrays, of LVIS' lists. None without them.

    An image without the lists in a file that has them is an error: it would count as nothing verified.
    """
    if not any(key in entry for entry in entries for key in LISTS):
        return None
    known, federation = np.array(category_ids, dtype=np.int64), {}
    for row, entry in enumerate(entries):
        lists = []
        for key in LISTS:
            given = entry.get(key)
            if not isinstance(given, list) or not all(type(value) is int for value in given):
                raise ValueError(
                    f"{_where(file, 'images', row, entry)}: expected a list of category ids under {key!r}, as other "
                    f"images of this file have one, got {short(given)}; take the file as LVIS publishes it"
                )
            within = [min(max(number, -(2**63)), 2**63 - 1) for number in given]
            positions, found = _positions(np.array(within, dtype=np.int64), known)
            if not found.all():
                raise ValueError(
                    f"{_where(file, 'images', row, entry)}: expected ids of the {len(known)} categories under "
                    f"{key!r}, got {given[int((~found).argmax())]}; add the category or remove the id"
                )
            lists.append(positions)
        federation[entry["id"]] = lists[0], lists[1]
    return Federation.of(federation)


def read_frequencies(file: str | Path, entries: list[dict[str, Any]], category_ids: list[int]) -> list[str] | None:
    """LVIS' "r", "c" or "f" of each category, ordered by id. None if no category has one."""
    if not any("frequency" in entry for entry in entries):
        return None
    for row, entry in enumerate(entries):
        if entry.get("frequency") not in ("r", "c", "f"):
            raise ValueError(
                f"{_where(file, 'categories', row, entry)}: expected a frequency of 'r', 'c' or 'f', as other "
                f"categories of this file have one, got {short(entry.get('frequency'))}; correct it"
            )
    frequency = {entry["id"]: entry["frequency"] for entry in entries}
    return [frequency[category_id] for category_id in category_ids]


def is_size(value: Any) -> TypeGuard[float]:
    """Whether a value is a whole number of pixels, at least 1."""
    return type(value) in (int, float) and value >= 1 and value == value // 1


def read_annotations(
    file: str | Path, entries: list[dict[str, Any]], images: list[dict[str, Any]], category_ids: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each annotation: row of its image, id, category index, box xywh (n, 4) and area (float64), iscrowd."""
    key = "annotations"
    ids = _unique_ids(file, key, entries)
    boxes = _read_boxes(file, entries)

    image_ids = np.array([image["image_id"] for image in images], dtype=np.int64)
    image_of = _integers(file, key, entries, "image_id", "point it at an image of the file")
    image_rows, known = _positions(image_of, image_ids)
    if not known.all():
        row = int((~known).argmax())
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected the id of one of the {len(images)} images, got "
            f"image_id {image_of[row]} ({(~known).sum()} such annotations); add the image or remove the annotation"
        )
    category_of = _integers(file, key, entries, "category_id", "point it at a category of the file")
    categories, known = _positions(category_of, np.array(category_ids, dtype=np.int64))
    if not known.all():
        row = int((~known).argmax())
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected one of the {len(category_ids)} category ids, got "
            f"category_id {category_of[row]} ({(~known).sum()} such annotations); add the category or remove them"
        )

    given = [entry.get("area") for entry in entries]
    if not all(type(area) in (int, float) for area in given):  # optional; COCO's own is that of the mask
        given = [area if type(area) in (int, float) else box[2] * box[3] for area, box in zip(given, boxes.tolist())]
    areas = np.array(given, dtype=np.float64)
    bad = ~(np.isfinite(areas) & (areas >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected an area of 0 or more, got {areas[row]}; correct it"
        )
    nothing = (areas == 0) & (boxes[:, 2:] > 0).all(axis=1)
    if nothing.any():
        row = int(nothing.argmax())
        logger.warning(
            "%s: %d of %d %s, the first in annotations[%d] (id %s): AP_small, AP_medium and AP_large are not those of "
            "the objects, and a federated evaluation leaves them out; `decodetr validate --repair DIR` mends a copy",
            file, int(nothing.sum()), len(areas), NOTHING, row, entries[row]["id"],
        )  # fmt: skip
    crowds = [entry.get("iscrowd", 0) for entry in entries]
    if not all(crowd in (0, 1) for crowd in crowds):
        row = next(row for row, crowd in enumerate(crowds) if crowd not in (0, 1))
        raise ValueError(
            f"{_where(file, key, row, entries[row])}: expected iscrowd 0 or 1, got {short(crowds[row])}; correct it"
        )
    return image_rows, ids, categories, boxes, areas, np.array(crowds, dtype=np.int64)


def _positions(values, ids):
    """(n,) position of each value in `ids`, and whether it is there at all."""
    if not len(ids):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    order = np.argsort(ids, kind="stable")
    positions = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
    return positions, ids[positions] == values


def _read_boxes(file, entries):
    """(n, 4) float64 (x, y, w, h) in pixels."""
    boxes = [entry.get("bbox") for entry in entries]
    remedy = "write it as [x, y, width, height] in pixels"
    try:
        if not {type(value) for box in boxes for value in box} <= {int, float}:
            raise TypeError("a text or a truth value")
        boxes = np.array(boxes, dtype=np.float64).reshape(len(entries), 4)
    except (TypeError, ValueError) as error:
        row = next((row for row, box in enumerate(boxes) if not _is_box(box)), 0)
        raise ValueError(
            f"{_where(file, 'annotations', row, entries[row])}: expected a bbox of four numbers, got "
            f"{short(boxes[row])}; {remedy}; `decodetr validate --repair DIR` makes boxes of polygons and masks"
        ) from error
    bad = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{_where(file, 'annotations', row, entries[row])}: expected a bbox of finite numbers, width and height "
            f"not negative, got {entries[row]['bbox']} ({bad.sum()} such annotations); {remedy}, not as two corners"
        )
    empty = (boxes[:, 2:] == 0).any(axis=1)
    if empty.any():
        row = int(empty.argmax())
        logger.warning(
            "%s: %d boxes have no area, the first in annotations[%d] (id %s); they are not trained on",
            file, int(empty.sum()), row, entries[row]["id"],
        )  # fmt: skip
    return boxes


def _is_box(box):
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
