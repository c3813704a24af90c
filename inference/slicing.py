"""Large pictures in overlapping tiles, so that small objects are seen in their full size.

supervision cuts the tiles and moves boxes to their places. A box that ends where its tile ends was cut, so its whole
is looked for: in the neighbouring tile, whose overlap holds it, or in the picture as a whole, which is one more tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from decodetr.utils.quiet_supervision import sv

if TYPE_CHECKING:
    Detector = Callable[[list[PIL.Image.Image]], list[sv.Detections]]

_CUT = 2.0  # pixels from the border of a tile
_SAME = 0.5  # IoU from which two boxes of a name are one object, or share of a cut box that lies in a whole one
_PIECES = 0.1  # share of a piece that lies in the next piece, the overlap of tiles
_EDGES, _IS_CUT = "edges", "cut"


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
        batch_size (int): tiles at once.

    Returns:
        `supervision.Detections` in pixels of the picture, best first.
    """
    width, height = image.size
    (whole,) = detector([image])
    whole.data[_IS_CUT] = np.zeros(len(whole), dtype=bool)
    if width <= size and height <= size:
        found = whole
    else:
        shared = int(size * overlap)

        def tiles(pictures):
            results = detector([PIL.Image.fromarray(tile) for tile in pictures])
            for tile, result in zip(pictures, results):
                sides = np.array([tile.shape[1], tile.shape[0]] * 2, dtype=np.float32)
                result.xyxy = np.clip(result.xyxy, 0, sides)
                edges = np.concatenate([result.xyxy[:, :2] < _CUT, result.xyxy[:, 2:] > sides[2:] - _CUT], axis=1)
                result.data[_EDGES] = edges
            return results

        slicer = sv.InferenceSlicer(
            tiles,
            slice_wh=size,
            overlap_wh=shared,
            overlap_filter=sv.OverlapFilter.NONE,
            batch_size=max(2, batch_size),
        )
        found = slicer(np.asarray(image))
        edges = np.asarray(found.data.pop(_EDGES, ()), dtype=bool).reshape(-1, 4)
        found.data[_IS_CUT] = (edges & _is_inner(found.xyxy, width, height)).any(axis=1)
        found = sv.Detections.merge([whole, found])
    merged = _merge(found)
    return merged[np.argsort(-merged.confidence, kind="stable")] if len(merged) else merged


def _is_inner(boxes, width, height):
    """(n, 4) bool: which sides x0, y0, x1, y1 of boxes are not at a border of the picture."""
    return np.concatenate([boxes[:, :2] >= _CUT, boxes[:, 2:] <= np.array([width, height]) - _CUT], axis=1)


def _merge(found):
    """One box for each object: whole ones first, then pieces of which no whole is there, joined."""
    if not len(found):
        return found
    is_cut = np.asarray(found.data.pop(_IS_CUT), dtype=bool)
    whole = found[~is_cut].with_nms(_SAME, class_agnostic=False) if (~is_cut).any() else found[~is_cut]
    pieces = found[is_cut]
    if len(whole) and len(pieces):
        covered = _share_inside(pieces.xyxy, whole.xyxy)
        covered[pieces.class_id[:, None] != whole.class_id[None]] = 0
        pieces = pieces[covered.max(axis=1) < _SAME]
    before = 0
    while len(pieces) != before:  # joined pieces touch others
        before = len(pieces)
        pieces = pieces.with_nmm(_PIECES, class_agnostic=False, overlap_metric=sv.OverlapMetric.IOS)
    return sv.Detections.merge([whole, pieces])


def _share_inside(boxes, others):
    """(n, m): which share of each of n boxes lies in each of m others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    return shared / np.maximum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), 1e-9)[:, None]
