"""The exported graph gives the detections of the model: both look at the same pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from decodetr.export.graph import DetectionGraph
from decodetr.runtime.post_processing import best_pairs, corners, sigmoid

if TYPE_CHECKING:
    from typing import Any

    from decodetr.export.settings import ExportSettings
    from decodetr.runtime.sessions import Session

BATCHES = (1, 4)
# By dtype: how far a score, and a side of a box as a share of the image, may be off, and the least share of detections
# that must be found again. Detectors that choose their queries choose another one where two are as good.
LIMITS = {"float32": (1e-3, 0.99), "float16": (2e-2, 0.9), "bfloat16": (5e-2, 0.8)}
_TOP_K = 100


def check_parity(
    graph: DetectionGraph, session: Session, settings: ExportSettings, size: tuple[int, int]
) -> dict[str, Any]:
    """Compare an exported graph with the model in float32, at batch 1 and 4 where the batch is open.

    Args:
        graph (DetectionGraph): of the model in float32. session ([`Session`]): of what was written.
        size (tuple): height and width of the images.

    Returns:
        dict: "batches", "detections" (how many), "found" (of them), "score" and "box" (the largest differences of
        those that were found, a box in shares of the image), "tolerance".

    Raises:
        ValueError: too many detections differ.
    """
    tolerance, least = LIMITS[settings.dtype]
    batches = BATCHES if settings.batch_size is None else (settings.batch_size,)
    total, found, score, box = 0, 0, 0.0, 0.0
    inputs = _names(graph) if settings.names_input else {}
    for batch in batches:
        pixels = _pictures(batch, size)
        with torch.inference_mode():
            expected = graph(pixels, **{name: torch.from_numpy(values) for name, values in inputs.items()})
        got = session.run({"pixel_values": pixels.numpy(), **inputs})
        for row in range(batch):
            ours = detections({name: values[row].numpy() for name, values in expected.items()})
            theirs = detections({name: values[row] for name, values in got.items()})
            pairs = _matched(ours, theirs, tolerance)
            total, found = total + len(ours[0]), found + len(pairs)
            score, box = max([score, *(pair[0] for pair in pairs)]), max([box, *(pair[1] for pair in pairs)])
    result = {"batches": list(batches), "detections": total, "found": found, "score": score, "box": box}
    if found < least * total:
        raise ValueError(
            f"the exported graph gives other detections than the model: of {total} only {found} were found again "
            f"within {tolerance:g} (score, and side of the box as a share of the image). "
            + (
                "The precision is too low for this model: give --dtype float32"
                if settings.dtype != "float32"
                else f"The graph is wrong in this version of the {settings.format} exporter: try another --format"
            )
        )
    return {**result, "tolerance": tolerance}


def detections(outputs: Mapping[str, np.ndarray], top_k: int = _TOP_K) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best scores (n,), labels (n,) and boxes (n, 4), corners in 0..1, of the outputs of a graph for one image."""
    if "scores" in outputs:
        return outputs["scores"], outputs["labels"], outputs["boxes"]
    logits, queries, labels = best_pairs(outputs["logits"], top_k)
    return sigmoid(logits), labels, corners(outputs["pred_boxes"][queries])


def _matched(ours, theirs, tolerance):
    """(difference of scores, of boxes) of each of our detections that theirs have too. Those that only just are among
    the best may be missing on either side."""
    scores, labels, boxes = theirs
    free, pairs = np.ones(len(scores), dtype=bool), []
    cut = max(ours[0].min(initial=1), scores.min(initial=1)) + tolerance
    for score, label, box in zip(*ours):
        away = np.abs(boxes - box).max(axis=1, initial=0)
        off = np.abs(scores - score)
        same = free & (labels == label) & (away <= tolerance) & (off <= tolerance)
        if same.any():
            place = int(np.where(same, away + off, np.inf).argmin())
            free[place] = False
            pairs.append((float(off[place]), float(away[place])))
        elif score < cut and len(scores) == _TOP_K:
            pairs.append((0.0, 0.0))
    return pairs


def _names(graph):
    """Names of the model as inputs of a graph."""
    tables = graph.model.tables()
    return {
        "name_rows": tables.names.numpy(),
        "log_share": tables.vocabulary.log_share.numpy(),
        "background": tables.background.numpy(),
    }


def _pictures(batch, size):
    """Pixels (B, 3, H, W) of clouds and patches, the same every time: noise alone has no edges."""
    generator = torch.Generator().manual_seed(batch)
    clouds = torch.randn(batch, 3, 6, 6, generator=generator)
    patches = torch.randn(batch, 3, 12, 12, generator=generator)
    smooth = F.interpolate(clouds, size, mode="bicubic", align_corners=False)
    return (smooth + 0.5 * F.interpolate(patches, size, mode="nearest")).contiguous()
