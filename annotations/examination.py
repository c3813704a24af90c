"""What is wrong with a COCO annotation file, all of it at once, and a repaired copy.

[`CocoAnnotations.load`] stops at the first error. `examine` goes on, says how often each thing happens and where
first, and what a repair does about it: boxes put right where that is known, rows left out where it is not.
"""

import difflib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decodetr.annotations.box_style import find_style, is_box, mask_box, polygon_points
from decodetr.annotations.coco_checks import is_name, is_own_file, is_size
from decodetr.annotations.coco_mending import file_name_of, mend
from decodetr.annotations.federated_lists import renumber_lists, with_lists
from decodetr.annotations.findings import Findings
from decodetr.annotations.object_area import DONE, object_area
from decodetr.annotations.turned_shapes import around
from decodetr.utils.excerpts import short
from decodetr.utils.images import STORED_FRAME, UNKNOWN_FRAME, annotated_frame, upright_size


@dataclass
class Picture:
    """What an image file turned out to be: where it is, its size as stored and its EXIF orientation, or what is wrong
    with it ("that are not there", "that cannot be read"), and a digest of its content."""

    where: str
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    problem: str = ""
    content: bytes = b""


def examine(
    document: object,
    pictures: Mapping[int, Picture] | None = None,
    findings: Findings | None = None,
    box_format: str | None = None,
) -> tuple[Findings, dict[str, Any] | None]:
    """
    Problems of a COCO document, and the document without them.

    Args:
        document: what the JSON file holds, or `readable` made of it.
        pictures: {image id: Picture}, as far as they were looked at.
        findings (Findings, optional): what was found before. It goes on.
        box_format (str, optional): how the boxes are written, one of BOX_FORMATS. Default: what they tell.

    Returns:
        (Findings, repaired document, or None where it is no COCO document at all or could mean two things).
    """
    findings = Findings() if findings is None else findings
    document = readable(document, findings)
    if document is None:
        return findings, None
    for key in ("images", "categories"):
        if not document[key]:
            findings.add("error", f"no {key} at all")
    if not document["annotations"]:
        findings.add("warning", "no annotations at all: nothing but background to learn")
    rows = document["annotations"]
    categories, new_id = _categories(document["categories"], findings)
    images = _images(document["images"], findings, pictures or {}, _extents(rows))
    shift = _category_shift(rows, new_id, findings)
    listed = {entry.get("id") for entry in document["images"]}
    style = find_style(rows, images, box_format, findings)
    if style is None:
        return findings, None
    annotations = _annotations(rows, images, listed, new_id, shift, style, findings)
    return findings, {
        **document,
        "images": renumber_lists(images.values(), annotations, new_id, shift, findings),
        "annotations": annotations,
        "categories": categories,
    }


def readable(document: object, findings: Findings) -> dict[str, Any] | None:
    """A document with lists of objects under images, annotations and categories and with whole numbers as ids, or None
    where it is none. What is readable stays as it is."""
    if not isinstance(document, dict):
        findings.add("error", "not a JSON object with images, annotations and categories", short(document))
        return None
    lists = {}
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list):
            findings.add("error", f"no list under {key!r}", short(entries))
            return None
        lists[key] = [entry for entry in entries if isinstance(entry, dict)]
        for row, entry in enumerate(entries):
            if not isinstance(entry, dict):
                findings.add("error", f"{key} that are no objects", f"{key}[{row}]: {short(entry)}", "left out")
    document = mend({**document, **lists}, findings)
    for key, reference in (("images", "image_id"), ("categories", "category_id")):
        _number(document, key, reference, findings)
    for key in lists:
        document[key] = [_with_integers(entry) for entry in document[key]]
    return document


def _number(document, key, reference, findings):
    """Give entries whose ids are texts, or beyond 64 bits, and those that refer to them, numbers."""
    ids = [entry.get("id") for entry in document[key]]
    taken = {value for value in ids if type(value) is int and _is_id(value)}
    free, numbers = max(taken, default=0), {}
    for row, value in enumerate(ids):
        if (isinstance(value, str) or type(value) is int) and not _is_id(value) and value not in numbers:
            free += 1
            numbers[value] = free
            what = f"ids of {key} that are texts or beyond 64 bits"
            findings.add("error", what, f"{key}[{row}]: {short(value)}", "numbered")
    if not numbers:
        return
    for entries, field in ((key, "id"), ("annotations", reference)):
        document[entries] = [
            {**entry, field: numbers[entry[field]]}
            if type(entry.get(field)) in (str, int) and entry[field] in numbers
            else entry
            for entry in document[entries]
        ]
    if key == "categories":

        def numbered(_, values):
            return [numbers.get(value, value) if type(value) in (str, int) else value for value in values]

        document["images"] = [with_lists(entry, numbered) for entry in document["images"]]


def _is_id(value):
    return type(value) is int and -(2**63) <= value < 2**63


def _with_integers(entry):
    """The entry with None for an id that is no integer: text and lists point at nothing."""
    wrong = [key for key in ("id", "image_id", "category_id") if key in entry and not _is_id(entry[key])]
    return {**entry, **dict.fromkeys(wrong)} if wrong else entry


def _categories(entries, findings):
    """(repaired categories, {id: id that it becomes})."""
    kept, new_id, id_of_name = [], {}, {}
    for row, entry in enumerate(entries):
        where, number, name = f"categories[{row}]", entry.get("id"), entry.get("name")
        if type(name) is int:
            findings.add("error", "names that are numbers", f"{where}: {name}", "as texts")
            name = str(name)
        if number is None or not is_name(name):
            findings.add("error", "categories without integer id or name", f"{where}: {short(entry)}", "left out")
        elif number in new_id:
            findings.add("error", "category ids that repeat", f"{where}: id {number}, {name!r}", "the first one stays")
        else:
            if name != name.strip():
                findings.add("warning", "names with spaces around them", f"{where}: {name!r}", "taken off")
            name = name.strip()
            if name in id_of_name:
                findings.add("error", "names that repeat", f"{where}: {name!r}", "merged into the first one")
            else:
                kept.append({**entry, "name": name})
            new_id[number] = id_of_name.setdefault(name, number)
    return kept, new_id


def _extents(annotations):
    """{image id: (width, height) that its boxes need}."""
    extents = {}
    for entry in annotations:
        if is_box(box := entry.get("bbox")):
            width, height = extents.get(entry.get("image_id"), (0, 0))
            extents[entry.get("image_id")] = max(width, box[0] + box[2]), max(height, box[1] + box[3])
    return extents


def _images(entries, findings, pictures, extents):
    """{id: entry} of the images that can be used."""
    kept, names = {}, {}
    for row, entry in enumerate(entries):
        where, number = f"images[{row}]", entry.get("id")
        name, picture = file_name_of(entry), pictures.get(number)
        sizes = [entry.get("width"), entry.get("height")]
        if number is None or name is None:
            findings.add("error", "images without integer id or file_name", f"{where}: {short(entry)}", "left out")
            continue
        if number in kept:
            findings.add("error", "image ids that repeat", f"{where}: id {number}, {name}", "the first one stays")
            continue
        if not all(is_size(side) for side in sizes):
            known = picture is not None and not picture.problem
            level = "warning" if known and not any(sizes) else "error"  # training reads sizes that are missing
            done = "those of the picture" if known else "left out"
            findings.add(level, "images without width and height", f"{where}: {name}, {short(sizes)}", done)
            if not known:
                continue
            width, height = upright_size(picture.size, picture.orientation)
            entry = {**entry, "width": width, "height": height, "size_declared": False}
        if not is_own_file(names, name, where, findings):
            continue
        if (size := _true_size(entry, picture, extents.get(number, (0, 0)), findings)) is not None:
            kept[number] = {**entry, "width": size[0], "height": size[1]}
    return kept


def _true_size(entry, picture, extent, findings):
    """(width, height) of an image, or None where it cannot be used."""
    size = (entry["width"], entry["height"])
    if picture is None:
        return size
    if picture.problem:
        findings.add("error", f"images {picture.problem}", picture.where, "left out with their annotations")
        return None
    declared = size if entry.get("size_declared", True) else None
    frame, known = annotated_frame(picture.size, picture.orientation, declared)
    there = picture.size if frame == "stored" else upright_size(picture.size, picture.orientation)
    if there == size:
        if frame == "stored":
            findings.add("warning", STORED_FRAME, picture.where)
        elif not known:
            findings.add("warning", UNKNOWN_FRAME, picture.where)
        return size
    where = f"{picture.where}: {size[0]} x {size[1]}, the file has {there[0]} x {there[1]}"
    unturned = picture.orientation == 1
    if there == size[::-1] and unturned and extent[0] <= there[0] + 1 and extent[1] <= there[1] + 1:
        findings.add("error", "width and height are swapped", where, "those of the file")
        return there
    findings.add("error", "width and height are not the picture's", where, "left out with their annotations")
    return None


def _category_shift(annotations, new_id, findings):
    """What makes category ids that are off by one right: 0 where they are right, or where it does not."""
    used = {entry.get("category_id") for entry in annotations} - {None}
    if not used or not new_id or used <= set(new_id):
        return 0
    for shift in (1, -1):
        if all(number + shift in new_id for number in used):
            findings.add(
                "error",
                f"category ids are off by one: annotations have {min(used)} to {max(used)}, categories "
                f"{min(new_id)} to {max(new_id)}",
                repair=f"{shift:+d}",
            )
            return shift
    return 0


def _annotations(entries, images, listed, new_id, shift, style, findings):
    """The annotations that can be used, put right. `listed`: ids of all images, also of those that are left out."""
    kept, ids, seen = [], set(), set()
    for row, entry in enumerate(entries):
        where = f"annotations[{row}] (id {short(entry.get('id'))})"
        image, category = images.get(entry.get("image_id")), entry.get("category_id")
        if image is None and entry.get("image_id") in listed - {None}:
            continue  # said of the image
        if image is None:
            what = "annotations of images that are not in the file"
            findings.add("error", what, f"{where}: image_id {short(entry.get('image_id'))}", "left out")
            continue
        category = new_id.get(None if category is None else category + shift)
        if category is None:
            what = "annotations of categories that are not in the file"
            findings.add("error", what, f"{where}: category_id {short(entry.get('category_id'))}", "left out")
            continue
        box = _box(entry, image, style, where, findings)
        if box is None:
            continue
        numbered = entry.get("id") is not None and entry["id"] not in ids
        if not numbered:
            findings.add("error", "annotation ids that repeat or are no integers", where, "given new ids")
        key = (entry["image_id"], category, *box)
        if key in seen:
            findings.add("warning", "annotations that repeat", f"{where}: {box}", "left out")
            continue
        seen.add(key)
        written = entry["bbox"] if is_box(entry.get("bbox")) else None
        entry = {**entry, "category_id": category, "bbox": box}
        entry["id"] = entry["id"] if numbered else None
        ids |= {entry["id"]} if numbered else set()
        entry["area"] = _area(entry.get("area"), written, box, style, image, where, findings)
        if entry.get("iscrowd", 0) not in (0, 1):
            findings.add("error", "iscrowd that is neither 0 nor 1", f"{where}: {short(entry['iscrowd'])}", "0")
            entry["iscrowd"] = 0
        kept.append(entry)
    free = max(ids, default=0)
    for entry in kept:
        if entry["id"] is None:
            free += 1
            entry["id"] = free
    return kept


def _box(entry, image, style, where, findings):
    """x, y, w, h inside the image, or None."""
    box, width, height = entry.get("bbox"), image["width"], image["height"]
    written = is_box(box)
    if not written and (points := polygon_points(entry.get("segmentation"))):
        findings.add("error", "annotations with polygons and no bbox", where, "the box around the polygons")
        box = around(points)
    elif not written and (around_mask := mask_box(entry.get("segmentation"), width, height)):
        findings.add("error", "annotations with masks and no bbox", where, "the box around the mask")
        box = around_mask
    elif not written:
        findings.add("error", "boxes that are not four finite numbers", f"{where}: {short(box)}", "left out")
        return None
    else:
        box = style.read(box, width, height)
    x, y, w, h = box
    if w < 0 or h < 0:
        findings.add("error", "boxes of negative size", f"{where}: {short(box)}", "left out")
        return None
    if w == 0 or h == 0:
        findings.add("warning", "boxes without area", f"{where}: {short(box)}", "left out")
        return None
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x1 <= x0 or y1 <= y0:
        what = f"{where}: {short(box)} in {width} x {height}"
        findings.add("error", "boxes outside of their image", what, "left out")
        return None
    if max(x0 - x, y0 - y, x + w - x1, y + h - y1) > 1:
        what = f"{where}: {short(box)} in {width} x {height}"
        findings.add("warning", "boxes that reach out of their image by more than a pixel", what, "clipped")
        return [x0, y0, x1 - x0, y1 - y0]
    return box


def _area(given, written, box, style, image, where, findings):
    """The area of an object with the box x, y, w, h, of what the file says."""
    if given is None:
        return box[2] * box[3]
    if type(given) not in (int, float) or not math.isfinite(given) or given < 0:
        findings.add("error", "areas that are no numbers of 0 or more", f"{where}: {short(given)}", "that of the box")
        return box[2] * box[3]
    pixels = image["width"] * image["height"] if style.relative else None
    area, wrong = object_area(given, written, box, pixels)
    if wrong:
        findings.add("warning", wrong, f"{where}: {given:g} of {short(box)}", DONE.get(wrong, "that of the box"))
    return area


def examine_names(
    names: Sequence[str],
    split: tuple[Sequence[str], Sequence[str]] | None,
    vocabulary: Sequence[str] | None,
    part: str,
    support: Mapping[str, int],
    findings: Findings,
) -> None:
    """Problems between the names of a file, a split and a vocabulary.

    Args:
        names (list[str]): of the file. split: (base, novel) or None. vocabulary (list[str] or None).
        part (str): "train" or another. support (dict): name -> annotations.
    """
    known, close = set(names), _close_matches(names)
    if split is not None:
        base, novel = split
        for name in (*base, *(novel if part != "train" else ())):
            if name not in known:
                findings.add("warning", "names of the split that the file lacks", close(name))
        if base and not set(base) & known:
            findings.add("error", "no base name of the split is in the file")
        if part == "train" and (leaked := {name: support[name] for name in novel if support.get(name)}):
            findings.add(
                "warning",
                f"{sum(leaked.values())} annotations of {len(leaked)} novel names in the training file: not trained "
                "on with this split, but a V-OVD file should not have them",
                ", ".join(sorted(leaked)[:3]),
            )
    if vocabulary is not None:
        match = _close_matches(vocabulary)
        for name in names:
            if support.get(name) and name not in set(vocabulary):
                findings.add("error", "names that the vocabulary lacks", match(name))


def _close_matches(names):
    folded = defaultdict(list)
    for name in names:
        folded[name.casefold().strip()].append(name)

    def describe(name):
        found = folded.get(name.casefold().strip()) or difflib.get_close_matches(name, names, 1)
        return f"{name!r}" + (f" (there is {found[0]!r})" if found else "")

    return describe
