"""Pascal VOC: an XML file for each picture, in Annotations/ or next to it, and lists of the parts in ImageSets/Main.

VOC counts pixels from 1, and its boxes include their last pixel: x0 = xmin - 1, x1 = xmax, as detectron2 and
supervision read it. Label Studio, Datumaro and others write numbers from 0. Which of the two a part has, all of its
boxes tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    usable = _from_zero(image for image in found if image is not None)
    coco = exported_annotations(folder if listed is None else listed, folder, usable, findings, told)
    if check_images:
        annotated = {file.stem for file in files}
        used = [path for path in finder.pictures if path.stem in annotated]
        coco.left_over = left_over(finder, [*used, *(Path(entry["path"]) for entry in coco.images)])
    return coco


def _listed(listed, files, folder):
    """(name, annotation file or None, place for messages) of the lines of a list. Names may have folders, spaces,
    quotes, and a flag behind them."""
    by_name = {file.stem: file for file in reversed(files)}
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
        shapes.append(ExportedShape(f"{file}: object {number}", name, points, corners=True))
    return shapes


def _from_zero(images: Iterable[ExportedImage]) -> list[ExportedImage]:
    """The images with coordinates that begin at 0 instead of 1, unless they do so already: VOC's own are at least 1,
    and most are whole numbers."""
    images = list(images)
    boxes = [shape.points for image in images for shape in image.shapes if len(shape.points) == 4]
    fractions = sum(any(value % 1 for value in box) for box in boxes)
    if any(min(box[:2]) < 1 for box in boxes) or 2 * fractions > len(boxes):
        return images
    for image in images:
        image.shapes = [
            replace(shape, points=[shape.points[0] - 1, shape.points[1] - 1, *shape.points[2:]])
            if len(shape.points) == 4
            else shape
            for shape in image.shapes
        ]
    return images
