"""The best pairs are those of a full sort."""

from types import SimpleNamespace

import numpy as np
import pytest

from decodetr.runtime.exported_detector import ExportedDetector
from decodetr.runtime.post_processing import best_pairs, corners, sigmoid


@pytest.mark.parametrize("shape, top_k", [((30, 7), 12), ((5, 400), 50), ((12, 3), 100), ((1, 1), 1), ((40, 1), 40)])
def test_the_best_pairs_are_those_of_a_full_sort(shape, top_k):
    rng = np.random.default_rng(top_k)
    for logits in (rng.normal(size=shape), np.round(rng.normal(size=shape))):  # the second one has many equal ones
        logits = logits.astype(np.float32)
        values, queries, names = best_pairs(logits, top_k)
        np.testing.assert_array_equal(values, np.sort(logits.ravel())[::-1][:top_k])
        np.testing.assert_array_equal(logits[queries, names], values)
        assert len({*zip(queries.tolist(), names.tolist())}) == len(values) == min(top_k, logits.size)


def test_queries_that_were_not_scored_are_never_given():
    logits = np.full((6, 4), -np.inf, dtype=np.float32)
    logits[2] = [1, 3, 2, -1]
    values, queries, names = best_pairs(logits, 10)
    assert values.tolist() == [3, 2, 1, -1] and queries.tolist() == [2] * 4 and names.tolist() == [1, 2, 0, 3]


def test_broken_scores_are_an_error():
    with pytest.raises(ValueError, match="scores are NaN.*--dtype float32"):
        best_pairs(np.array([[0.0, np.nan]], dtype=np.float32), 1)


def test_broken_scores_of_a_graph_with_post_processing_inside_are_an_error():
    class Inside(ExportedDetector):
        def __init__(self):
            self.description = SimpleNamespace(thresholds=lambda names, threshold: [0.0] * len(names))

    outputs = {"scores": np.float32([np.nan, 0.5]), "labels": np.array([0, 1]), "boxes": np.zeros((2, 4), np.float32)}
    with pytest.raises(ValueError, match="scores are NaN.*--dtype float32"):
        Inside()._detections(outputs, (10, 10), ["a", "b"], None, 2)
    outputs["scores"][0] = 0.75
    assert Inside()._detections(outputs, (10, 10), ["a", "b"], None, 2)["scores"] == [0.75, 0.5]


def test_scores_and_corners():
    np.testing.assert_allclose(sigmoid(np.array([0.0, -1000, 1000, 2], dtype=np.float32)), [0.5, 0, 1, 0.880797], 1e-6)
    assert corners(np.array([[0.5, 0.25, 0.5, 0.5]])).tolist() == [[0.25, 0.0, 0.75, 0.5]]
