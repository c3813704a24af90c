"""The score of best F1, of all names and of each: thresholds.json of an evaluation, which a model can take over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodetr.evaluation.best_f1 import best_f1
from decodetr.evaluation.calibrate import LEAST_OF_A_NAME
from decodetr.evaluation.matches import rows_of
from decodetr.utils.documents import read_json

if TYPE_CHECKING:
    from decodetr.evaluation.analysis import Analysis

FILE = "thresholds.json"


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
            names[analysis.names[column]] = {"objects": objects, **best_f1(scores[rows], hit[rows], objects)}
    whole = best_f1(scores[counts], hit[counts], max(int(analysis.objects.sum()), 1))
    own = {
        name: row["threshold"]
        for name, row in names.items()
        if row["objects"] >= LEAST_OF_A_NAME and row["threshold"] is not None
    }
    ordered = dict(sorted(names.items(), key=lambda item: (item[1]["f1"], item[0])))
    return {"threshold": whole["threshold"], "name_thresholds": own, "names": ordered}


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
