"""Augmentations: pixels and both kinds of boxes move together, from a seed of their own."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from decodetr.processing import DetectionAugmentation

STILL = {"flip": 0, "scale": (1, 1), "crop": 0, "colour": 0}


def _scene():
    """60 x 40, grey, with a red object and a green region; boxes by hand."""
    pixels = np.full((40, 60, 3), 90, dtype=np.uint8)
    pixels[8:20, 10:30] = (220, 0, 0)
    pixels[24:36, 40:56] = (0, 220, 0)
    boxes = {
        "boxes": torch.tensor([[10.0, 8, 30, 20]]),
        "region_boxes": torch.tensor([[40.0, 24, 56, 36], [10.0, 8, 30, 20]]),
    }
    return Image.fromarray(pixels), boxes


def _bounds(image, channel):
    """Box of the pixels where one channel stands out."""
    pixels = np.asarray(image).astype(int)
    others = [other for other in range(3) if other != channel]
    ys, xs = np.nonzero(pixels[..., channel] - pixels[..., others].max(-1) > 60)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_nothing_changes_nothing():
    image, boxes = _scene()
    result, moved, keep = DetectionAugmentation(0, **STILL)(image, boxes, epoch=0, image_id=1)
    assert np.array_equal(np.asarray(result), np.asarray(image))
    for name in boxes:
        assert torch.equal(moved[name], boxes[name])
        assert keep[name].tolist() == [True] * len(boxes[name])


def test_flip_by_hand():
    image, boxes = _scene()
    result, moved, _ = DetectionAugmentation(0, **{**STILL, "flip": 1})(image, boxes, epoch=0, image_id=1)
    assert moved["boxes"].tolist() == [[30, 8, 50, 20]]
    assert moved["region_boxes"].tolist() == [[4, 24, 20, 36], [30, 8, 50, 20]]
    assert np.array_equal(np.asarray(result), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize(
    "options", [{"scale": (0.5, 0.9)}, {"scale": (1.1, 2)}, {"crop": 1}, {"flip": 0.5, "crop": 0.5}]
)
def test_boxes_stay_on_their_pixels(options):
    image, boxes = _scene()
    augmentation = DetectionAugmentation(3, **{**STILL, **options})
    sizes, seen = set(), 0
    for epoch in range(60):
        result, moved, keep = augmentation(image, boxes, epoch=epoch, image_id=5)
        sizes.add(result.size)
        width, height = result.size
        assert keep["boxes"].any()  # a window without any object is drawn again
        assert moved["boxes"].shape == (int(keep["boxes"].sum()), 4)
        assert keep["region_boxes"][1] == keep["boxes"][0]  # equal boxes, equal fate
        if keep["region_boxes"][0]:
            assert moved["region_boxes"][0].tolist() == _bounds(result, 1)
            seen += 1
        assert moved["region_boxes"][-1].tolist() == moved["boxes"][0].tolist() == _bounds(result, 0)
        assert (
            moved["boxes"].min() >= 0 and moved["boxes"][:, 2].max() <= width and moved["boxes"][:, 3].max() <= height
        )
    assert len(sizes) > 1 and seen > 0


def test_visible_area_rule():
    augmentation = DetectionAugmentation(0, min_visible=0.25)
    boxes = torch.tensor([[0.0, 0, 20, 10], [0.0, 0, 20, 11], [30.0, 0, 40, 10], [12.0, 0, 12, 10], [50, 50, 60, 60]])
    # The window shows x from 15: a quarter of the first two, all of the third, none of the last.
    assert augmentation._visible(boxes, (15, 0, 45, 40)).tolist() == [True, True, True, False, False]
    assert augmentation._visible(boxes, (15, 0, 45, 10)).tolist() == [True, False, True, False, False]


def test_random_numbers_depend_on_seed_epoch_and_image_only():
    image, boxes = _scene()

    def state(seed, epoch, image_id):
        result, moved, _ = DetectionAugmentation(seed)(image, boxes, epoch=epoch, image_id=image_id)
        return result.tobytes(), moved["boxes"].tolist()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    first = state(1, 2, 3)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert state(1, 2, 3) == first
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (1, 2, -3)]:
        assert state(*other) != first


def test_images_without_objects():
    image, _ = _scene()
    empty = {"boxes": torch.zeros(0, 4), "region_boxes": torch.zeros(0, 4)}
    for image_id in range(20):
        _, moved, keep = DetectionAugmentation(0)(image, empty, epoch=0, image_id=image_id)
        assert moved["boxes"].shape == (0, 4) and keep["region_boxes"].shape == (0,)


def test_colour_keeps_hue_and_boxes():
    image, boxes = _scene()
    changed = 0
    for epoch in range(10):
        result, moved, _ = DetectionAugmentation(0, **{**STILL, "colour": 0.3})(image, boxes, epoch=epoch, image_id=0)
        assert torch.equal(moved["boxes"], boxes["boxes"])
        red = np.asarray(result)[10, 15]
        assert red.argmax() == 0 and red[1] == red[2]  # red stays red
        changed += not np.array_equal(np.asarray(result), np.asarray(image))
    assert changed == 10


@pytest.mark.parametrize(
    "options, message",
    [
        ({"flip": 2}, "flip must be in 0..1, got 2"),
        ({"scale": (2, 1)}, "scale must be two ascending"),
        ({"crop_area": (0, 1)}, "crop_area must be"),
        ({"min_visible": 0}, "min_visible must be above 0"),
        ({"seed": -1}, "seed must be a non-negative integer, got -1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DetectionAugmentation(**{"seed": 0, **options})


def test_noise_and_blur_change_pixels_and_no_box():
    image, boxes = _scene()
    plain = np.asarray(image).astype(float)
    deviations, roughness = [], []
    for epoch in range(30):
        noisy, moved, _ = DetectionAugmentation(0, **STILL, noise=20.0)(image, boxes, epoch=epoch, image_id=1)
        assert torch.equal(moved["boxes"], boxes["boxes"])
        difference = np.asarray(noisy)[:8] - plain[:8]  # grey there: no clipping
        assert abs(difference.mean()) < 3
        deviations.append(difference.std())
        blurred, _, _ = DetectionAugmentation(0, **STILL, blur=2.0)(image, boxes, epoch=epoch, image_id=1)
        roughness.append(np.abs(np.diff(np.asarray(blurred).astype(float), axis=1)).max())
    assert max(deviations) < 21 and min(deviations) < 5 and 7 < np.mean(deviations) < 13  # sigma is uniform in 0..20
    assert max(roughness) <= 130 and min(roughness) < 60  # the step between grey and red is 130


@pytest.mark.parametrize("field", ["noise", "blur"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_negative_noise_and_blur_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least 0"):
        DetectionAugmentation(0, **{field: value})
