"""Whether overlapping boxes are duplicates: chosen by the AP of boxes on annotated images."""

import pytest
from helpers.detections import prediction, truth

from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.duplicates import choose_nms_iou

BOX, SHIFTED, FAR = [0, 0, 10, 10], [2, 0, 12, 10], [50, 0, 60, 10]  # the first two: IoU 80 / 120


def _seen(objects, *found):
    """A class-agnostic evaluator of three equal images with these objects and detections."""
    coco = truth(["thing"], {image: [("thing", box) for box in objects] for image in range(3)})
    evaluator = DetectionEvaluator(coco, ["thing"], class_agnostic=True)
    evaluator.update(range(3), [prediction(*found)] * 3)
    return evaluator


def test_duplicates_that_cost_precision_are_suppressed_by_the_mildest_iou_that_does_it():
    evaluator = _seen([BOX, FAR], (0, 0.9, BOX), (0, 0.8, SHIFTED), (0, 0.7, FAR))
    before = evaluator.state()
    chosen, reached = choose_nms_iou(evaluator)
    # Half of the objects at a precision of 1 (recalls 0.00 to 0.50), the others at 2 / 3.
    twice = pytest.approx(100 * (51 + 50 * 2 / 3) / 101, abs=1e-3)
    assert chosen == 0.6
    assert reached == {None: twice, 0.8: twice, 0.7: twice, 0.6: pytest.approx(100), 0.5: pytest.approx(100)}
    assert [len(scores) for _, scores, *_ in evaluator.state()] == [3, 3, 3] == [len(row[1]) for row in before]


def test_objects_that_overlap_are_no_duplicates():
    chosen, reached = choose_nms_iou(_seen([BOX, SHIFTED], (0, 0.9, BOX), (0, 0.8, SHIFTED)))
    assert chosen is None and reached[None] == pytest.approx(100) and reached[0.5] == pytest.approx(100 * 51 / 101)


def test_duplicates_that_cost_nothing_stay():
    chosen, reached = choose_nms_iou(_seen([BOX, FAR], (0, 0.9, BOX), (0, 0.7, FAR), (0, 0.1, SHIFTED)))
    assert chosen is None and set(map(round, reached.values())) == {100}
