"""Forms of boxes: arrays and tensors alike, and to the bit what torchvision makes of them."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from decodetr.utils.boxes import centers_to_sides, corners_of, in_pixels, pixel_corners, relative_centers, sides_of

CENTERS = torch.rand(2, 50, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [torch.Tensor.clone, torch.Tensor.numpy])
def test_forms_of_boxes(kind):
    boxes = kind(CENTERS)
    before = boxes.copy() if isinstance(boxes, np.ndarray) else boxes.clone()
    assert (corners_of(boxes) == kind(box_convert(CENTERS, "xywh", "xyxy"))).all()
    assert (pixel_corners(boxes, 640, 427) == kind(_pixel_corners(CENTERS, 640, 427))).all()
    assert (centers_to_sides(boxes)[..., :2] == boxes[..., :2] - boxes[..., 2:] / 2).all()
    assert (in_pixels(boxes, 3, 5)[..., 1::2] == boxes[..., 1::2] * 5).all()
    assert abs(sides_of(corners_of(boxes)) - boxes).max() < 1e-6
    assert abs(relative_centers(pixel_corners(boxes, 640, 427), 640, 427) - boxes).max() < 1e-6
    assert type(corners_of(boxes)) is type(boxes) and (boxes == before).all()


def _pixel_corners(centers, width, height):
    return box_convert(centers, "cxcywh", "xyxy") * torch.tensor([width, height] * 2)


@pytest.mark.parametrize("empty", [np.zeros((0, 4)), torch.zeros(0, 4)])
def test_no_boxes(empty):
    for function in (corners_of, sides_of, centers_to_sides):
        assert function(empty).shape == (0, 4)
    assert pixel_corners(empty, 3, 4).shape == relative_centers(empty, 3, 4).shape == (0, 4)
