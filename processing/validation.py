"""What is wrong with a COCO annotation file, all of it at once, and a repaired copy.

[`CocoAnnotations.load`] stops at the first error; `examine` goes on, says how often each thing happens and where
first, and what a repair does about it: boxes put right where that is known, rows left out where it is not.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from decodetr.processing.coco_mending import file_name_of
from decodetr.processing.findings import Findings
from decodetr.utils.documents import short


@dataclass
class Picture:
    """What an image file turned out to be: where it is, its size and whether EXIF turns it by a quarter, or what is
    wrong with it ("that are not there", "that cannot be read"), and a digest of its content."""

    where: str
    size: tuple = (0, 0)
    turned: bool = False
    problem: str = ""
    content: bytes = b""


def examine(document, pictures=None):
    """
    Problems of a COCO document, and the document without them.

    Args:
        document: what the JSON file holds.
        pictures: {image id: Picture}, as far as they were looked at.

    Returns:
        (Findings, repaired document, or None where it is no COCO document at all).
    """
    findings = Findings()
    if not isinstance(document, dict):
        findings.add("error", "not a JSON object with images, annotations and categories", short(document))
        return findings, None
    lists = {}
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list):
            findings.add("error", f"no list under {key!r}", short(entries))
            return findings, None
        lists[key] = [_with_integers(entry) for entry in entries if isinstance(entry, dict)]
        for row, entry in enumerate(entries):
            if not isinstance(entry, dict):
                findings.add("error", f"{key} that are no objects", f"{key}[{row}]: {short(entry)}", "left out")
    for key in ("images", "categories"):
        if not lists[key]:
            findings.add("error", f"no {key} at all")
    if not lists["annotations"]:
        findings.add("warning", "no annotations at all: nothing but background to learn")
    categories, new_id = _categories(lists["categories"], findings)
    images = _images(lists["images"], findings, pictures or {}, _extents(lists["annotations"]))
    shift = _category_shift(lists["annotations"], new_id, findings)
    listed = {entry.get("id") for entry in lists["images"]}
    annotations = _annotations(lists["annotations"], images, listed, new_id, shift, findings)
    repaired = {**document, "images": list(images.values()), "annotations": annotations, "categories": categories}
    return findings, repaired


def _with_integers(entry):
    """The entry with None for an id that is no integer: text and lists point at nothing."""
    ids = {key: entry.get(key) for key in ("id", "image_id", "category_id") if key in entry}
    return {**entry, **{key: value if type(value) is int else None for key, value in ids.items()}}


def _categories(entries, findings):
    """(repaired categories, {id: id that it becomes})."""
    kept, new_id, id_of_name = [], {}, {}
    for row, entry in enumerate(entries):
        where, number, name = f"categories[{row}]", entry.get("id"), entry.get("name")
        if number is None or not isinstance(name, str) or not name.strip():
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
        if _is_box(box := entry.get("bbox")):
            width, height = extents.get(entry.get("image_id"), (0, 0))
            extents[entry.get("image_id")] = max(width, box[0] + box[2]), max(height, box[1] + box[3])
    return extents


def _images(entries, findings, pictures, extents):
    """{id: entry} of the images that can be used."""
    kept, names = {}, set()
    for row, entry in enumerate(entries):
        where, number = f"images[{row}]", entry.get("id")
        name = file_name_of(entry)
        sizes = [entry.get("width"), entry.get("height")]
        if number is None or name is None:
            findings.add("error", "images without integer id or file_name", f"{where}: {short(entry)}", "left out")
        elif number in kept:
            findings.add("error", "image ids that repeat", f"{where}: id {number}, {name}", "the first one stays")
        elif not all(type(side) in (int, float) and side >= 1 for side in sizes):
            findings.add("error", "images without width and height", f"{where}: {name}, {sizes}", "left out")
        else:
            if name in names:
                findings.add("warning", "files that are listed twice", f"{where}: {name}")
            names.add(name)
            if (size := _true_size(entry, pictures.get(number), extents.get(number, (0, 0)), findings)) is not None:
                kept[number] = {**entry, "width": size[0], "height": size[1]}
    return kept


def _true_size(entry, picture, extent, findings):
    """(width, height) of an image, or None where it cannot be used."""
    size = (entry["width"], entry["height"])
    if picture is None or (picture.size == size and not picture.problem):
        return size
    if picture.problem:
        findings.add("error", f"images {picture.problem}", picture.where, "left out with their annotations")
        return None
    where = f"{picture.where}: {size[0]} x {size[1]}, the file has {picture.size[0]} x {picture.size[1]}"
    swapped = picture.size == size[::-1]
    if swapped and not picture.turned and extent[0] <= picture.size[0] + 1 and extent[1] <= picture.size[1] + 1:
        findings.add("error", "width and height are swapped", where, "those of the file")
        return picture.size
    what = "width and height are not the picture's"
    if swapped and picture.turned:
        what = "width and height are those of the picture turned by its EXIF orientation: store the pixels turned"
    findings.add("error", what, where, "left out with their annotations")
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


def _annotations(entries, images, listed, new_id, shift, findings):
    """The annotations that can be used, put right. `listed`: ids of all images, also of those that are left out."""
    style = _box_style(entries, images, findings)
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
            findings.add("error", "annotation ids that repeat or are no integers", where, "numbered anew")
        key = (entry["image_id"], category, *box)
        if key in seen:
            findings.add("warning", "annotations that repeat", f"{where}: {box}", "left out")
            continue
        seen.add(key)
        entry = {**entry, "category_id": category, "bbox": box}
        entry["id"] = entry["id"] if numbered else None
        ids |= {entry["id"]} if numbered else set()
        area = entry.get("area", box[2] * box[3])
        if type(area) not in (int, float) or not math.isfinite(area) or area < 0:
            findings.add(
                "error", "areas that are no numbers of 0 or more", f"{where}: {short(area)}", "that of the box"
            )
            area = box[2] * box[3]
        entry["area"] = area
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


def _box_style(entries, images, findings):
    """How the file writes its boxes, as far as they tell: "xywh" (COCO), "xyxy" or "relative"."""
    votes, total = Counter(), 0
    for entry in entries:
        box, image = entry.get("bbox"), images.get(entry.get("image_id"))
        if image is None or not _is_box(box):
            continue
        total += 1
        x, y, a, b = box
        beyond = x + a > 1.02 * image["width"] + 1 or y + b > 1.02 * image["height"] + 1
        votes["relative"] += max(box) <= 1 and min(image["width"], image["height"]) > 4
        votes["xyxy"] += beyond and a > x and b > y and a <= image["width"] + 1 and b <= image["height"] + 1
        votes["beyond"] += beyond
    if total and votes["relative"] == total:
        repair = "multiplied by the image's size, as x, y, w, h"
        findings.add("error", "all boxes lie within 0..1: relative, not pixels", repair=repair)
        return "relative"
    # Boxes of two corners leave the image when read as x, y, w, h; not all, where they lie at the top left.
    if votes["xyxy"] > 0.2 * total and votes["xyxy"] >= 0.9 * votes["beyond"]:
        share = f"{votes['xyxy']} of {total} leave their image as x, y, w, h and fit as x0, y0, x1, y1"
        findings.add("error", f"boxes seem to be two corners: {share}", repair="turned into x, y, w, h")
        return "xyxy"
    return "xywh"


def _is_box(box):
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(value) in (int, float) and math.isfinite(value) for value in box)
    )


def _box(entry, image, style, where, findings):
    """x, y, w, h inside the image, or None."""
    box, width, height = entry.get("bbox"), image["width"], image["height"]
    if box is None and (points := _polygon_points(entry.get("segmentation"))):
        findings.add("error", "annotations with polygons and no bbox", where, "the box around the polygons")
        xs, ys = points[0::2], points[1::2]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    elif not _is_box(box):
        findings.add("error", "boxes that are not four finite numbers", f"{where}: {short(box)}", "left out")
        return None
    elif style == "relative":
        box = [box[0] * width, box[1] * height, box[2] * width, box[3] * height]
    elif style == "xyxy":
        box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
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


def _polygon_points(segmentation):
    """All coordinates x, y, x, y, ... of COCO's polygons; empty where there are none."""
    if not isinstance(segmentation, list):
        return []
    points = [value for part in segmentation if isinstance(part, list) for value in part]
    usable = len(points) >= 6 and len(points) % 2 == 0 and all(type(value) in (int, float) for value in points)
    return points if usable and all(map(math.isfinite, points)) else []


def examine_names(names, split, vocabulary, part, support, findings):
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
    import difflib

    folded = defaultdict(list)
    for name in names:
        folded[name.casefold().strip()].append(name)

    def describe(name):
        found = folded.get(name.casefold().strip()) or difflib.get_close_matches(name, names, 1)
        return f"{name!r}" + (f" (there is {found[0]!r})" if found else "")

    return describe
