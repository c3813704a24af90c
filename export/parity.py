"""The exported graph gives the detections of the model: both look at the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from decodetr.export.graph import DetectionGraph
from decodetr.modeling_decodetr.semantic_stream import LEAST_LOG_SCORE
from decodetr.runtime.post_processing import sigmoid

if TYPE_CHECKING:
    from typing import Any

    from decodetr.export.settings import ExportSettings
    from decodetr.runtime.sessions import Session

BATCHES = (1, 4)
# By dtype: how far sides of boxes may be off, as a share of the image; how far logits of scores may be, which tell
# small scores apart; and the least share of what the model gives that must be found again. Detectors that choose their
# queries choose another one where two are as good.
LIMITS = {"float32": (1e-3, 0.02, 0.99), "float16": (2e-2, 0.3, 0.9), "bfloat16": (5e-2, 1.0, 0.8)}
# Names of a query that are compared: with a score of at least 1e-6, or of a hundredth of its best one. Others are
# never shown, and far from exact in half the precision.
_LEAST_LOGIT, _BELOW_BEST = -13.8, 4.6
_AT_FLOOR = 1e-3  # above the least logit, which is still that
_BLOCK = 32  # queries whose scores of all names are looked at together


def check_parity(
    graph: DetectionGraph, session: Session, settings: ExportSettings, size: tuple[int, int]
) -> dict[str, Any]:
    """Compare an exported graph with the model in float32, at batch 1 and 4 where the batch is open.

    A query of the model must be among those of the graph, with its box and the logits of all names; with
    post-processing inside, a detection among those of the graph. As many as `LIMITS` says. What was suppressed or not
    read has the least logit for every name, on both sides.

    Args:
        graph (DetectionGraph): of the model in float32. session ([`Session`]): of what was written.
        size (tuple): height and width of the images.

    Returns:
        dict: "batches", "compared" (how many queries or detections), "found" (of them), "score", "logit" and "box"
        (the largest differences of those that were found, a box in shares of the image).

    Raises:
        ValueError: too much differs.
    """
    box, logit, least = LIMITS[settings.dtype]
    batches = BATCHES if settings.batch_size is None else (settings.batch_size,)
    pairs: list[tuple[float, float, float]] = []
    floor = graph.model.config.calibrated(LEAST_LOG_SCORE)
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
            found, of = match(ours, theirs, box, logit, floor)
            pairs, compared = pairs + found, compared + of
    result = {"batches": list(batches), "compared": compared, "found": len(pairs)}
    for place, name in enumerate(("score", "logit", "box")):
        result[name] = max((pair[place] for pair in pairs), default=0.0)
    if not compared:
        raise ValueError(
            "the exported graph cannot be checked: the model has no detection in the pictures of the check, whose "
            f"scores are all {float(sigmoid(np.asarray(floor))):.0e}; give other names, or --post-processing outside"
        )
    if len(pairs) < least * compared:
        what = "detections" if settings.post_processing == "inside" else "queries"
        remedy = "The precision is too low for this model: give --dtype float32"
        if settings.dtype == "float32":
            remedy = f"The graph is wrong in this version of the {settings.format} exporter: try another --format"
        raise ValueError(
            f"the exported graph gives other detections than the model: of {compared} {what} only {len(pairs)} were "
            f"found again within {box:g} of the image (boxes) and {logit:g} (logits of scores). {remedy}"
        )
    return result


def _matched_queries(ours, theirs, most_box, most_logit, _floor):
    """(difference of scores, of logits, of boxes) of each query that theirs have too, and how many queries there
    are."""
    free, pairs = np.ones(len(theirs["pred_boxes"]), dtype=bool), []
    for box, logits in zip(ours["pred_boxes"], ours["logits"]):
        least = min(_LEAST_LOGIT, logits.max() - _BELOW_BEST)
        logits = np.maximum(logits, least)
        away = np.abs(theirs["pred_boxes"] - box).max(axis=1)
        near = np.flatnonzero(free & (away <= most_box))
        near = near[np.argsort(away[near], kind="stable")]
        for start in range(0, len(near), _BLOCK):  # with random weights, all of thousands are near
            some = near[start : start + _BLOCK]
            others = np.maximum(theirs["logits"][some], least)
            off = np.abs(others - logits).max(axis=1)
            best = int((off + away[some]).argmin())
            if off[best] <= most_logit:
                place = some[best]
                free[place] = False
                score = np.abs(sigmoid(others[best]) - sigmoid(logits)).max()
                pairs.append((float(score), float(off[best]), float(away[place])))
                break
    return pairs, len(free)


def _matched_detections(ours, theirs, most_box, most_logit, floor):
    """The same of detections. Those that only just are among the best may be missing on either side, and are not
    counted then."""
    free, pairs, compared = np.ones(len(theirs["scores"]), dtype=bool), [], 0
    for score, label, box in zip(ours["scores"], ours["labels"], ours["boxes"]):
        if _logit(score) < floor + _AT_FLOOR:  # suppressed, in any order
            continue
        away = np.abs(theirs["boxes"] - box).max(axis=1)
        off = np.abs(_logit(theirs["scores"]) - _logit(score))
        same = free & (theirs["labels"] == label) & (away <= most_box) & (off <= most_logit)
        if same.any():
            place = int(np.where(same, away + off, np.inf).argmin())
            free[place] = False
            pairs.append((float(abs(theirs["scores"][place] - score)), float(off[place]), float(away[place])))
        if same.any() or off.min() > 1e-3 or score > theirs["scores"].min() * 1.001:
            compared += 1
    return pairs, compared


def _logit(score):
    """log(p / (1 - p)) of scores in float32, with a number for those of 0 and 1 too."""
    score = np.clip(np.asarray(score, dtype=np.float64), 1e-38, 1 - 1e-7)
    return np.log(score / (1 - score))


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
