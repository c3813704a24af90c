"""What a built model is shown with where its scores were not calibrated: the default threshold is of scores that were.

A short training ends with scores far below 0.3, so that pictures would have no box at all.
"""

from pathlib import Path

from decodetr.cards.scores import best_of_report
from decodetr.utils.documents import read_json
from decodetr.utils.tables import score_text

BEST = 5  # detections of a picture, where nothing says from which score on they are right


def shown_words(output: Path) -> list[str]:
    """The options of `decodetr predict` that show something of OUT/model.

    Args:
        output (Path): folder of a build whose report is made, if there is something to evaluate on.

    Returns:
        list[str]: none where scores were calibrated; else the score of the best F1 of the report, or, where too few
        boxes say one, the best few of each picture.
    """
    if read_json(output / "model" / "config.json", dict).get("score_threshold") is not None:
        return []
    file = output / "report" / "report.json"
    best = best_of_report(read_json(file, dict)) if file.is_file() else None
    if best is None:
        return ["--threshold", "0", "--top-k", str(BEST)]
    return ["--threshold", score_text(best)]


def why_shown(output: Path) -> str | None:
    """A sentence on [`shown_words`], or None where there are none."""
    words = shown_words(output)
    if not words:
        return None
    what = "is the score at which F1 was best in the report"
    if "--top-k" in words:
        what = f"shows the {BEST} best of each picture: too few boxes say from which score on they are right"
    return f"Scores of this model are not calibrated: give `decodetr predict` {' '.join(words)}. This {what}."
