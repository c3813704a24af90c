"""Which detection found which object: COCO's greedy matching, detection by detection, for what the engines do not give
away: kinds of errors, confusions, calibration, intervals. Its AP equals theirs (tested)."""

from collections.abc import Sequence

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


def match_detections(
    truth: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    thresholds: np.ndarray | Sequence[float] = IOU_THRESHOLDS,
) -> dict[str, np.ndarray]:
    """
    COCO's matching of the detections of each image to its objects of the same name, best score first.

    Args:
        truth, found: dicts of arrays, as [`DetectionEvaluator.truth`] and `found` give them.
        thresholds: T IoU thresholds, ascending.

    Returns:
        dict of arrays, one entry per detection:
        "hit" (D, T) bool: it found an object; "ignored" (D, T) bool: it counts neither as found nor as wrong;
        "object" (D,) row of `truth` that it found at the first threshold, or -1;
        "same_iou", "other_iou" (D,) greatest IoU with an object of its name, and of another; "same_object",
        "other_object" (D,) rows of those, or -1.
    """
    count, steps = len(found["score"]), len(thresholds)
    result = {
        "hit": np.zeros((count, steps), dtype=bool),
        "ignored": np.zeros((count, steps), dtype=bool),
        "object": np.full(count, -1),
        "same_iou": np.zeros(count),
        "other_iou": np.zeros(count),
        "same_object": np.full(count, -1),
        "other_object": np.full(count, -1),
    }
    order = np.argsort(truth["image"], kind="stable")
    images, starts = np.unique(found["image"], return_index=True)
    ends = np.append(starts[1:], count)
    first = np.searchsorted(truth["image"][order], images, side="left")
    last = np.searchsorted(truth["image"][order], images, side="right")
    for start, end, left, right in zip(starts, ends, first, last):
        if left < right:
            _match_image(truth, found, order[left:right], np.arange(start, end), thresholds, result)
    return result


def _match_image(truth, found, objects, rows, thresholds, result):
    crowd = truth["crowd"][objects]
    iou = box_iou(found["box"][rows], truth["box"][objects], crowd)
    same = found["name"][rows][:, None] == truth["name"][objects][None, :]
    for key, allowed in (("same", same & ~crowd), ("other", ~same & ~crowd)):
        values = np.where(allowed, iou, 0.0)
        best = values.argmax(1)
        result[f"{key}_iou"][rows] = values[np.arange(len(rows)), best]
        result[f"{key}_object"][rows] = np.where(values.max(1) > 0, objects[best], -1)
    candidates = same & (iou >= thresholds[0])
    for step, threshold in enumerate(thresholds):
        taken = np.zeros(len(objects), dtype=bool)
        for row in np.flatnonzero(candidates.any(1)):
            fits = candidates[row] & (iou[row] >= min(threshold, 1 - 1e-10))
            free = fits & ~crowd & ~taken
            if free.any():
                # Of equal ones the last, as COCO's tools choose.
                best = len(objects) - 1 - np.where(free, iou[row], -1)[::-1].argmax()
                taken[best] = result["hit"][rows[row], step] = True
                if step == 0:
                    result["object"][rows[row]] = objects[best]
            elif (fits & crowd).any():
                result["ignored"][rows[row], step] = True


def rows_of(numbers: np.ndarray, count: int, chosen: np.ndarray | None = None) -> list[np.ndarray]:
    """Of each number 0..count-1 the rows that have it, in their order. With `chosen`, a mask, of those rows only."""
    rows = np.arange(len(numbers)) if chosen is None else np.flatnonzero(chosen)
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    return np.split(rows, np.searchsorted(numbers[rows], np.arange(1, count)))


def box_iou(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(n, m) IoU of boxes (n, 4) and (m, 4), x, y, w, h. With a crowd (m,) the share of the box inside it."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    inside = (high - low).clip(min=0).prod(-1)
    area = boxes[:, 2:].prod(-1)[:, None]
    union = np.where(crowd[None], area, area + others[:, 2:].prod(-1)[None] - inside)
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def average_precision(scores: np.ndarray, hit: np.ndarray, objects: int) -> float:
    """
    COCO's AP of one name: mean of the precision at 101 recalls.

    Args:
        scores (D,): of its detections that count. hit (D,) bool: which of them found an object.
        objects (int): how many there are.

    Returns:
        float in 0..1. NaN without objects.
    """
    if objects == 0:
        return float("nan")
    hit = hit[np.argsort(-scores, kind="stable")].astype(np.float64)
    return float(precision_at_recalls(hit, 1 - hit, objects).mean())


def precision_at_recalls(right: np.ndarray, wrong: np.ndarray, objects: float) -> np.ndarray:
    """(101,) precision at recalls 0, 0.01 .. 1 of weights (D,) in descending order of the score. 0 beyond the last."""
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    precision = right / np.maximum(right + wrong, np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, _RECALLS, side="left")
    return np.append(precision, 0.0)[places]
