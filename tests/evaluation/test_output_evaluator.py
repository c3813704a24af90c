"""Both evaluations of a model's outputs count each image once, however samplers of several processes pad."""

import pytest
from helpers.detections import BOX, FAR, prediction, truth

from decodetr.evaluation.output_evaluator import OutputEvaluator

COCO = truth(["cat", "dog"], {1: [("cat", BOX), ("dog", FAR)], 2: [("dog", BOX)]})
RIGHT = {1: prediction((0, 0.9, BOX), (1, 0.4, FAR)), 2: prediction((1, 0.8, BOX))}
WRONG = prediction((1, 0.99, [0.0, 0.0, 5.0, 5.0]))


def _measured(*batches):
    """Metrics of batches of (image id, detections)."""
    evaluator = OutputEvaluator(COCO, COCO.names, None)
    for batch in batches:
        results = [{**found, "localization": {**found, "labels": [0] * len(found["labels"])}} for _, found in batch]
        evaluator.update([image_id for image_id, _ in batch], results)
    return evaluator.compute()


@pytest.mark.parametrize(
    "batches",
    [
        [[(1, RIGHT[1]), (2, RIGHT[2]), (1, WRONG), (2, WRONG), (1, WRONG)]],  # fewer images than a batch has
        [[(2, RIGHT[2])], [(1, RIGHT[1]), (2, WRONG)]],
    ],
    ids=["in a batch", "in the next batch"],
)
def test_the_first_of_an_image_that_comes_again_counts(batches):
    expected = _measured([*RIGHT.items()])
    assert _measured(*batches) == pytest.approx(expected, nan_ok=True)
    assert (expected["AP50"], expected["class_agnostic_AP50"]) == (100.0, 100.0)
    assert _measured([(1, WRONG), (2, RIGHT[2]), (1, RIGHT[1])])["AP50"] < 100
