"""Where F1 is best, for all who say it: reports, cards, thresholds.json, counts of mistakes."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np

_CLOSE = 0.010001  # a hundredth, of a float32: what lies further below, these images know nothing of
_DIGITS = 17  # behind the point, after which a number is as exact as it gets
_EXACT = Context(prec=60)  # digits of the greatest float32 and those behind its point


def best_f1(scores: np.ndarray, hit: np.ndarray, objects: int) -> dict[str, Any]:
    """
    Args:
        scores (D,) float32: of detections that count. hit (D,) bool: which of them found an object.
        objects (int): how many there are.

    Returns:
        dict: "threshold", of as few digits as it takes: the scores above it, and no others, have the best "f1", with
        this "precision" and "recall". None, 0, None and 0 where nothing with a score above 0 was found.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, right = np.asarray(scores, dtype=np.float32)[order], np.cumsum(hit[order])
    shown = np.arange(1, len(order) + 1)
    f1 = 2 * right / (shown + objects)
    f1[:-1][ordered[:-1] == ordered[1:]] = 0  # equal scores are shown together
    f1[ordered <= 0] = 0
    if not f1.any():
        return {"threshold": None, "f1": 0.0, "precision": None, "recall": 0.0}
    best = int(f1.argmax())
    return {
        "threshold": _between(ordered[best + 1] if best + 1 < len(ordered) else np.float32(0), ordered[best]),
        "f1": round(float(f1[best]), 4),
        "precision": round(float(right[best] / shown[best]), 4),
        "recall": round(float(right[best] / objects), 4),
    }


def _between(hidden, shown):
    """A threshold above which one float32 score is and a lower one is not, close to the former.

    Models compare it as a float32, files of detections as a float64: it holds for both.
    """
    hidden = max(hidden, np.float32(0))
    least = max(float(hidden), float(shown) - _CLOSE)
    middle = Decimal((float(shown) + least) / 2)
    for digits in range(2, _DIGITS):
        value = float(middle.quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR, _EXACT))
        if max(least, np.finfo(np.float32).tiny) <= value < shown and hidden <= np.float32(value) < shown:
            return value
    return float(hidden)
