"""Label Studio's exports JSON and JSON-MIN: tasks with regions in percent of the image, and the place of each image on
the server, which is matched to a picture in the folder by its name.

Rectangles, also turned ones, polygons and ellipses become the boxes around them. Of several annotations of a task the
ground truth counts, else the newest. Predictions and cancelled annotations are not used. A task may have several
pictures, where its regions say which one they are on.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from decodetr.annotations.exported import (
    NOT_ANNOTATED,
    ExportedImage,
    ExportedShape,
    PictureFinder,
    declared_size,
    exported_annotations,
    left_over,
    number_in,
    passed_over,
    told_to,
)
from decodetr.annotations.findings import Findings
from decodetr.annotations.turned_shapes import around_ellipse, turned
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short
from decodetr.utils.images import image_header, is_image, upright_size

if TYPE_CHECKING:
    from typing import Any

    from decodetr.annotations.coco import CocoAnnotations

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts in front of the name of a file
_IMAGE_KEYS = ("image", "img", "photo", "picture", "ocr")
_LABELS = ("labels", "rectanglelabels", "polygonlabels", "ellipselabels")
_NO_BOX = ("brushlabels", "keypointlabels", "bitmasklabels", "vectorlabels")


def read_label_studio(
    file: str | Path,
    images: str | Path | None = None,
    check_images: bool = True,
    findings: Findings | None = None,
) -> CocoAnnotations:
    """
    The annotated tasks of an export.

    Args:
        file: JSON or JSON-MIN. images: the folder of the pictures. Default: that of the file.
        check_images (bool): they must be there.
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.

    Returns:
        CocoAnnotations: names in alphabetical order.

    Raises:
        FileNotFoundError, ValueError: the message names file, task and region.
    """
    file, told = Path(file), told_to(findings)
    folder = file.parent if images is None else Path(images)
    finder = PictureFinder(folder, check_images)
    found, waiting = [], []
    tasks = [
        (where, task["data"], _chosen(task["annotations"], where, told))
        for where, task in _tasks(file, read_json(file, list), told)
    ]
    tags = {tag for *_, result in tasks for tag in _tags(result)}
    for where, data, result in tasks:
        candidates = _candidates(data, tags)
        pictures = _pictures(candidates, tags, result, finder)
        if not candidates:
            message = f"{where}: expected the place of an image under data, got {short(data)}"
            told.add("error", "tasks without an image", f"{message}; export a project of images", "left out")
        elif result is None:  # waits to be annotated, or was skipped
            places = [place for pages in (pictures or candidates).values() for place in pages]
            waiting += [_locate(place, where, finder, told) or Path(place) for place in places]
        elif (regions := _by_picture(result, pictures)) is None:
            message = f"{where}: expected regions that say which picture they are on, got {short(data)}; write the "
            message += "key of its picture as to_name of each region, its page as item_index; of JSON-MIN export JSON"
            told.add("error", "tasks of several images", message, "left out")
        else:
            for place, numbers in regions.items():
                path = _locate(place, where, finder, told)
                size, shapes = _regions(result, numbers, path, where, told)
                found.append(ExportedImage(where, place, path, size, shapes))
    coco = exported_annotations(file, folder, found, findings, told)
    if check_images:
        rest = left_over(finder, [*(Path(entry["path"]) for entry in coco.images), *waiting])
        coco.left_over = {**rest, NOT_ANNOTATED: sorted({*rest[NOT_ANNOTATED], *waiting})}
    return coco


def _tasks(file, rows, told):
    """(place for messages, {"data", "annotations"}) of the tasks of either form."""
    small: dict[Any, dict[str, Any]] = {}
    for row, task in enumerate(rows):
        where = f"{file}: [{row}]"
        if not isinstance(task, dict):
            message = f"{where}: expected a task, got {short(task)}; export the project again"
            told.add("error", "tasks that are no objects", message, "left out")
            continue
        where += f" (id {short(task.get('id'))})"
        if isinstance(task.get("data"), dict):
            given = task.get("annotations", task.get("completions")) or []
            yield where, {"data": task["data"], "annotations": given if isinstance(given, list) else []}
            continue
        values = [(key, value) for key, values in task.items() if isinstance(values, list) for value in values]
        result = [{"value": value, "from_name": key, **value} for key, value in values if isinstance(value, dict)]
        entry = small.setdefault(str(task.get("id", row)), {"where": where, "data": task, "annotations": []})
        if result or task.get("annotation_id") is not None:
            entry["annotations"].append({"result": result, "created_at": task.get("created_at")})
    yield from ((entry["where"], entry) for entry in small.values())


def _chosen(annotations, where, told):
    """The regions of the annotation of a task that counts, or None."""
    usable = [entry for entry in annotations if isinstance(entry, dict) and isinstance(entry.get("result"), list)]
    usable = [entry for entry in usable if not entry.get("was_cancelled") and not entry.get("skipped")]
    if len(usable) > 1:
        what = "tasks with several annotations"
        told.add("warning", what, f"{where}: {len(usable)}", "the ground truth, else the newest")
    usable.sort(key=lambda entry: (bool(entry.get("ground_truth")), str(entry.get("created_at"))), reverse=True)
    return usable[0]["result"] if usable else None


def _tags(result):
    """What the regions of an annotation are on: names of image tags. JSON-MIN has those of their labels alone."""
    return {_tag(region) for region in result or () if _is_shape(region)}


def _tag(region):
    return str(region.get("to_name", region.get("from_name")))


def _is_shape(region):
    value = region.get("value") if isinstance(region, dict) else None
    return isinstance(value, dict) and any(key in value for key in ("x", "points", *_NO_BOX))


def _candidates(data, tags):
    """{key: places, paths or URLs} of what can be pictures of a task. Several places are the pages of one tag."""
    found = {}
    for key in (*(key for key in _IMAGE_KEYS if key in data), *data):
        pages = data[key] if isinstance(data[key], list) else [data[key]]
        if pages and all(isinstance(place, str) and place.strip() for place in pages):
            if key in _IMAGE_KEYS or key in tags or all(is_image(_path_of(place)) for place in pages):
                found[key] = pages
    return found


def _pictures(candidates, tags, result, finder):
    """{tag: its pages} of a task. The tag None is every one. None where nothing says which tag is of which picture:
    the file has the names of tags and the keys of pictures, but not the project, which puts them together.

    Args:
        tags (set): of all tasks. With one alone, a task has one picture, whatever else its data name.
    """
    named = {tag: candidates[tag] for tag in tags if tag in candidates}
    if named and _tags(result) <= set(named):
        return named
    distinct = list({tuple(pages): pages for pages in candidates.values()}.values())
    if len(distinct) > 1 and len(tags) <= 1:
        usual = [candidates[key] for key in _IMAGE_KEYS if key in candidates]
        there = [pages for pages in distinct if all(_locate(p, "", finder, Findings()) for p in pages)]
        distinct = usual[:1] or there or distinct[:1]
    return {None: distinct[0]} if len(distinct) == 1 else None


def _by_picture(result, pictures):
    """{place of a picture: numbers of the regions on it}. None where one does not say it."""
    if pictures is None:
        return None
    found = {place: [] for pages in pictures.values() for place in pages}
    for number, region in enumerate(result):
        if not _is_shape(region):
            next(iter(found.values())).append(number)
            continue
        pages, page = pictures.get(_tag(region), pictures.get(None)), region.get("item_index")
        if page is None and len(pages) == 1:
            page = 0
        if type(page) is not int or not 0 <= page < len(pages):
            return None
        found[pages[page]].append(number)
    return found


def _path_of(text):
    """The path in a place: `d` of /data/local-files/?d=..., or that of a URL, whose %20 are spaces."""
    try:
        parts = urlsplit(text)
        named = parse_qs(parts.query).get("d")
    except ValueError:  # brackets that are no address
        return text
    if parts.path.rstrip("/").endswith("local-files") and named:
        return named[0]
    return unquote(parts.path) if parts.scheme or "?" in text else text


def _locate(written, where, finder, told):
    """The picture that a task is of: by the end of its path, with or without what an upload put in front."""
    name = _path_of(written).lstrip("/")
    *above, last = name.replace("\\", "/").split("/")
    places = ["", "images"]
    found = finder.find(name, where, Findings(), places, said=False)
    return found or finder.locate("/".join([*above, _UPLOADED.sub("", last)]), where, told, places, said=False)


def _regions(result, numbers, path, where, told):
    """((width, height) as declared or None, shapes) of those regions of an annotation that are on one picture."""
    declared, size, shapes = None, None, []
    for number in numbers:
        region, place = result[number], f"{where}: result[{number}]"
        if isinstance(region, dict) and region.get("type") == "relation":
            continue  # between two regions; it is none itself
        value = region.get("value") if isinstance(region, dict) else None
        if not isinstance(value, dict):
            message = f"{place}: expected a region with a value, got {short(value)}; export the project again"
            told.add("error", "regions without a value", message, "left out")
            continue
        key = next((key for key in (*_LABELS, *_NO_BOX) if isinstance(value.get(key), list)), None)
        if key is None and not ("width" in value and _is_alone(region, result)):
            continue  # a choice, a text, or the shape that another entry gives a name
        declared = declared_size(region.get("original_width"), region.get("original_height")) or declared
        size = declared or size or _size(path)
        if key in _NO_BOX:
            passed_over(key, place, told)
        elif region.get("image_rotation") not in (None, 0):
            message = f"{place}: expected an image that is not turned, got image_rotation {region['image_rotation']!r}"
            told.add("error", "regions of turned images", f"{message}; turn the picture and annotate it", "left out")
        else:
            points = _points(value, *(size or (math.nan, math.nan)))
            shapes += [ExportedShape(place, label, points) for label in value.get(key) or [None]]
    return declared, shapes


def _is_alone(region, result):
    """Whether no other entry is of the same region."""
    return region.get("id") is None or not any(
        other is not region and isinstance(other, dict) and other.get("id") == region.get("id") for other in result
    )


def _size(path):
    """(width, height) of a picture, where an export does not say it. None where it cannot be read."""
    try:
        return None if path is None else upright_size(*image_header(path))
    except (OSError, ValueError):  # said of the image
        return None


def _points(value, width, height):
    """x, y, x, y, ... in pixels of a region in percent of the image. Empty where it is none of those."""
    degrees = number_in(value.get("rotation") or 0)
    if isinstance(value.get("points"), list):
        pairs = [point if isinstance(point, list) and len(point) == 2 else ["", ""] for point in value["points"]]
        return [number_in(number) * side / 100 for pair in pairs for number, side in zip(pair, (width, height))]
    x, y = number_in(value.get("x")) * width / 100, number_in(value.get("y")) * height / 100
    if "radiusX" in value:
        radii = number_in(value["radiusX"]) * width / 100, number_in(value.get("radiusY")) * height / 100
        return around_ellipse((x, y), radii, degrees)
    w, h = number_in(value.get("width")) * width / 100, number_in(value.get("height")) * height / 100
    return turned([x, y, x + w, y, x + w, y + h, x, y + h], (x, y), degrees)  # around the first corner
