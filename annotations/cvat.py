"""CVAT's "CVAT for images 1.1": annotations.xml, with pictures in images/ or anywhere else in the folder.

A project's file has the subset of each image. Boxes that are turned, polygons, ellipses and masks become the boxes
around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape
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
from decodetr.annotations.turned_shapes import around_ellipse
from decodetr.utils.files import regular_file
from decodetr.utils.xml_documents import read_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from decodetr.annotations.coco import CocoAnnotations

ROOT = "annotations"
# "<" stands in no attribute, so that a search ends at the next tag, whatever a file holds.
_IMAGE = re.compile(rb"<image\s(?:[^<>\"']|\"[^<\"]*\"|'[^<']*')*>")
_ATTRIBUTE = re.compile(rb"([\w:.-]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
NO_SUBSET = "(none)"  # in messages
_ELSEWHERE = ("polyline", "points", "cuboid", "skeleton")  # shapes without an area


def cvat_subsets(file: str | Path) -> list[str]:
    """The subsets of the images of a file, in their order. "" is that of images that name none."""
    images = _IMAGE.findall(regular_file(file).read_bytes())  # a parser takes many times as long
    written = dict.fromkeys(dict(_ATTRIBUTE.findall(image)).get(b"subset", b'""')[1:-1] for image in images)
    return [unescape(name.decode(errors="replace")) for name in written]


def read_cvat(
    file: str | Path,
    subsets: Sequence[str] | None = None,
    others: Sequence[str] = (),
    images: str | Path | None = None,
    check_images: bool = True,
    findings: Findings | None = None,
) -> CocoAnnotations:
    """
    The images of an export.

    Args:
        file: annotations.xml. subsets: of the images that are taken. Default: all images.
        others: subsets that are no part, NO_SUBSET among them. Images of theirs are told of.
        images: the folder of the pictures. Default: that of the file.
        check_images (bool): they must be there.
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.

    Returns:
        CocoAnnotations: names in the order of CVAT's labels.

    Raises:
        FileNotFoundError, ValueError: the message names file and image.
    """
    file, told = Path(file), told_to(findings)
    root = read_xml(file, ROOT)
    if root.find("track") is not None:
        raise ValueError(f"{file}: expected images, got the tracks of a video; export it as 'CVAT for images 1.1'")
    folder = file.parent if images is None else Path(images)
    finder = PictureFinder(folder, check_images)
    found, everywhere = [], []
    for row, element in enumerate(root.findall("image")):
        where = f"{file}: image {element.get('id', row)} ({element.get('name', '')[:80]!r})"
        subset, name = element.get("subset", ""), element.get("name", "")
        taken = subsets is None or subset in subsets
        beside = [f"images/{subset}", "images", "", subset] if subset else ["images", "images/default", ""]
        path = finder.locate(name, where, told if taken else Findings(), beside) if taken or check_images else None
        everywhere += [] if path is None else [path]
        if (subset or NO_SUBSET) in others:
            what = f"images that are in no part: subsets {', '.join(others)}"
            told.add("warning", what, where, "not used; call their subset train, val or test")
        if taken:
            size = declared_size(element.get("width"), element.get("height"))
            found.append(ExportedImage(where, name, path, size, _shapes(element, where, told)))
    labels = (label for label in root.iterfind("./meta//label") if label.find("parent") is None)
    names = [label.findtext("name", "").strip() for label in labels]
    coco = exported_annotations(file, folder, found, findings, told, [name for name in names if name])
    if check_images:
        coco.left_over = left_over(finder, everywhere)
    return coco


def _shapes(image: Element, where, told):
    shapes = []
    for number, element in enumerate(image):
        place = f"{where}, {element.tag} {number}"
        if element.tag in _ELSEWHERE:
            passed_over(element.tag, place, told)
        elif element.tag in _READERS:
            points, corners = _READERS[element.tag](element)
            degrees = number_in(element.get("rotation", "0")) if element.tag == "box" else 0.0
            shapes.append(ExportedShape(place, element.get("label"), points, corners, degrees))
    return shapes


def _numbers(element, *keys):
    return [number_in(element.get(key)) for key in keys]


def _of_box(element):
    return _numbers(element, "xtl", "ytl", "xbr", "ybr"), True


def _of_polygon(element):
    return [number_in(value) for pair in element.get("points", "").split(";") for value in pair.split(",")], False


def _of_ellipse(element):
    x, y, rx, ry = _numbers(element, "cx", "cy", "rx", "ry")
    return around_ellipse((x, y), (rx, ry), number_in(element.get("rotation", "0"))), True


def _of_mask(element):
    left, top, width, height = _numbers(element, "left", "top", "width", "height")
    return [left, top, left + width, top + height], True


_READERS = {"box": _of_box, "polygon": _of_polygon, "ellipse": _of_ellipse, "mask": _of_mask}
