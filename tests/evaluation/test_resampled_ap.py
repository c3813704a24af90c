"""AP of resampled images from sums, against the curve of every name."""

import numpy as np
import pytest
from helpers.detections import evaluated, prediction, random_world, truth

from decodetr.evaluation.matches import RECALLS, match_detections, precision_at_recalls
from decodetr.evaluation.resampled_ap import ResampledAP, _reached


def _curve_by_curve(truth_table, found, matches, names, weights):
    """The same with a curve of all detections for each name and threshold."""
    ap, order = np.full((names, 10), np.nan), np.argsort(-found["score"], kind="stable")
    for name in range(names):
        objects = weights[truth_table["image"][~truth_table["crowd"] & (truth_table["name"] == name)]].sum()
        rows = order[found["name"][order] == name]
        times = weights[found["image"][rows]][:, None]
        right = matches["hit"][rows] * times
        wrong = (~matches["hit"][rows] & ~matches["ignored"][rows]) * times
        if objects:
            ap[name] = [precision_at_recalls(right[:, t], wrong[:, t], objects).mean() for t in range(10)]
    return ap


@pytest.mark.parametrize("seed", range(4))
def test_digits_are_those_of_whole_curves(seed):
    coco, predictions = random_world(seed=seed, images=40, names=6)
    evaluator = evaluated(coco, predictions)
    tables = evaluator.truth(), evaluator.found()
    matches = match_detections(*tables)
    assert matches["ignored"].any()
    of_weights, rng = ResampledAP(*tables, matches, 7), np.random.default_rng(seed)  # the last name has nothing
    for weights in (np.ones(40), *(np.bincount(rng.integers(size, size=40), minlength=40) for size in (40, 40, 8, 3))):
        ap = of_weights(weights)
        assert np.array_equal(ap, _curve_by_curve(*tables, matches, 7, weights), equal_nan=True)
        assert np.isnan(ap[6]).all()
    assert np.isnan(of_weights(np.zeros(40))).all()


def test_recalls_are_reached_to_the_digit():
    objects = np.arange(1, 400)
    recall = np.concatenate(
        [np.arange(count + 1) / count for count in objects] + [np.nextafter(RECALLS[1:], 0), RECALLS]
    )
    assert np.array_equal(_reached(recall), np.searchsorted(RECALLS, recall, side="right") - 1)


def test_without_a_hit_ap_is_zero():
    box = [0.0, 0.0, 10.0, 10.0]
    for found in (prediction(), prediction((0, 0.5, [50.0, 50.0, 60.0, 60.0]))):
        evaluator = evaluated(truth(["cat"], {1: [("cat", box)]}), [found])
        tables = evaluator.truth(), evaluator.found()
        assert ResampledAP(*tables, match_detections(*tables), 1)(np.ones(1)).tolist() == [[0.0] * 10]
