"""Which detection found what: the same AP as the engines, and kinds of errors by hand."""

import numpy as np
import pytest
from helpers.detections import BOX, FAR, evaluated, prediction, random_world, truth

from decodetr.evaluation.analysis import KINDS, Analysis
from decodetr.evaluation.coco_matching import coco_accumulate
from decodetr.evaluation.matches import average_precision, box_iou, match_detections


def test_its_ap_is_that_of_the_engine():
    coco, predictions = random_world(seed=3)
    evaluator = evaluated(coco, predictions)
    truth_table, found = evaluator.truth(), evaluator.found()
    matches, metrics = match_detections(truth_table, found), evaluator.compute(per_name=True)
    for place, name in enumerate(coco.names):
        objects = (~truth_table["crowd"] & (truth_table["name"] == place)).sum()
        of_name = []
        for step in range(10):
            rows = (found["name"] == place) & ~matches["ignored"][:, step]
            of_name.append(average_precision(found["score"][rows], matches["hit"][rows, step], objects))
        assert 100 * np.mean(of_name) == pytest.approx(metrics["per_name"][name]["AP"], abs=1e-9), name
        assert 100 * of_name[0] == pytest.approx(metrics["per_name"][name]["AP50"], abs=1e-9), name
    assert matches["ignored"].any() and matches["hit"].any()
    assert np.isnan(average_precision(np.zeros(0), np.zeros(0, dtype=bool), 0))


def _one_by_one(truth_table, found, thresholds):
    """COCO's matching, detection by detection: (hit, ignored (D, T), object (D,))."""
    hit, ignored = (np.zeros((len(found["score"]), len(thresholds)), dtype=bool) for _ in range(2))
    object_of = np.full(len(hit), -1)
    for step, threshold in enumerate(thresholds):
        taken = set()
        for row in range(len(hit)):
            best, crowd, least = None, False, min(threshold, 1 - 1e-10)
            for place in np.flatnonzero(truth_table["image"] == found["image"][row]):
                is_crowd = truth_table["crowd"][place : place + 1]
                iou = box_iou(found["box"][row : row + 1], truth_table["box"][place : place + 1], is_crowd)[0, 0]
                if truth_table["name"][place] != found["name"][row] or iou < least:
                    continue
                crowd = crowd or is_crowd[0]
                if not is_crowd[0] and place not in taken and (best is None or iou >= best[0]):
                    best = iou, place
            if best is not None:
                taken.add(best[1])
                hit[row, step] = True
                object_of[row] = best[1] if step == 0 else object_of[row]
            else:
                ignored[row, step] = crowd
    return hit, ignored, object_of


@pytest.mark.parametrize("seed", [0, 1])
def test_matches_are_those_of_one_detection_after_the_other(seed):
    coco, predictions = random_world(seed=seed, images=12, names=2)
    for image in coco.annotations_by_image:  # the same box twice: of equal ones the last
        coco.annotations_by_image[image] += coco.annotations_by_image[image][:1]
    evaluator = evaluated(coco, predictions)
    truth_table, found = evaluator.truth(), evaluator.found()
    thresholds = np.array([0.5, 0.75, 0.9])
    matches = match_detections(truth_table, found, thresholds)
    for key, expected in zip(("hit", "ignored", "object"), _one_by_one(truth_table, found, thresholds)):
        assert np.array_equal(matches[key], expected), key
    assert matches["hit"].sum() > 50 and matches["ignored"].any()


def test_recall_of_a_group_is_that_of_the_engine():
    coco, predictions = random_world(seed=4)
    evaluator = evaluated(coco, predictions, novel_names=["name 2"], class_agnostic=True)
    metrics = evaluator.compute()
    truth_table = evaluator.truth()
    for group, chosen in (("novel", truth_table["category"] == 2), ("base", truth_table["category"] != 2)):
        of_group = {key: column[chosen] for key, column in truth_table.items()}
        _, recall = coco_accumulate(of_group, evaluator.found(), 1, 100, "pycocotools")
        assert metrics[f"AR50_{group}"] == pytest.approx(100 * recall[0, 0, 0], abs=1e-9)
        assert 50 < metrics[f"AR50_{group}"] < 100


def test_iou():
    boxes, others = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 10, 10], [20, 20, 1, 1], [0, 0, 10, 5]])
    assert box_iou(boxes, others, np.zeros(3, bool))[0] == pytest.approx([1 / 3, 0, 0.5])
    assert box_iou(boxes, others, np.ones(3, bool))[0] == pytest.approx([0.5, 0, 0.5])  # crowds: share of the box


LOW = [10.0, 40.0, 60.0, 90.0]  # IoU with BOX: 20 / 80
NOWHERE = [200.0, 10.0, 230.0, 40.0]


def analysed():
    """One detection of every kind, on two images of cats and dogs."""
    coco = truth(["cat", "dog"], {1: [("cat", BOX), ("dog", FAR)], 2: [("cat", BOX), ("dog", FAR), ("dog", NOWHERE)]})
    found = [
        prediction(
            (0, 0.9, BOX),  # right
            (0, 0.8, BOX),  # duplicate
            (0, 0.7, FAR),  # classification: it is the dog
            (1, 0.3, LOW),  # both: a little on the cat, named dog
        ),
        prediction(
            (0, 0.6, LOW),  # localization
            (1, 0.5, FAR),  # right
            (1, 0.4, [300.0, 300.0, 310.0, 310.0]),  # background
        ),
    ]
    return Analysis(evaluated(coco, found, novel_names=["dog"]))


def test_kinds_of_errors():
    analysis = analysed()
    kinds = [KINDS[kind] if kind >= 0 else "right" for kind in analysis.kind]
    assert kinds == ["right", "duplicate", "classification", "both", "localization", "right", "background"]
    assert analysis.missed.tolist() == [False, False, False, False, True]  # the dog that nothing points to
    assert analysis.threshold == 0.49
    errors = analysis.errors()
    before = errors["missed"]
    # Cats: 0.9 right, 0.8 and 0.7 and 0.6 wrong, two objects: AP50 51/101. The localization error put right finds the
    # second cat at precision 2/4 (after the duplicate and the classification error).
    assert errors["localization"]["delta_AP50_base"] == pytest.approx(100 * 50 / 101 * 2 / 4)
    assert errors["duplicate"]["delta_AP50_all"] == pytest.approx(0)
    # Dogs: 0.5 right, 0.4 and 0.3 wrong, three objects: 1 to recall 1/3. One more dog at 0.7 reaches 2/3; cats stay.
    assert errors["classification"]["delta_AP50_novel"] == pytest.approx(100 * 33 / 101)
    # Without the missed dog there are two: precision 1 up to recall 1/2.
    assert before["delta_AP50_novel"] == pytest.approx(100 * (51 - 34) / 101) and before["count"] == 1
    assert errors["both"]["delta_AP50_all"] == errors["background"]["delta_AP50_all"] == pytest.approx(0)


def test_counts_are_of_detections_above_the_threshold():
    coco = truth(["cat"], {1: [("cat", BOX)], 2: [("cat", BOX)]})
    found = [prediction((0, 0.9, BOX), (0, 0.2, FAR)), prediction((0, 0.8, BOX), (0, 0.7, FAR), (0, 0.1, NOWHERE))]
    analysis = Analysis(evaluated(coco, found))
    assert analysis.threshold == 0.79  # F1 = 1 above it
    assert analysis.errors()["background"]["count"] == 0 and analysis.worst_images() == []
    assert analysis.wrong().sum() == 0 and analysis.reached().all()


def test_worst_images_and_confusion():
    analysis = analysed()
    analysis.threshold = 0.49
    assert analysis.worst_images(1) == [{"image": 0, "wrong": 2, "not_found": 1}]
    assert [row["image"] for row in analysis.worst_images()] == [0, 1]
    (row,) = analysis.confusion(lambda name, other: 0.25)
    assert row == {"name": "dog", "taken_for": "cat", "count": 1, "share": pytest.approx(1 / 3), "cosine": 0.25}
    assert analysis.confusion()[0]["cosine"] is None


def test_calibration_by_hand():
    calibration = analysed().calibration()
    assert {row["count"] for row in calibration["all"]["bins"]} == {1} and len(calibration["all"]["bins"]) == 7
    right = [(row["score"], row["precision"]) for row in calibration["base"]["bins"]]
    assert right == [(pytest.approx(s), p) for s, p in [(0.6, 0), (0.7, 0), (0.8, 0), (0.9, 1)]]
    assert calibration["base"]["error"] == pytest.approx((0.6 + 0.7 + 0.8 + 0.1) / 4)
    empty = Analysis(evaluated(truth(["cat"], {1: [("cat", BOX)]}), [prediction()]))
    assert empty.calibration()["all"] == {"bins": [], "error": 0, "error_shown": 0} and empty.threshold is None
    wrong = Analysis(evaluated(truth(["cat"], {1: [("cat", BOX)]}), [prediction((0, 0.9, FAR))]))
    assert wrong.threshold is None and not wrong.above().any()  # no score is better than another
    assert empty.errors()["missed"]["count"] == 1 and empty.confusion() == []


def test_curves_are_means_over_names_with_objects():
    curves = analysed().curves()
    assert set(curves) == {"all", "novel", "base"} and set(curves["all"]) == {"0.50", "0.75"}
    assert curves["base"]["0.50"] == [1.0] * 51 + [0.0] * 50
    assert curves["novel"]["0.50"] == [1.0] * 34 + [0.0] * 67
    assert curves["all"]["0.50"][40] == 0.5
    unseen = Analysis(evaluated(truth(["cat", "yak"], {1: [("cat", BOX)]}), [prediction((0, 0.5, BOX))]))
    assert unseen.curves()["all"]["0.50"] == [1.0] * 101
