"""Which detection found which object: COCO's greedy matching, detection by detection, for what the engines do not give
away: kinds of errors, confusions, calibration, intervals. Its AP equals theirs (tested)."""

from collections.abc import Sequence

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


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
    pairs = [np.zeros((2, 0), dtype=np.int64)], [np.zeros(0)]
    for start, end, left, right in zip(starts, ends, first, last):
        if left < right:
            rows, objects, iou = _overlaps(truth, found, order[left:right], start, end, thresholds[0], result)
            pairs[0].append(np.stack([rows, objects]))
            pairs[1].append(iou)
    rows, objects = np.concatenate(pairs[0], axis=1)
    _match(truth, found, rows, objects, np.concatenate(pairs[1]), thresholds, result)
    return result


def _overlaps(truth, found, objects, start, end, threshold, result):
    """The pairs of an image that may match: rows of detections, ascending, of objects, and their IoU."""
    crowd = truth["crowd"][objects]
    iou = box_iou(found["box"][start:end], truth["box"][objects], crowd)
    same = found["name"][start:end, None] == truth["name"][objects][None, :]
    for key, allowed in (("same", same & ~crowd), ("other", ~same & ~crowd)):
        values = np.where(allowed, iou, 0.0)
        best = values.argmax(1)
        greatest = values[np.arange(end - start), best]
        result[f"{key}_iou"][start:end] = greatest
        result[f"{key}_object"][start:end] = np.where(greatest > 0, objects[best], -1)
    rows, columns = np.nonzero(same & (iou >= threshold))
    return start + rows, objects[columns], iou[rows, columns]


def _match(truth, found, rows, objects, iou, thresholds, result):
    """COCO's matching of all images together, at all thresholds. The best detections of each name in each image come
    first, in one step, then the second ones, and so on: they share no object."""
    if not len(rows):
        return
    limits = np.minimum(thresholds, 1 - 1e-10)
    detections, first = np.unique(rows, return_index=True)
    turn = _turns(found["image"][detections], found["name"][detections])
    of_pair = np.repeat(turn, np.diff(np.append(first, len(rows))))
    order = np.argsort(of_pair, kind="stable")
    rows, objects, iou, crowd = rows[order], objects[order], iou[order], truth["crowd"][objects[order]]
    ends = np.cumsum(np.bincount(of_pair))
    taken = np.zeros((len(truth["crowd"]), len(limits)), dtype=bool)
    for start, end in zip([0, *ends], ends):
        now, there, values = rows[start:end], objects[start:end], iou[start:end, None]
        some, firsts, number = np.unique(now, return_index=True, return_inverse=True)
        fits = values >= limits
        free = fits & ~crowd[start:end, None] & ~taken[there]
        best = np.maximum.reduceat(np.where(free, values, -1.0), firsts)
        # Of equal ones the last, as COCO's tools choose.
        places = np.where(free & (values == best[number]), np.arange(end - start)[:, None], -1)
        chosen = np.maximum.reduceat(places, firsts)
        hit = chosen >= 0
        row, step = np.nonzero(hit)
        taken[there[chosen[row, step]], step] = True
        result["hit"][some] = hit
        result["object"][some[hit[:, 0]]] = there[chosen[hit[:, 0], 0]]
        result["ignored"][some] = ~hit & np.logical_or.reduceat(fits & crowd[start:end, None], firsts)


def _turns(image, name):
    """(n,) how many entries with the same image and name come before each one."""
    order = np.lexsort((name, image))
    is_first = np.diff(image[order], prepend=-1) | np.diff(name[order], prepend=-1) != 0
    places = np.arange(len(order))
    turns = np.empty(len(order), dtype=np.int64)
    turns[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return turns


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
    places = np.searchsorted(right / objects, RECALLS, side="left")
    return np.append(precision, 0.0)[places]
