"""Where F1 is best: the threshold that is said shows what it promises, by every reader of it."""

import json

import numpy as np
import pytest
import torch
from helpers.detections import BOX, FAR, evaluated, prediction, random_world, truth

from decodetr.cards.scores import best_score
from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.best_f1 import best_f1
from decodetr.evaluation.report import describe
from decodetr.evaluation.thresholds import best_thresholds
from decodetr.utils.tables import score_text


def best(pairs, objects):
    scores, hit = zip(*pairs)
    return best_f1(np.array(scores, np.float32), np.array(hit, bool), objects)


def test_equal_scores_are_shown_together():
    """12 of 20 objects are found at 0.9; of the 68 at 0.5, the first 8 are right and come first: 20 of 20, but all 80
    are shown. F1 of 0.75 against 0.4."""
    pairs = [(0.9, True)] * 12 + [(0.5, True)] * 8 + [(0.5, False)] * 60
    assert best(pairs, 20) == {"threshold": 0.89, "f1": 0.75, "precision": 1.0, "recall": 0.6}


def test_a_score_that_is_exact_is_shown():
    found = best([(0.5, True)] * 20 + [(0.5, False)] * 9, 20)
    assert found == {"threshold": 0.49, "f1": round(40 / 49, 4), "precision": round(20 / 29, 4), "recall": 1.0}
    assert best([(1.0, True)], 1)["threshold"] == 0.99


def test_digits_are_as_many_as_it_takes():
    assert best([(0.56789, True), (0.56712, False)], 1)["threshold"] == 0.5675
    assert best([(0.3, True), (0.1, False)], 1)["threshold"] == 0.29
    assert best([(5.4e-05, True), (5.3e-05, False)], 1)["threshold"] == 5.3e-05, "not above itself"
    assert best([(0.003, True)], 1)["threshold"] == 0.001, "0 would show everything of other images"
    assert best([(3e38, True), (2e38, False)], 1)["threshold"] < 3e38


def test_nothing_found_and_scores_of_nothing():
    nothing = {"threshold": None, "f1": 0.0, "precision": None, "recall": 0.0}
    assert best([(0.9, False)], 3) == best([(0.0, True), (-1.0, True)], 3) == nothing
    assert best_f1(np.zeros(0), np.zeros(0, bool), 3) == nothing


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("digits", [1, 2, 7, None])
def test_what_is_printed_shows_what_is_promised(seed, digits):
    """Compared as models do, in float32, and as numbers of a file are."""
    rng = np.random.default_rng(seed)
    scores = rng.random(60) * 10.0 ** rng.integers(-9, 1)
    scores = (scores if digits is None else scores.round(digits)).astype(np.float32)
    hit = rng.random(60) < 0.5
    if digits is None:  # neighbours of each other
        scores = np.float32(0.3) + rng.integers(0, 5, 60) * np.spacing(np.float32(0.3))
    found = best_f1(scores, hit, 40)
    if not (hit & (scores > 0)).any():
        return
    text = score_text(found["threshold"])
    f1 = {least: 2 * hit[scores > least].sum() / ((scores > least).sum() + 40) for least in [0, *scores]}
    for shown in (torch.tensor(scores) > float(text)).numpy(), scores.astype(np.float64) > float(text):
        assert 2 * hit[shown].sum() / (shown.sum() + 40) == pytest.approx(max(f1.values()))
        assert round(hit[shown].mean(), 4) == found["precision"] and round(hit[shown].sum() / 40, 4) == found["recall"]


@pytest.mark.parametrize("seed", [0, 1])
def test_all_of_a_run_say_the_same(seed):
    coco, predictions = random_world(seed)
    analysis = Analysis(evaluated(coco, predictions))
    report, thresholds = describe(analysis), json.loads(json.dumps(best_thresholds(analysis)))
    assert report["threshold"] == thresholds["threshold"] == analysis.threshold
    assert str(thresholds["threshold"]) in best_score(report["threshold"])
    shown = analysis.found["score"] > thresholds["threshold"]
    assert analysis.wrong().sum() == (shown & ~analysis.hit & analysis.counts).sum()
    assert analysis.reached().sum() == (shown & analysis.hit).sum()


def test_counts_of_mistakes_are_of_what_is_shown():
    """With one wrong detection at 0.5, F1 is best with all three. With ten, it is best without."""
    rows = {image: [("cat", BOX)] for image in (1, 2)}
    found = [prediction((0, 0.9, BOX)), prediction((0, 0.5, BOX), (0, 0.5, FAR))]
    analysis = Analysis(evaluated(truth(["cat"], rows), found))
    assert analysis.threshold == 0.49 and analysis.errors()["background"]["count"] == 1 == analysis.wrong().sum()
    for _ in range(9):
        found[1] = {key: [*values, values[-1]] for key, values in found[1].items()}
    analysis = Analysis(evaluated(truth(["cat"], rows), found))
    assert analysis.threshold == 0.89 and analysis.errors()["background"]["count"] == 0
    assert analysis.reached().tolist() == [True, False]
