"""Tiles: what lies across their borders comes out whole, and once."""

import numpy as np
import PIL.Image
import pytest
import supervision as sv

from decodetr.inference.slicing import detect_in_tiles


def boxes_of_colours(pictures):
    """A detector: the box of the red pixels (name 0) and of the blue ones (name 1), as far as a picture shows them."""
    found = []
    for picture in pictures:
        pixels, rows = np.asarray(picture), []
        for name, channel in enumerate((0, 2)):
            ys, xs = np.nonzero(pixels[..., channel] > 128)
            if len(xs):
                rows.append((name, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.5 + 1e-4 * len(xs) ** 0.5))
        rows = np.array(rows, dtype=np.float32).reshape(-1, 6)
        found.append(
            sv.Detections(
                xyxy=rows[:, 1:5],
                class_id=rows[:, 0].astype(int),
                confidence=rows[:, 5],
                data={"class_name": np.array(["red", "blue"])[rows[:, 0].astype(int)]},
            )
        )
    return found


def small_only(pictures):
    """The same of a detector that finds nothing in the whole picture, as it would be shrunk."""
    return [
        found if picture.width <= 100 else found[:0] for found, picture in zip(boxes_of_colours(pictures), pictures)
    ]


def picture(size=(300, 220), red=None, blue=None):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for channel, box in ((0, red), (2, blue)):
        if box is not None:
            pixels[box[1] : box[3], box[0] : box[2], channel] = 255
    return PIL.Image.fromarray(pixels)


# Tiles of 100 with an overlap of 20 begin at 0, 80, 160 and 200.
@pytest.mark.parametrize(
    "box",
    [
        (85, 30, 98, 40),  # whole in two tiles
        (75, 30, 95, 40),  # whole in the first tile, cut in the second
        (70, 90, 130, 120),  # across a border in both directions, larger than the overlap
        (70, 10, 290, 200),  # across all tiles
        (0, 0, 10, 10),
        (290, 210, 300, 220),
    ],
)
@pytest.mark.parametrize("detector", [boxes_of_colours, small_only])
def test_an_object_across_borders_comes_out_whole_and_once(detector, box):
    found = detect_in_tiles(picture(red=box), detector, 100, 0.2)
    np.testing.assert_array_equal(found.xyxy, [box])
    assert found.class_id.tolist() == [0] and found.data["class_name"].tolist() == ["red"]


def test_objects_of_different_names_and_places_stay_apart():
    red, blue = (75, 30, 95, 40), (76, 31, 94, 39)
    found = detect_in_tiles(picture(red=red, blue=blue), small_only, 100, 0.2)
    assert {(name, *box) for name, box in zip(found.class_id.tolist(), found.xyxy.tolist())} == {(0, *red), (1, *blue)}
    assert found.confidence.tolist() == sorted(found.confidence.tolist(), reverse=True)
    assert len(detect_in_tiles(picture(), boxes_of_colours, 100, 0.2)) == 0


def test_a_picture_that_fits_into_a_tile_is_seen_once():
    seen = []

    def count(pictures):
        seen.extend(pictures)
        return boxes_of_colours(pictures)

    found = detect_in_tiles(picture(size=(90, 100), red=(10, 10, 20, 20)), count, 100, 0.2)
    assert len(seen) == 1 and found.xyxy.tolist() == [[10, 10, 20, 20]]
