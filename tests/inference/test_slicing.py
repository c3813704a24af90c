"""Tiles: what lies across their borders comes out whole, and once."""

import json

import numpy as np
import PIL.Image
import pytest
import supervision as sv

from decodetr.cli import main
from decodetr.inference.detection import detect
from decodetr.inference.loading import load_model
from decodetr.inference.shown import to_supervision
from decodetr.inference.slicing import detect_in_tiles, tiles_of


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


# Worlds of objects, and a detector that says exactly what a picture shows of each.

MARGIN = 4.0  # pixels between two objects of a name: less than that, a border can make one of them


class Places:
    """A picture that knows where in a world it lies, instead of pixels."""

    def __init__(self, size, corner=(0, 0)):
        self.size, self.corner = size, corner

    def crop(self, box):
        x, y = self.corner
        return Places((box[2] - box[0], box[3] - box[1]), (x + box[0], y + box[1]))


def exact(objects, names, scores=None, round_ones=False, blind_to=None):
    """A detector of objects (n, 4): boxes around what a picture shows of each, pixels of the picture.

    Args:
        scores: picture -> scores of all objects. round_ones: objects are the ellipses in their boxes, not the boxes.
        blind_to: size of a picture in which it sees nothing.
    """
    middle, radius = (objects[:, 2:] + objects[:, :2]) / 2, (objects[:, 2:] - objects[:, :2]) / 2

    def seen(picture):
        low = np.array(picture.corner)
        high = low + picture.size
        if round_ones:
            away = (np.clip(middle, low, high) - middle) / radius  # of the point of the picture that is closest
            inside = np.clip(1 - away[:, ::-1] ** 2, 0, None) ** 0.5 * radius  # half a chord, in x and y
            boxes = np.concatenate([np.maximum(middle - inside, low), np.minimum(middle + inside, high)], axis=1)
            shown = (away**2).sum(axis=1) < 1
        else:
            boxes = np.concatenate([np.maximum(objects[:, :2], low), np.minimum(objects[:, 2:], high)], axis=1)
            shown = np.ones(len(boxes), dtype=bool)
        shown = shown & (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (picture.size != blind_to)
        score = np.full(len(boxes), 0.5) if scores is None else scores(picture)
        return sv.Detections(
            xyxy=(boxes - np.tile(low, 2))[shown].astype(np.float32),
            class_id=names[shown],
            confidence=score[shown].astype(np.float32),
        )

    return lambda pictures: [seen(picture) for picture in pictures]


def random_world(seed):
    """(size, tile, overlap, objects, names): any two of a name have MARGIN between them."""
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(20, 300, 2))
    tile, overlap = int(rng.integers(32, 160)), [0, 0.02, 0.2, 0.5][seed % 4]
    objects = [], [], []
    for _ in range(60):
        most = [side if rng.random() < 0.5 else min(side, 20) for side in size]
        sides = np.array([rng.uniform(1, min(side, 2.5 * tile)) for side in most])
        low = rng.uniform(0, np.array(size) - sides)
        box = np.concatenate([low, low + sides])
        box = np.round(box) if rng.random() < 0.5 else box
        name = int(rng.integers(0, 3))
        apart = [max(*(box[:2] - old[2:]), *(old[:2] - box[2:])) for old in objects[name]]
        if min(apart, default=MARGIN) >= MARGIN and (box[2:] - box[:2] >= 1).all():
            objects[name].append(box)
    names = np.repeat(np.arange(3), [len(boxes) for boxes in objects])
    return size, tile, overlap, np.array([box for boxes in objects for box in boxes]).astype(np.float32), names


def rows(names, boxes):
    return sorted((int(name), *box) for name, box in zip(names, np.round(boxes, 2).tolist()))


@pytest.mark.parametrize("round_ones", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_object_of_a_world_comes_out_once_and_whole(seed, round_ones):
    size, tile, overlap, objects, names = random_world(seed)

    def scores(picture):
        return np.random.default_rng([*picture.corner, *picture.size]).uniform(0.3, 1, len(objects))

    for blind_to in (None, size):
        if blind_to and max(size) <= tile:
            continue
        detector = exact(objects, names, scores, round_ones, blind_to)
        found = detect_in_tiles(Places(size), detector, tile, overlap, batch_size=3)
        np.testing.assert_allclose(rows(found.class_id, found.xyxy), rows(names, objects), atol=0.02)
        assert found.confidence.tolist() == sorted(found.confidence.tolist(), reverse=True)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("blind_to", [None, (310, 230)])
def test_same_names_at_the_same_place(overlap, blind_to):
    objects = [
        (60, 60, 150, 140),  # over four tiles, and in it one of the same name, and one of another
        (90, 90, 130, 110),
        (90, 90, 130, 110),
        (160, 95, 230, 105),  # side by side
        (160, 110, 230, 120),
        (99, 200, 100, 201),  # a pixel on each side of a border
        (104, 200, 105, 201),
        (0, 0, 310, 3),  # along the picture's own border
        (307, 10, 310, 230),
    ]
    objects, names = np.array(objects, dtype=np.float32), np.array([0, 0, 1, 0, 0, 0, 0, 0, 0])
    found = detect_in_tiles(Places((310, 230)), exact(objects, names, blind_to=blind_to), 100, overlap)
    assert rows(found.class_id, found.xyxy) == rows(names, objects)


def test_an_object_has_the_score_of_the_surest_tile_that_shows_all_of_it():
    objects, names = np.array([[10, 10, 95, 30], [110, 10, 250, 40]], dtype=np.float32), np.array([0, 0])
    sure = {(300, 100): 0.6, (100, 100): 0.8}  # a tile shows but a part of the second

    def found_by(blind_to):
        detector = exact(objects, names, lambda picture: np.full(2, sure[picture.size]), blind_to=blind_to)
        found = detect_in_tiles(Places((300, 100)), detector, 100, 0.2)
        assert rows(found.class_id, found.xyxy) == rows(names, objects)
        return found.confidence.tolist()

    assert found_by(None) == pytest.approx([0.8, 0.6])
    assert found_by((300, 100)) == pytest.approx([0.8, 0.8])


def test_a_part_that_goes_on_nowhere_is_dropped_only_in_an_object_of_its_name():
    def detector(pictures):
        found = []
        for picture in pictures:
            box, name = (
                ([10, 10, 290, 90], 0) if picture.size == (300, 100) else ([60, 20, 100, 60], picture.corner[0])
            )
            there = picture.size == (300, 100) or picture.corner == (0, 0)
            one = sv.Detections(
                xyxy=np.array([box], dtype=np.float32), class_id=np.array([name]), confidence=np.array([0.5])
            )
            found.append(one if there else one[:0])
        return found

    picture = Places((300, 100))
    assert detect_in_tiles(picture, detector, 100, 0.2).xyxy.tolist() == [[10, 10, 290, 90]]

    def others(pictures):
        found = detector(pictures)
        for picture, one in zip(pictures, found):
            one.class_id = one.class_id + (picture.size != (300, 100))
        return found

    assert len(detect_in_tiles(picture, others, 100, 0.2)) == 2


def test_tiles_cover_a_picture_and_a_small_one_is_its_only_tile():
    for size, side, overlap in (
        ((300, 220), 100, 0.2),
        ((101, 50), 100, 0.0),
        ((1000, 33), 32, 0.9),
        ((99, 99), 32, 0),
    ):
        tiles = tiles_of(size, side, overlap)
        assert tiles[0].tolist() == [0, 0, *size]
        shown = np.zeros(size[::-1], dtype=int)
        for x0, y0, x1, y1 in tiles[1:]:
            assert (x1 - x0, y1 - y0) == (min(side, size[0]), min(side, size[1]))
            shown[y0:y1, x0:x1] += 1
        assert shown.min() == 1 and len({tuple(tile) for tile in tiles.tolist()}) == len(tiles)
    assert tiles_of((100, 100), 100).tolist() == [[0, 0, 100, 100]] and len(tiles_of((101, 40), 100)) == 3
    starts = tiles_of((300, 220), 100, 0.2)[1:5, 0].tolist()
    assert starts == [0, 80, 160, 200]


def test_tiles_are_cut_when_it_is_their_turn():
    cut, most = [], []

    class Counted(Places):
        def crop(self, box):
            cut.append(box)
            return super().crop(box)

    nothing = exact(np.zeros((0, 4)), np.zeros(0, dtype=int))

    def detector(pictures):
        most.append(len(cut))
        cut.clear()
        return nothing(pictures)

    assert len(detect_in_tiles(Counted((20_000, 20_000)), detector, 1000, 0.1, batch_size=8)) == 0
    # The picture has more pixels than a batch may have, so it goes alone.
    assert most[0] == 0 and max(most) == 8 and sum(most) == 23 * 23


def test_the_command_detects_in_tiles(tiny_detector_folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["predict", tmp_path / "a.png", "--model", tiny_detector_folder, "--output", tmp_path / "out"]
    options = "--slice 48 --threshold 0 --top-k 7 --batch-size 3 --device cpu --no-pictures --workers 0"
    assert main([*map(str, words), *options.split()]) == 0
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())["images"]

    model, processor = load_model(tiny_detector_folder, device="cpu")
    labels, sizes = {name: row for row, name in enumerate(model.vocabulary.names)}, []

    def detector(tiles):
        sizes.extend(tile.size for tile in tiles)
        return [to_supervision(result, labels) for result in detect(model, processor, tiles, 0.0, 7)]

    found = detect_in_tiles(PIL.Image.fromarray(pixels), detector, 48, 0.2, 3)[:7]
    assert sizes == [(90, 60)] + 6 * [(48, 48)]
    assert [row["name"] for row in entry["detections"]] == found.data["class_name"].tolist() and len(found) == 7
    np.testing.assert_allclose([row["box"] for row in entry["detections"]], found.xyxy, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose([row["score"] for row in entry["detections"]], found.confidence, rtol=1e-4)
    assert entry["best_score"] == pytest.approx(found.confidence.max(), rel=1e-4)
