"""The exported graph gives the detections of the model: both look at the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from decodetr.export.graph import DetectionGraph
from decodetr.runtime.post_processing import sigmoid

if TYPE_CHECKING:
    from typing import Any

    from decodetr.export.settings import ExportSettings
    from decodetr.runtime.sessions import Session

BATCHES = (1, 4)
# By dtype: how far scores, and sides of boxes as a share of the image, may be off, and the least share of what the
# model gives that must be found again. Detectors that choose their queries choose another one where two are as good.
LIMITS = {"float32": (1e-3, 0.99), "float16": (2e-2, 0.9), "bfloat16": (5e-2, 0.8)}
_NOTHING = 1e-6  # a score that suppressed queries have, in any order


def check_parity(
    graph: DetectionGraph, session: Session, settings: ExportSettings, size: tuple[int, int]
) -> dict[str, Any]:
    """Compare an exported graph with the model in float32, at batch 1 and 4 where the batch is open.

    A query of the model must be among those of the graph, with its box and the scores of all names; with
    post-processing inside, a detection among those of the graph.

    Args:
        graph (DetectionGraph): of the model in float32. session ([`Session`]): of what was written.
        size (tuple): height and width of the images.

    Returns:
        dict: "batches", "compared" (how many queries or detections), "found" (of them), "score" and "box" (the largest
        differences of those that were found, a box in shares of the image), "tolerance".

    Raises:
        ValueError: too much differs.
    """
    tolerance, least = LIMITS[settings.dtype]
    batches = BATCHES if settings.batch_size is None else (settings.batch_size,)
    pairs: list[tuple[float, float]] = []
    compared, inputs = 0, _names(graph) if settings.names_input else {}
    for batch in batches:
        pixels = _pictures(batch, size)
        with torch.inference_mode():
            expected = graph(pixels, **{name: torch.from_numpy(values) for name, values in inputs.items()})
        got = session.run({"pixel_values": pixels.numpy(), **inputs})
        for row in range(batch):
            ours = {name: values[row].numpy() for name, values in expected.items()}
            theirs = {name: values[row] for name, values in got.items()}
            match = _matched_detections if settings.post_processing == "inside" else _matched_queries
            found, of = match(ours, theirs, tolerance)
            pairs, compared = pairs + found, compared + of
    result = {"batches": list(batches), "compared": compared, "found": len(pairs), "tolerance": tolerance}
    result |= {"score": max((pair[0] for pair in pairs), default=0.0), "box": max((p[1] for p in pairs), default=0.0)}
    if len(pairs) < least * compared:
        what = "detections" if settings.post_processing == "inside" else "queries"
        remedy = "The precision is too low for this model: give --dtype float32"
        if settings.dtype == "float32":
            remedy = f"The graph is wrong in this version of the {settings.format} exporter: try another --format"
        raise ValueError(
            f"the exported graph gives other detections than the model: of {compared} {what} only {len(pairs)} were "
            f"found again within {tolerance:g} (score, and side of the box as a share of the image). {remedy}"
        )
    return result


def _matched_queries(ours, theirs, tolerance):
    """(difference of scores, of boxes) of each query that theirs have too, and how many queries there are."""
    free, pairs = np.ones(len(theirs["pred_boxes"]), dtype=bool), []
    for box, logits in zip(ours["pred_boxes"], ours["logits"]):
        away = np.abs(theirs["pred_boxes"] - box).max(axis=1)
        near = np.flatnonzero(free & (away <= tolerance))
        if len(near):
            off = np.abs(sigmoid(theirs["logits"][near]) - sigmoid(logits)).max(axis=1)
            best = int((off + away[near]).argmin())
            if off[best] <= tolerance:
                free[near[best]] = False
                pairs.append((float(off[best]), float(away[near[best]])))
    return pairs, len(free)


def _matched_detections(ours, theirs, tolerance):
    """The same of detections. Those that only just are among the best may be missing on either side, and are not
    counted then."""
    free, pairs, compared = np.ones(len(theirs["scores"]), dtype=bool), [], 0
    for score, label, box in zip(ours["scores"], ours["labels"], ours["boxes"]):
        if score < _NOTHING:
            continue
        away = np.abs(theirs["boxes"] - box).max(axis=1)
        off = np.abs(theirs["scores"] - score)
        same = free & (theirs["labels"] == label) & (away <= tolerance) & (off <= tolerance)
        if same.any():
            place = int(np.where(same, away + off, np.inf).argmin())
            free[place] = False
            pairs.append((float(off[place]), float(away[place])))
        if same.any() or score > theirs["scores"].min() + 1e-3 * score:
            compared += 1
    return pairs, compared


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
