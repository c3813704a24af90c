"""Forms of boxes: what torchvision makes of them, to the bit, for arrays too."""

import numpy as np
import torch
from torchvision.ops import box_convert

from decodetr.utils.box_tensors import pixel_corners, relative_centers
from decodetr.utils.boxes import centers_to_sides, corners_of, in_pixels, sides_of

CENTERS = torch.rand(2, 50, 4, generator=torch.Generator().manual_seed(0))


def test_forms_of_boxes_in_arrays():
    boxes, before = CENTERS.numpy().copy(), CENTERS.numpy().copy()
    assert (corners_of(boxes) == box_convert(CENTERS, "xywh", "xyxy").numpy()).all()
    assert (sides_of(boxes) == box_convert(CENTERS, "xyxy", "xywh").numpy()).all()
    assert (centers_to_sides(boxes)[..., :2] == boxes[..., :2] - boxes[..., 2:] / 2).all()
    assert (centers_to_sides(boxes)[..., 2:] == boxes[..., 2:]).all()
    assert (in_pixels(boxes, 3, 5) == boxes * np.array([3, 5, 3, 5], np.float32)).all()
    assert (boxes == before).all()


def test_boxes_of_the_model_in_pixels_and_back():
    before = CENTERS.clone()
    corners = pixel_corners(CENTERS, 640, 427)
    cx, cy, w, h = CENTERS.unbind(-1)
    expected = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1) * torch.tensor([640, 427, 640, 427])
    assert torch.equal(corners, expected) and corners.dtype == torch.float32
    assert (relative_centers(corners, 640, 427) - CENTERS).abs().max() < 1e-6
    assert torch.equal(CENTERS, before)


def test_no_boxes():
    for function in (corners_of, sides_of, centers_to_sides):
        assert function(np.zeros((0, 4))).shape == (0, 4)
    assert in_pixels(np.zeros((0, 4)), 3, 4).shape == (0, 4)
    assert pixel_corners(torch.zeros(0, 4), 3, 4).shape == relative_centers(torch.zeros(0, 4), 3, 4).shape == (0, 4)
