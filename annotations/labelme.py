"""LabelMe: a JSON file for each picture, mostly next to it, with shapes in pixels.

Rectangles, polygons, circles and masks become the boxes around them. Shapes of one name and one `group_id` are parts
of one object, as LabelMe means it. X-AnyLabeling and others write the same form.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.annotations.exported import (
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
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations

_AREAS = ("rectangle", "polygon", "oriented_rectangle", "rotation", "mask")
_OTHERS = "JSON files that are not LabelMe's"


def read_labelme(
    files: Sequence[Path],
    folder: str | Path,
    images: str | Path | None = None,
    check_images: bool = True,
    findings: Findings | None = None,
) -> CocoAnnotations:
    """
    The annotation files of one part.

    Args:
        files: JSON files. Those without `shapes` that are of no picture are left over.
        folder: of the part. images: the folder of the pictures. Default: `folder`.
        check_images (bool): pictures must be there.
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.

    Returns:
        CocoAnnotations: names in alphabetical order.

    Raises:
        FileNotFoundError, ValueError: the message names file and shape.
    """
    told = told_to(findings)
    finder = PictureFinder(folder if images is None else images, check_images)
    pictures = {os.path.splitext(os.path.abspath(path))[0]: path for path in finder.pictures}
    found, others = [], []
    for file in files:
        beside = pictures.get(os.path.splitext(os.path.abspath(file))[0])
        try:
            document = read_json(file)
        except (OSError, ValueError) as error:
            told.add("error", "annotation files that cannot be read", str(error), "left out")
            continue
        if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
            if beside is None:
                others.append(file)
            else:
                message = f"{file}: expected LabelMe's shapes, got {short(document)}; annotate {beside} again"
                told.add("error", "annotation files without shapes", message, "left out")
            continue
        found.append(_image(file, document, beside, finder, told))
    coco = exported_annotations(folder, folder, found, findings, told)
    if check_images:
        coco.left_over = {**left_over(finder, (Path(entry["path"]) for entry in coco.images)), _OTHERS: others}
    return coco


def _image(file, document, beside, finder, told):
    written = document.get("imagePath")
    written = written if isinstance(written, str) and written else file.stem
    path = beside
    if beside is None or beside.name != written.replace("\\", "/").rsplit("/", 1)[-1]:
        # The name that is written goes before an equal stem, but may be that of a picture that was renamed since.
        place = os.path.relpath(file.parent, finder.folder)
        path = finder.locate(written, str(file), told if beside is None else Findings(), [place, ""]) or beside
    size = declared_size(document.get("imageWidth"), document.get("imageHeight"))
    return ExportedImage(str(file), written, path, size, _shapes(document["shapes"], file, told))


def _shapes(rows, file, told):
    shapes, groups = [], {}
    for row, entry in enumerate(rows):
        where = f"{file}: shapes[{row}]"
        if not isinstance(entry, dict):
            message = f"{where}: expected a shape with label and points, got {short(entry)}; take it out"
            told.add("error", "shapes that are no objects", message, "left out")
            continue
        kind = entry.get("shape_type") or "polygon"  # which LabelMe did not write at first
        if kind not in _AREAS and kind != "circle":
            passed_over(kind, where, told)
            continue
        label, group = entry.get("label"), entry.get("group_id")
        shape = ExportedShape(where, label, _points(entry.get("points"), kind))
        key = (label, group) if isinstance(label, str) and isinstance(group, int | str) else None
        if key is not None and key in groups:
            first = groups[key]
            shapes[first] = replace(shapes[first], points=[*shapes[first].points, *shape.points])
            continue
        if key is not None:
            groups[key] = len(shapes)
        shapes.append(shape)
    return shapes


def _points(points, kind):
    """x, y, x, y, ... Empty where they are none."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return []
    flat = [number_in(value) for point in points for value in point]
    if kind != "circle":
        return flat
    if len(flat) != 4:  # the center and a point on the circle
        return []
    radius = math.dist(flat[:2], flat[2:])
    return [flat[0] - radius, flat[1] - radius, flat[0] + radius, flat[1] + radius]
