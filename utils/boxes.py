"""Forms of boxes and the ways between them, for arrays of NumPy and tensors of torch alike.

Annotation files have x, y, w, h in pixels, models (cx, cy, w, h) in 0..1 of the image, and everything else the corners
x0, y0, x1, y1 in pixels. All functions take boxes (..., 4) and return new ones of the same type.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Boxes = TypeVar("Boxes", np.ndarray, "torch.Tensor")


def corners_of(boxes: Boxes) -> Boxes:
    """x, y, w, h -> x0, y0, x1, y1."""
    corners = _copy(boxes)
    corners[..., 2:] += boxes[..., :2]
    return corners


def sides_of(corners: Boxes) -> Boxes:
    """x0, y0, x1, y1 -> x, y, w, h."""
    boxes = _copy(corners)
    boxes[..., 2:] -= corners[..., :2]
    return boxes


def centers_to_sides(centers: Boxes) -> Boxes:
    """cx, cy, w, h -> x, y, w, h."""
    boxes = _copy(centers)
    boxes[..., :2] -= centers[..., 2:] / 2
    return boxes


def pixel_corners(centers: Boxes, width: float, height: float) -> Boxes:
    """(cx, cy, w, h) in 0..1 of an image -> x0, y0, x1, y1 in its pixels."""
    corners, half = _copy(centers), centers[..., 2:] / 2
    corners[..., :2] = centers[..., :2] - half
    corners[..., 2:] = centers[..., :2] + half
    return in_pixels(corners, width, height)


def relative_centers(corners: Boxes, width: float, height: float) -> Boxes:
    """x0, y0, x1, y1 in pixels of an image -> (cx, cy, w, h) in 0..1 of it."""
    relative = _copy(corners)
    relative[..., 0::2] /= width
    relative[..., 1::2] /= height
    low, high = relative[..., :2], relative[..., 2:]
    centers = _copy(relative)
    centers[..., :2] = (low + high) / 2
    centers[..., 2:] = high - low
    return centers


def in_pixels(boxes: Boxes, width: float, height: float) -> Boxes:
    """Boxes of any form in 0..1 of an image -> the same form in its pixels."""
    boxes = _copy(boxes)
    boxes[..., 0::2] *= width
    boxes[..., 1::2] *= height
    return boxes


def _copy(boxes: Boxes) -> Boxes:
    return boxes.copy() if isinstance(boxes, np.ndarray) else boxes.clone()
