"""Boxes of the model, tensors (..., 4) of (cx, cy, w, h) in 0..1 of an image, and corners in its pixels."""

import torch
from torchvision.ops import box_convert


def pixel_corners(centers: torch.Tensor, width: float, height: float) -> torch.Tensor:
    """(cx, cy, w, h) in 0..1 of an image -> x0, y0, x1, y1 in its pixels."""
    return box_convert(centers, "cxcywh", "xyxy") * _sides(centers, width, height)


def relative_centers(corners: torch.Tensor, width: float, height: float) -> torch.Tensor:
    """x0, y0, x1, y1 in pixels of an image -> (cx, cy, w, h) in 0..1 of it."""
    return box_convert(corners / _sides(corners, width, height), "xyxy", "cxcywh")


def _sides(boxes, width, height):
    return torch.tensor([width, height] * 2, dtype=boxes.dtype, device=boxes.device)
