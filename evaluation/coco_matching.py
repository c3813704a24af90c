"""COCO's matching of detections to ground truth, and the checks of what goes in: pure functions on numpy arrays.

`detection_evaluator.py` builds streaming metrics on them. One code path for both engines, faster-coco-eval and
pycocotools, so that parity is a matter of the engines alone. AP is read from the precision table: the engines' own
summaries ignore any maxDets but 100.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from decodetr.evaluation.matches import rows_of

if TYPE_CHECKING:
    import torch

_BLOCK = 16  # names that go through an engine together. From 8 to 40 the time is the same


def compact_prediction(
    prediction: Mapping[str, torch.Tensor | np.ndarray | list],
    max_detections: int | None,
    num_names: int | None,
    image_id: int | str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check one image's predictions and keep the best of them as small numpy arrays.

    Args:
        prediction: dict with "scores" (n,), "labels" (n,) and "boxes" (n, 4) xyxy pixels. Tensors of any dtype and
            device, arrays or lists.
        max_detections: how many to keep, best scores first (ties: the order given).
        num_names: size of the vocabulary. Labels must be in 0..num_names-1, and are not checked where it is None.
        image_id: only for error messages.

    Returns:
        (scores (m,) float32, labels (m,) int32, boxes (m, 4) float32) with m <= max_detections.

    Raises:
        ValueError: unequal lengths, NaN or infinite values, unknown labels, boxes with x1 < x0 or y1 < y0.
    """

    def to_numpy(key, dtype):
        value = prediction[key]
        if hasattr(value, "detach"):  # a tensor. bfloat16 has no numpy counterpart
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() else value).numpy()
        return np.asarray(value, dtype=dtype)

    where = f"image {image_id!r}"
    if absent := {"scores", "labels", "boxes"} - set(prediction):
        raise ValueError(f"{where}: predictions need scores, labels and boxes; missing {sorted(absent)}")
    scores, labels = to_numpy("scores", np.float32).reshape(-1), to_numpy("labels", np.int64).reshape(-1)
    boxes = to_numpy("boxes", np.float32)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.shape != (len(scores), 4) or len(labels) != len(scores):
        raise ValueError(
            f"{where}: expected n scores, n labels and (n, 4) boxes, got {scores.shape}, {labels.shape}, {boxes.shape}"
        )
    if not np.isfinite(scores).all() or not np.isfinite(boxes).all():
        raise ValueError(f"{where}: NaN or infinite scores or boxes; look at the model's outputs before this step")
    if num_names is not None and len(labels) and (labels.min() < 0 or labels.max() >= num_names):
        bad = sorted({int(label) for label in labels if not 0 <= label < num_names})
        raise ValueError(
            f"{where}: labels {bad[:5]} are not in the vocabulary of {num_names} names (0..{num_names - 1})"
        )
    negative = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if negative.any():
        raise ValueError(
            f"{where}: box {boxes[negative][0].tolist()} has a negative size; expected (x0, y0, x1, y1) in pixels"
        )
    best = np.argsort(-scores, kind="stable")[:max_detections]
    return scores[best], labels[best].astype(np.int32), boxes[best]


def coco_accumulate(
    truth: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    num_names: int,
    max_detections: int,
    engine: str,
    areas: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's matching and accumulation, silent, a few names at a time.

    A name's numbers depend on its own boxes alone, and only the images that have a box of one of the names are looked
    at: an engine given everything at once looks at every (image, name) pair, 24 million for LVIS.

    Args:
        truth: dict of arrays, one entry per annotated box: "image" (numbers in the order in which equal scores are
            ranked), "name" (0..num_names-1), "box" (x, y, w, h in pixels), "area", "crowd" (bool).
        found: dict of arrays, one entry per detection: "image", "name", "box" likewise, "score".
        engine: one of ENGINES.
        areas: how many of COCO's areas: 4, or 1 for all objects only.

    Returns:
        precision (T=10 IoU thresholds from 0.5, R=101 recalls, K names, A areas: all, small, medium, large) and recall
        (T, K, A), in 0..1, NaN where a name has no ground truth in that area.
    """
    classes = _engine_classes(engine)
    precision, recall = np.full((10, 101, num_names, areas), np.nan), np.full((10, num_names, areas), np.nan)
    found = {
        **found,
        "area": found["box"][:, 2] * found["box"][:, 3],
        "crowd": np.zeros(len(found["name"]), dtype=bool),
    }
    rows = [rows_of(table["name"] // _BLOCK, -(-num_names // _BLOCK)) for table in (truth, found)]
    collects = gc.isenabled()
    gc.disable()  # it would look through hundreds of thousands of dicts, none of them garbage, again and again
    try:
        for start, (objects, detections) in zip(range(0, num_names, _BLOCK), zip(*rows)):
            names = range(start, min(start + _BLOCK, num_names))
            if truth["crowd"][objects].all():  # nothing to find: undefined
                continue
            tables = _coco_rows(truth, objects), _coco_rows(found, detections)
            precision[:, :, names], recall[:, names] = _evaluate_rows(*tables, names, areas, max_detections, *classes)
            del tables
            gc.collect(0)  # the engines leave cycles behind
    finally:
        if collects:
            gc.enable()
    return precision, recall


def _engine_classes(engine):
    if engine == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    return COCO, COCOeval


def _coco_rows(table, rows):
    """COCO dicts of the rows of a table. Ids from 1, as 0 means "unmatched" to the engines."""
    names = {"image": "image_id", "name": "category_id", "box": "bbox", "area": "area", "crowd": "iscrowd"}
    names |= {"score": "score"} if "score" in table else {}
    columns = [table[key][rows].tolist() for key in names]
    return [dict(zip((*names.values(), "id"), row)) for row in zip(*columns, range(1, len(rows) + 1))]


def _evaluate_rows(objects, detections, names, areas, max_detections, coco_class, evaluation_class):
    """(precision (T, R, K, A), recall (T, K, A)) of the names of a block."""
    images = sorted({row["image_id"] for row in (*objects, *detections)})

    def index(rows):
        table = coco_class()
        categories = [{"id": name} for name in names]
        table.dataset = {"images": [{"id": i} for i in images], "categories": categories, "annotations": rows}
        table.createIndex()
        return table

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress on stdout
        evaluation = evaluation_class(index(objects), index(detections), "bbox")
        evaluation.params.imgIds, evaluation.params.catIds = images, list(names)
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng = evaluation.params.areaRng[:areas]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:areas]
        evaluation.evaluate()
        evaluation.accumulate()
    # Both engines mark "no ground truth" by -1 and have a last axis of one entry per maxDets.
    precision, recall = (np.asarray(evaluation.eval[key])[..., 0] for key in ("precision", "recall"))
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def mean_percent(values: np.ndarray) -> float:
    """Mean of the entries that exist, in percent. NaN where none does."""
    values = np.asarray(values)
    values = values[~np.isnan(values)]
    return float(100 * values.mean()) if values.size else math.nan
