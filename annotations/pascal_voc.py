"""Pascal VOC: an XML file for each picture, in Annotations/ or next to it, and lists of the parts in ImageSets/Main.

VOC counts pixels from 1, and its boxes include their last pixel: x0 = xmin - 1, x1 = xmax, as detectron2 and
supervision read it. Label Studio, Datumaro and others write numbers from 0. Which of the two a data set has, all of
its boxes tell, whatever part they are of.
"""

from __future__ import annotations

import logging
import math
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
    told_to,
)
from decodetr.utils.documents import TEXT_BYTES, read_text
from decodetr.utils.xml_documents import read_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)

ROOT = "annotation"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("1", "0", "-1")  # behind the names of a list of one class


def read_pascal_voc(
    files: Sequence[Path],
    folder: str | Path,
    images: str | Path | None = None,
    check_images: bool = True,
    findings: Findings | None = None,
    listed: str | Path | None = None,
    others: Sequence[Path] = (),
) -> CocoAnnotations:
    """
    Annotation files of one part.

    Args:
        files: all annotation files, or those of the part where there is no list.
        folder: of the data set. images: the folder of the pictures. Default: `folder`.
        check_images (bool): pictures must be there.
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.
        listed: a text file with the names of the part, one a line.
        others: annotation files of other parts by the same program. They tell too where its numbers begin.

    Returns:
        CocoAnnotations: names in alphabetical order. A picture of the list that has no annotation file has no objects.

    Raises:
        FileNotFoundError, ValueError: the message names file and object.
    """
    told = told_to(findings)
    finder = PictureFinder(folder if images is None else images, check_images)
    pictures: dict[str, list[Path]] = {}
    for path in finder.pictures:
        pictures.setdefault(path.stem, []).append(path)
    found = []
    if listed is None:
        found = [_image(file, finder, pictures.get(file.stem, []), told) for file in files]
    else:
        for name, file, where in _listed(listed, files, folder):
            same = pictures.get(name.rsplit("/", 1)[-1], [])
            if file is not None:
                found.append(_image(file, finder, same, told))
            else:  # nothing was annotated
                found.append(ExportedImage(where, name, same[0] if len(same) == 1 else None))
    usable = [image for image in found if image is not None]
    read = {image.where for image in usable}
    shapes = [shape for image in usable for shape in image.shapes]
    shapes += [shape for file in (*files, *others) if str(file) not in read for shape in _shapes_of(file)]
    if why := _begin_at_0(shapes):
        logger.warning("%s: boxes are read as counted from 0, not from 1 as Pascal VOC's own: %s", folder, why)
    else:
        usable = [replace(image, shapes=list(map(_from_0, image.shapes))) for image in usable]
    coco = exported_annotations(folder if listed is None else listed, folder, usable, findings, told)
    if check_images:
        annotated = {file.stem for file in files}
        used = [path for path in finder.pictures if path.stem in annotated]
        coco.left_over = left_over(finder, [*used, *(Path(entry["path"]) for entry in coco.images)])
    return coco


def _listed(listed, files, folder):
    """(name, annotation file or None, place for messages) of the lines of a list. Names may have folders, spaces,
    quotes, and a flag behind them."""
    by_name, seen = {file.stem: file for file in reversed(files)}, set()
    for file in files:
        *_, name = file.with_suffix("").relative_to(folder).as_posix().split("/", 1)
        by_name[name] = file
    for number, line in enumerate(read_text(listed).splitlines(), start=1):
        name = line.strip().strip('"').replace("\\", "/")
        if not name or name.startswith("#"):
            continue
        *first, last = name.rsplit(None, 1)
        if name not in by_name and first and last in _FLAGS:
            name = first[0].strip('"')
        if name in seen:
            continue
        seen.add(name)
        yield name, by_name.get(name), f"{listed}: line {number}"


def _image(file, finder, same, told):
    """The ExportedImage of an annotation file, or None where it cannot be read. `same`: pictures of its name."""
    try:
        root = read_xml(file, ROOT, TEXT_BYTES)
    except (OSError, ValueError) as error:
        told.add("error", "annotation files that cannot be read", str(error), "left out")
        return None
    written = (root.findtext("filename") or "").strip() or file.stem
    for test in (lambda path: path.parent == file.parent, lambda path: path.parent.name == file.parent.name):
        same = [path for path in same if test(path)] or same
    if len(same) == 1:
        path = same[0]
    else:
        path = finder.locate(written, str(file), told, ["JPEGImages", "images", ""])
    size = root.find("size")
    sides = None if size is None else declared_size(size.findtext("width"), size.findtext("height"))
    return ExportedImage(str(file), written, path, sides, _shapes(root, file))


def _shapes(root: Element, file):
    shapes = []
    for number, element in enumerate(root.findall("object"), start=1):
        box = element.find("bndbox")
        points = [] if box is None else [number_in((box.findtext(side) or "").strip()) for side in _SIDES]
        name = (element.findtext("name") or "").strip()
        where = f"{file}: object {number}"
        shapes.append(ExportedShape(where, name, points, corners=True, degrees=_degrees(element)))
    return shapes


def _degrees(element):
    """By how much CVAT and Datumaro say that a box is turned: an attribute among others, which may be somebody's own
    and no number."""
    for attribute in element.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            degrees = number_in(attribute.findtext("value"))
            return degrees if math.isfinite(degrees) else 0.0
    return 0.0


def _shapes_of(file):
    """The boxes of an annotation file of another part. None of one that is damaged: who reads that part says so."""
    try:
        root = read_xml(file, ROOT, TEXT_BYTES)
    except (OSError, ValueError):
        return []
    return _shapes(root, file)


def _begin_at_0(shapes):
    """Why pixels are counted from 0, or nothing: VOC's own numbers are at least 1, and most are whole. Boxes
    are turned by CVAT and Datumaro alone, who count from 0."""
    boxes = [shape.points for shape in shapes if len(shape.points) == 4]
    below, turned = sum(min(box[:2]) < 1 for box in boxes), sum(shape.degrees != 0 for shape in shapes)
    fractions = sum(any(value % 1 for value in box) for box in boxes)
    if below or turned or 2 * fractions > len(boxes):
        return f"of {len(boxes)} boxes {below} begin below 1, {fractions} have fractions, and {turned} are turned"
    return ""


def _from_0(shape):
    """A box that is counted from 1 as one from 0. It includes its last pixel."""
    if len(shape.points) != 4:
        return shape
    x0, y0, *end = shape.points
    return replace(shape, points=[x0 - 1, y0 - 1, *end])
