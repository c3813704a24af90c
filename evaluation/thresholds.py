"""The score of best F1, of all names and of each: thresholds.json of an evaluation, which a model can take over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decodetr.evaluation.calibrate import LEAST_OF_A_NAME
from decodetr.evaluation.matches import rows_of
from decodetr.utils.documents import read_json

if TYPE_CHECKING:
    from decodetr.evaluation.analysis import Analysis

FILE = "thresholds.json"
_DIGITS = 6


def best_thresholds(analysis: Analysis) -> dict[str, Any]:
    """
    Args:
        analysis ([`Analysis`]).

    Returns:
        dict: "threshold", at which F1 over all names is best; "name_thresholds": {name: its own} of the names with at
        least 40 objects, because fewer say little; "names": {name: {"objects", "threshold", "f1", "precision",
        "recall"}} of all names with objects, worst first. Scores above a threshold are shown. A name of which nothing
        was found has a threshold of None.
    """
    counts, scores, hit = analysis.counts, analysis.found["score"], analysis.hit
    names = {}
    for column, rows in enumerate(rows_of(analysis.found["name"], len(analysis.names), counts)):
        if objects := int(analysis.objects[column]):
            names[analysis.names[column]] = {"objects": objects, **_best(scores[rows], hit[rows], objects)}
    whole = _best(scores[counts], hit[counts], max(int(analysis.objects.sum()), 1))
    own = {
        name: row["threshold"]
        for name, row in names.items()
        if row["objects"] >= LEAST_OF_A_NAME and row["threshold"] is not None
    }
    ordered = dict(sorted(names.items(), key=lambda item: (item[1]["f1"], item[0])))
    return {"threshold": whole["threshold"], "name_thresholds": own, "names": ordered}


def _best(scores, hit, objects):
    """Threshold, F1, precision and recall of detections (D,) at the best F1."""
    if not hit.any():
        return {"threshold": None, "f1": 0.0, "precision": None, "recall": 0.0}
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order].astype(np.float64), np.cumsum(hit[order])
    shown = np.arange(1, len(order) + 1)
    f1 = 2 * right / (shown + objects)
    f1[:-1][ordered[:-1] == ordered[1:]] = -1  # equal scores are shown together
    best = int(f1.argmax())
    # Half-way to what is not shown any more, but close: of what lies between, these images know nothing.
    below = max(ordered[best + 1] if best + 1 < len(ordered) else 0.0, ordered[best] - 0.01)
    return {
        "threshold": round((ordered[best] + below) / 2, _DIGITS),
        "f1": round(float(f1[best]), 4),
        "precision": round(float(right[best] / shown[best]), 4),
        "recall": round(float(right[best] / objects), 4),
    }


def read_thresholds(file: str | Path) -> tuple[float, dict[str, float]]:
    """(threshold of all names, {name: its own}) of a file that [`best_thresholds`] describes. "names" is not read.

    Raises:
        ValueError: something else, with what was expected.
    """
    content = read_json(file, dict)
    common, own = content.get("threshold"), content.get("name_thresholds") or {}
    numbers = {"threshold": common, **own} if isinstance(own, dict) else {"name_thresholds": own}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            expected = '{"threshold": 0..1, "name_thresholds": {name: 0..1}}'
            raise ValueError(f"{file}: expected {expected}, as `decodetr eval` writes it, got {value!r} for {name!r}")
    return float(numbers.pop("threshold")), {name: float(value) for name, value in own.items()}
