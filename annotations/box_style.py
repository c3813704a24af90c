"""How a COCO file writes its boxes: x, y, w, h in pixels, as it should, or otherwise, in all of its rows.

One box tells nothing: [10, 8, 50, 58] is a box in four ways. All of them together do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from typing import Any, TypeGuard

    from decodetr.annotations.findings import Findings

_FORMS = {"coco": "x, y, w, h", "pascal_voc": "two corners", "yolo": "centre and size"}
_RELATIVE = "all boxes lie within 0..1: relative, not pixels"
_RUNS = re.compile("(?:[P-o]*[0-O])*")  # numbers of six bits a character, of which one says that more follow
_ALL = 0.98  # of the boxes: a few are wrong in every file


@dataclass(frozen=True)
class BoxStyle:
    """A form, one of BOX_FORMATS, in pixels or `relative` to the image."""

    form: str = "coco"
    relative: bool = False

    def read(self, box: Sequence[float], width: float, height: float) -> list[float]:
        """x, y, w, h in pixels."""
        x, y, a, b = box
        if self.form == "pascal_voc":
            a, b = a - x, b - y
        elif self.form == "yolo":
            x, y = x - a / 2, y - b / 2
        return [x * width, y * height, a * width, b * height] if self.relative else [x, y, a, b]

    def fits(self, box: Sequence[float], width: float, height: float) -> bool:
        """Whether a box is one inside its image that way, to 2 % of its size and a pixel."""
        x, y, w, h = self.read(box, width, height)
        right, bottom = 0.02 * width + 1, 0.02 * height + 1
        return (
            w > 0 and h > 0 and min(x + right, y + bottom) >= 0 and x + w <= width + right and y + h <= height + bottom
        )


def find_style(
    entries: list[dict[str, Any]], images: Mapping[int, dict[str, Any]], declared: str | None, findings: Findings
) -> BoxStyle | None:
    """
    The style of all boxes of a file.

    Args:
        entries (list[dict]): annotations. images (dict): id -> entry with width and height.
        declared (str, optional): the form that the user says, one of BOX_FORMATS.
        findings (Findings): is told where it is not COCO's.

    Returns:
        BoxStyle, or None where the boxes are not COCO's and could be of two forms.
    """
    pairs = [(entry.get("bbox"), images[entry["image_id"]]) for entry in entries if entry.get("image_id") in images]
    # Boxes without area say nothing: four zeros would be relative.
    boxes = [(box, image["width"], image["height"]) for box, image in pairs if is_box(box) and box[2] and box[3]]
    relative = bool(boxes) and all(max(box) <= 1 and min(width, height) > 4 for box, width, height in boxes)
    if declared is not None:
        style = BoxStyle(declared, relative)
    elif relative:
        style = _relative_style(boxes, findings)
    else:
        values = np.array([box for box, *_ in boxes], dtype=np.float64).reshape(-1, 4)
        said = doubts(values, np.array([size for _, *size in boxes], dtype=np.float64).reshape(-1, 2))
        style = BoxStyle("pascal_voc" if said else "coco")
    if style is None or style == BoxStyle():
        return style
    repair = f"multiplied by the image's size, as {_FORMS[style.form]}" if style.relative else "turned into x, y, w, h"
    if style.relative:
        findings.add("error", _RELATIVE, repair=repair)
    elif declared is not None:
        findings.add("error", f"boxes are {_FORMS[style.form]}, as --box-format says", repair=repair)
    else:
        findings.add("error", said, repair=repair)
    return style


def _relative_style(boxes, findings):
    styles = [BoxStyle(form, True) for form in _FORMS]
    possible = [style for style in styles if sum(style.fits(*box) for box in boxes) >= _ALL * len(boxes)]
    if len(possible) == 1:
        return possible[0]
    words = " or ".join(_FORMS[style.form] for style in possible) or "none of " + ", ".join(_FORMS.values())
    findings.add("error", f"{_RELATIVE}; they can be {words}: say which (--box-format)", short(boxes[0][0]))
    return None


def doubts(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """What speaks against boxes that are read as x, y, w, h in pixels. Empty where nothing does.

    Args:
        boxes (np.ndarray of shape (n, 4)). sizes (np.ndarray of shape (n, 2)): width and height of their images.
    """
    some = (boxes[:, 2:] > 0).all(axis=1)
    boxes, sizes = boxes[some], sizes[some]
    if not len(boxes):
        return ""
    if boxes.max() <= 1 and sizes.min() > 4:
        return _RELATIVE
    beyond = (boxes[:, :2] + boxes[:, 2:] > 1.02 * sizes + 1).any(axis=1)
    fits = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= sizes + 1).all(axis=1)
    corners = int((beyond & fits).sum())
    return _share(corners, len(boxes)) if _seem_corners(corners, int(beyond.sum()), len(boxes)) else ""


def _seem_corners(corners, beyond, total):
    """Boxes of two corners leave the image when read as x, y, w, h. Not all, where they lie at the top left."""
    return corners > 0.2 * total and corners >= 0.9 * beyond


def _share(corners, total):
    share = f"{corners} of {total} leave their image as x, y, w, h and fit as x0, y0, x1, y1"
    return f"boxes seem to be two corners: {share}"


def is_box(box: object) -> TypeGuard[list[float]]:
    """Whether a value is a list of four finite numbers."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(value) in (int, float) and math.isfinite(value) for value in box)
    )


def mask_box(segmentation: object, width: int, height: int) -> list[float] | None:
    """x, y, w, h around a mask of COCO, run lengths as a list or as a text, of an image of this size. None where it is
    none."""
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        return None
    counts, width, height = segmentation.get("counts"), int(width), int(height)
    if isinstance(counts, str):
        usable = _RUNS.fullmatch(counts) is not None  # else pycocotools reads beyond the end
    else:
        usable = isinstance(counts, list) and all(type(run) is int and 0 <= run < 2**32 for run in counts)
    if not usable:
        return None
    from pycocotools import mask

    coded = {"size": [height, width], "counts": counts}
    return mask.toBbox(mask.frPyObjects(coded, height, width) if isinstance(counts, list) else coded).tolist()


def polygon_points(segmentation: object) -> list[float]:
    """All coordinates x, y, x, y, ... of COCO's polygons. Empty where there are none."""
    if not isinstance(segmentation, list):
        return []
    points = [value for part in segmentation if isinstance(part, list) for value in part]
    usable = len(points) >= 6 and len(points) % 2 == 0 and all(type(value) in (int, float) for value in points)
    return points if usable and all(map(math.isfinite, points)) else []
