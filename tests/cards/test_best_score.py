"""What is said of the score at which F1 is best."""

import pytest

from decodetr.cards.scores import best_of_report, best_score
from decodetr.utils.tables import score_text


@pytest.mark.parametrize(
    "score, text", [(5.35e-05, "0.0000535"), (0.10394, "0.10394"), (0.5, "0.5"), (1.0, "1"), (0.0, "0"), (1, "1")]
)
def test_a_threshold_is_said_with_all_its_digits(score, text):
    assert score_text(score) == text and float(text) == score


def test_few_objects_give_no_advice():
    def report(objects, threshold):
        return {"threshold": threshold, "per_name": {"cat": {"support": objects - 1}, "dog": {"support": 1}}}

    assert best_of_report(report(2, 0.0000536)) is None, "of two boxes"
    assert best_of_report(report(9, 0.2)) is None and best_of_report(report(10, 0.2)) == 0.2
    assert best_of_report(report(100, None)) is None, "nothing was found"
    assert best_of_report(report(100, 1.0)) is None, "nothing was found, in an older report"
    assert best_score(0.0169) == "F1 is best at a score of 0.0169: `decodetr predict --threshold`."
