"""COCO's matching of detections to ground truth, and the checks of what goes in: pure functions on numpy arrays.

`detection_evaluator.py` builds streaming metrics on them. One code path for both engines, faster-coco-eval and
pycocotools, so that parity is a matter of the engines alone. AP is read from the precision table: the engines' own
summaries ignore any maxDets but 100.
"""

import contextlib
import io
import math

import numpy as np


def compact_prediction(prediction, max_detections, num_names, image_id):
    """Check one image's predictions and keep the best of them as small numpy arrays.

    Args:
        prediction: dict with "scores" (n,), "labels" (n,) and "boxes" (n, 4) xyxy pixels; tensors of any dtype and
            device, arrays or lists.
        max_detections: how many to keep, best scores first (ties: the order given).
        num_names: size of the vocabulary; labels must be in 0..num_names-1, and are not checked where it is None.
        image_id: only for error messages.

    Returns:
        (scores (m,) float32, labels (m,) int32, boxes (m, 4) float32) with m <= max_detections.

    Raises:
        ValueError: unequal lengths, NaN or infinite values, unknown labels, boxes with x1 < x0 or y1 < y0.
    """

    def to_numpy(key, dtype):
        value = prediction[key]
        if hasattr(value, "detach"):  # a tensor; bfloat16 has no numpy counterpart
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


def coco_accumulate(truth, found, num_names, max_detections, engine):
    """COCO's matching and accumulation, silent, name by name.

    A name's numbers depend on its own boxes alone, so each goes through the engine by itself, with the images that
    have a box of it: an engine given everything at once looks at every (image, name) pair, 24 million for LVIS.

    Args:
        truth: dict of arrays, one entry per annotated box: "image" (numbers in the order in which equal scores are
            ranked), "name" (0..num_names-1), "box" (x, y, w, h in pixels), "area", "crowd" (bool).
        found: dict of arrays, one entry per detection: "image", "name", "box" likewise, "score".
        engine: one of ENGINES.

    Returns:
        precision (T=10 IoU thresholds from 0.5, R=101 recalls, K names, A=4 areas: all, small, medium, large) and
        recall (T, K, A), in 0..1, NaN where a name has no ground truth in that area.
    """
    classes = _engine_classes(engine)
    precision, recall = np.full((10, 101, num_names, 4), np.nan), np.full((10, num_names, 4), np.nan)
    rows = (_rows_by_name(table["name"], num_names) for table in (truth, found))
    for name, (objects, detections) in enumerate(zip(*rows)):
        if truth["crowd"][objects].all():  # nothing to find: undefined
            continue
        tables = (
            _coco_rows(truth, objects, area=truth["area"], iscrowd=truth["crowd"]),
            _coco_rows(found, detections, area=found["box"][:, 2] * found["box"][:, 3], score=found["score"]),
        )
        precision[:, :, name], recall[:, name] = _evaluate_rows(*tables, max_detections, *classes)
    return precision, recall


def _engine_classes(engine):
    if engine == "pycocotools":
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError as error:
            raise ImportError("engine='pycocotools' needs it: pip install 'decodetr[engines]'") from error
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    return COCO, COCOeval


def _rows_by_name(names, num_names):
    """Of each name the rows of it, in their order."""
    order = np.argsort(names, kind="stable")
    return np.split(order, np.searchsorted(names[order], np.arange(1, num_names)))


def _coco_rows(table, rows, **columns):
    """COCO dicts of the rows of a table, all of category 1; ids from 1, as 0 means "unmatched" to the engines."""
    columns = {"image_id": table["image"], "bbox": table["box"], "iscrowd": 0 * table["image"], **columns}
    values = [columns[key][rows].tolist() for key in columns]
    return [
        {"id": number, "category_id": 1, **dict(zip(columns, row))} for number, row in enumerate(zip(*values), start=1)
    ]


def _evaluate_rows(objects, detections, max_detections, coco_class, evaluation_class):
    """(precision (T, R, A), recall (T, A)) of one name."""
    images = sorted({row["image_id"] for row in (*objects, *detections)})

    def index(rows):
        table = coco_class()
        table.dataset = {"images": [{"id": i} for i in images], "categories": [{"id": 1}], "annotations": rows}
        table.createIndex()
        return table

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress on stdout
        evaluation = evaluation_class(index(objects), index(detections), "bbox")
        evaluation.params.imgIds, evaluation.params.catIds = images, [1]
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    # Both engines mark "no ground truth" by -1; axes of one entry are the name and maxDets.
    precision, recall = (np.asarray(evaluation.eval[key])[..., 0, :, 0] for key in ("precision", "recall"))
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def mean_percent(values):
    """Mean of the entries that exist, in percent; NaN where none does."""
    values = np.asarray(values)
    values = values[~np.isnan(values)]
    return float(100 * values.mean()) if values.size else math.nan
