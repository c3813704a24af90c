"""Large pictures in overlapping tiles, so that small objects are seen in their full size.

The picture as a whole is one more tile. Each tile shows a part of an object, or all of it. Two detections of a name
from two tiles are one object if their boxes agree on what both tiles show. So an object comes out once, and whole: as
a tile that has all of it shows it, else as the box around its parts. docs/inference.md says where this is not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import PIL.Image

from decodetr.utils.images import in_batches
from decodetr.utils.quiet_supervision import sv

if TYPE_CHECKING:
    Detector = Callable[[list[PIL.Image.Image]], list[sv.Detections]]

_NEAR = 2.0  # pixels: what ends so close to the border of a tile may go on behind it; what two tiles see differs by it
_SAME = 0.5  # IoU of what both tiles show, from which two boxes are one object
_PARTS = 0.1  # share of the smaller one there, from which two boxes that borders cut are one object
_COVERED = 0.5  # share of a box that lies in another, with which it is a part of that


def detect_in_tiles(
    image: PIL.Image.Image, detector: Detector, size: int, overlap: float = 0.2, batch_size: int = 4
) -> sv.Detections:
    """
    Detections of a picture and of its tiles, merged.

    Args:
        image: RGB.
        detector (function): pictures -> `supervision.Detections` of each, with class_id and confidence.
        size (int): side of a tile, pixels.
        overlap (float): of neighbouring tiles, share of their side, 0 to below 1. Objects up to this size come out
            whole from a tile.
        batch_size (int): tiles at once. Each is cut when it is its turn.

    Returns:
        `supervision.Detections` in pixels of the picture, best first. Objects that several tiles show have the score
        and the box of the surest one that shows all of it; else the best score of their parts.
    """
    tiles = tiles_of(image.size, size, overlap)
    found, tile_of = [], []
    for batch in in_batches(range(len(tiles)), batch_size, lambda row: np.prod(tiles[row][2:] - tiles[row][:2])):
        pictures = [image if row == 0 else image.crop(tuple(tiles[row].tolist())) for row in batch]
        for row, result in zip(batch, detector(pictures)):
            if row:
                result = _moved(result, tiles[row])
            found.append(result)
            tile_of += [row] * len(result)
    merged = sv.Detections.merge(found)
    if len(merged) and len(tiles) > 1:
        merged = _merge(merged, np.array(tile_of), tiles.astype(np.float32))
    return _best_first(merged)


def tiles_of(picture: tuple[int, int], size: int, overlap: float = 0.2) -> np.ndarray:
    """
    (T, 4) int64: x0, y0, x1, y1 of the tiles of a picture in pixels, the whole picture first, the others row by row.

    All have the same size, so the last ones of a row or column share more with those before them. A picture that is
    not larger than a tile is its only one.

    Args:
        picture: (width, height). size (int): side of a tile. overlap (float): share of it, 0 to below 1.
    """
    step = size - int(size * overlap)
    columns, rows = ([*range(0, max(side - size, 0), step), max(side - size, 0)] for side in picture)
    width, height = (min(side, size) for side in picture)
    whole = [(0, 0, *picture)]
    tiles = [(x, y, x + width, y + height) for y in rows for x in columns]
    return np.array(whole if tiles == whole else whole + tiles, dtype=np.int64)


def _moved(result, tile):
    """Detections of a tile in pixels of the picture, cut off at the tile."""
    result.xyxy = np.clip(result.xyxy + tile[[0, 1, 0, 1]], tile[[0, 1, 0, 1]], tile[[2, 3, 2, 3]]).astype(np.float32)
    return result[(result.xyxy[:, 2:] > result.xyxy[:, :2]).all(axis=1)]


def _best_first(found):
    return found[np.argsort(-found.confidence, kind="stable")] if len(found) else found


class _Parts(NamedTuple):
    """n detections: boxes (n, 4), names (n,), the tile (n,) of each, tiles (T, 4), and cut (n, 4): whether a box goes
    up to the border of its tile at x0, y0, x1, y1, and the picture goes on there."""

    boxes: np.ndarray
    names: np.ndarray
    tile: np.ndarray
    tiles: np.ndarray
    cut: np.ndarray


def _merge(found, tile_of, tiles):
    """One detection for each object."""
    frame = tiles[tile_of]
    boxes = np.clip(found.xyxy, frame[:, [0, 1, 0, 1]], frame[:, [2, 3, 2, 3]])
    cut = (np.abs(boxes - frame) < _NEAR) & (np.abs(frame - tiles[0]) > 0)
    parts = _Parts(boxes, found.class_id, tile_of, tiles, cut)
    groups = _groups(parts)
    best = np.array([_best(rows, found.confidence, cut) for rows in groups])
    whole = np.array([not cut[row].any() for row in best])
    around = np.array([[*boxes[rows, :2].min(axis=0), *boxes[rows, 2:].max(axis=0)] for rows in groups])
    merged = found[best]
    merged.xyxy = np.where(whole[:, None], merged.xyxy, around).astype(np.float32)
    complete = whole | [_is_complete(boxes[rows], cut[rows], box) for rows, box in zip(groups, around)]
    covered = np.zeros(len(merged), dtype=bool)
    for name in np.unique(merged.class_id[~complete]):
        loose, others = (np.flatnonzero(same & (merged.class_id == name)) for same in (~complete, complete))
        if len(others):
            covered[loose] = _share_inside(merged.xyxy[loose], merged.xyxy[others]).max(axis=1) >= _COVERED
    return merged[~covered]


def _best(rows, scores, cut):
    """Of the detections of an object the surest one that no border cuts, else the surest one."""
    whole = [row for row in rows if not cut[row].any()]
    return max(whole or rows, key=lambda row: scores[row])


def _is_complete(boxes, cut, around):
    """Whether each side of the box around some parts is the end of the object, and not of a tile."""
    return bool(((np.abs(boxes - around) <= _NEAR) & ~cut).any(axis=0).all())


def _groups(parts):
    """Lists of the detections that are one object each, no two of one tile. What agrees best is put together first."""
    group = list(range(len(parts.boxes)))
    members = [[row] for row in group]
    seen = [{tile} for tile in parts.tile.tolist()]
    for first, second in _links(parts):
        one, other = group[first], group[second]
        if one == other or not seen[one].isdisjoint(seen[other]):
            continue
        if len(members[one]) < len(members[other]):
            one, other = other, one
        for row in members[other]:
            group[row] = one
        members[one] += members[other]
        seen[one] |= seen[other]
        members[other] = []
    return [rows for rows in members if rows]


def _links(parts: _Parts) -> Iterator[tuple[int, int]]:
    """Pairs of detections of two tiles that may be one object, the surest ones first."""
    links = [_links_of(parts, tile) for tile in range(1, len(parts.tiles))]
    first, second, is_part, agreement, distance, shown = (np.concatenate(column) for column in zip(*links))
    # Where several agree equally well, the larger view tells more: what two tiles share may be full of both.
    order = np.lexsort((-shown, distance, -agreement, is_part))
    return zip(first[order].tolist(), second[order].tolist())


def _links_of(parts, tile):
    """Links of the detections of a tile with those of tiles before it, as columns: rows of both, whether they are
    parts that borders cut, how well they agree, how far their sides are apart, and how much both tiles show."""
    here, mine = parts.tiles[tile], np.flatnonzero(parts.tile == tile)
    touching = _is_near(parts.tiles[:tile], here)
    others = np.flatnonzero((parts.tile < tile) & np.append(touching, [False] * (len(parts.tiles) - tile))[parts.tile])
    others = others[_is_near(parts.boxes[others], here)]
    row, column = np.nonzero(parts.names[mine][:, None] == parts.names[others][None])
    first, second = mine[row], others[column]
    a, b, there = parts.boxes[first], parts.boxes[second], parts.tiles[parts.tile[second]]
    low, high = np.maximum(here[:2], there[:, :2]), np.minimum(here[2:], there[:, 2:])  # what both tiles show
    in_a, in_b = (np.clip(box, np.tile(low, 2), np.tile(high, 2)) for box in (a, b))
    distance = np.abs(in_a - in_b).sum(axis=1)
    close = np.abs(in_a - in_b) <= _NEAR
    lows, highs = close[:, :2], close[:, 2:]
    low_a, low_b = (np.where(lows, np.minimum(in_a, in_b)[:, :2], one[:, :2]) for one in (in_a, in_b))
    high_a, high_b = (np.where(highs, np.maximum(in_a, in_b)[:, 2:], one[:, 2:]) for one in (in_a, in_b))
    side_a, side_b = high_a - low_a, high_b - low_b
    both = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
    # Tiles that share next to nothing in a direction: there the boxes have to meet.
    thin = high - low <= 2 * _NEAR
    meets = np.maximum(a[:, :2], b[:, :2]) - np.minimum(a[:, 2:], b[:, 2:]) < 2 * _NEAR
    side_a, side_b, both = np.where(thin, 1, side_a), np.where(thin, 1, side_b), np.where(thin, meets, both)
    both, area_a, area_b = (side.prod(axis=1) for side in (both, side_a, side_b))
    agreement = both / np.maximum(area_a + area_b - both, 1e-9)
    share = both / np.maximum(np.minimum(area_a, area_b), 1e-9)
    cut_a, cut_b = parts.cut[first], parts.cut[second]
    after, before = here[:2] > there[:, :2], here[:2] < there[:, :2]
    facing = (after & cut_a[:, :2] & cut_b[:, 2:]) | (before & cut_a[:, 2:] & cut_b[:, :2])
    is_part = agreement < _SAME
    kept = ~is_part | (facing.any(axis=1) & (share >= _PARTS))
    strength = np.where(is_part, share, agreement)
    columns = first, second, is_part, strength, distance, (high - low).prod(axis=1)
    return tuple(column[kept] for column in columns)


def _is_near(boxes, box):
    """(n,): which of n boxes are at most as far from a box as what two tiles see may differ."""
    return ((boxes[:, :2] <= box[2:] + _NEAR) & (boxes[:, 2:] >= box[:2] - _NEAR)).all(axis=1)


def _share_inside(boxes, others):
    """(n, m): which share of each of n boxes lies in each of m others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    return shared / np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), 1e-9)[:, None]
