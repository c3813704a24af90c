"""Forms of boxes in annotation files, as arrays of NumPy (..., 4): x, y, w, h in pixels, and corners x0, y0, x1, y1.

Tensors are left to torchvision's `box_convert` (`box_tensors.py`), which takes no arrays. Reading annotations must not
cost an import of torch. All functions return new arrays.
"""

import numpy as np


def corners_of(boxes: np.ndarray) -> np.ndarray:
    """x, y, w, h -> x0, y0, x1, y1."""
    corners = boxes.copy()
    corners[..., 2:] += boxes[..., :2]
    return corners


def sides_of(corners: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 -> x, y, w, h."""
    boxes = corners.copy()
    boxes[..., 2:] -= corners[..., :2]
    return boxes


def centers_to_sides(centers: np.ndarray) -> np.ndarray:
    """cx, cy, w, h -> x, y, w, h."""
    boxes = centers.copy()
    boxes[..., :2] -= centers[..., 2:] / 2
    return boxes


def in_pixels(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes of any form in 0..1 of an image -> the same form in its pixels."""
    boxes = boxes.copy()
    boxes[..., 0::2] *= width
    boxes[..., 1::2] *= height
    return boxes
