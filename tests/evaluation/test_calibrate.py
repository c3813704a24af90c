"""Calibration of scores: the fit by hand, what it is fitted on, and when it is not."""

import numpy as np
import pytest
import torch
from helpers.detections import BOX, FAR, evaluate, evaluated, prediction, random_world, truth

from decodetr import DeCoDetrConfig
from decodetr.evaluation.analysis import Analysis, calibration_bins, calibration_error
from decodetr.evaluation.calibrate import TooLittle, before_and_after, cut, fit_line, fit_scores, logit
from decodetr.modeling_decodetr.semantic_stream import fuse_scores

ELSEWHERE = [200.0, 200.0, 240.0, 240.0]


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def test_the_line_goes_through_the_shares_of_right_ones():
    # Ten detections of each logit; Platt's targets are 11 / 12 and 1 / 12: 1/4 and 3/4 of them are right.
    logits = np.repeat([-1.0, 1.0], 10)
    hit = np.array([True] * 2 + [False] * 8 + [True] * 8 + [False] * 2)
    assert fit_line(logits, hit) == pytest.approx((np.log(3), 0), abs=1e-5)
    assert fit_line(logits * 50 + 7, hit) == pytest.approx((np.log(3) / 50, -7 * np.log(3) / 50), abs=1e-5)


def test_the_line_is_finite_where_all_right_ones_score_above_all_wrong_ones():
    a, b = fit_line(np.repeat([-1.0, 1.0], 8), np.repeat([False, True], 8))
    assert sigmoid(a + b) == pytest.approx(0.9, abs=1e-5) and sigmoid(b - a) == pytest.approx(0.1, abs=1e-5)


def test_the_threshold_lets_a_tenth_more_through_than_there_are_objects():
    logits = np.random.default_rng(0).permutation(np.arange(30.0))  # 0 to 29
    assert cut(logits, 10) == 18.5 and (logits > cut(logits, 10)).sum() == 11
    assert (logits > cut(logits, 27)).all() and (logits > cut(logits, 99)).all()
    assert cut(np.zeros(0), 3) == 0


def test_the_error_of_what_is_shown_leaves_the_lowest_tenth_out():
    scores, hit = np.array([0.01] * 98 + [0.5, 0.9]), np.array([False] * 98 + [True, False])
    bins = calibration_bins(scores, hit)
    assert calibration_error(bins) == pytest.approx((98 * 0.01 + 0.5 + 0.9) / 100)
    assert calibration_error(bins, 0.1) == pytest.approx((0.5 + 0.9) / 2) and calibration_error([]) == 0


def scored(images=60, seed=0):
    """(coco, predictions): a cat and a dog in every image. A detection of logit z is right with P = sigmoid(2 z + 1),
    by its place; others of the same kind lie where nothing is."""
    rng, rows, predictions = np.random.default_rng(seed), {}, []
    for image in range(images):
        rows[image], found = [("cat", BOX), ("dog", FAR)], []
        for label, box in ((0, BOX), (1, FAR)):
            z = rng.normal(-0.5, 1.5)
            right = rng.random() < sigmoid(2 * z + 1)
            found.append((label, sigmoid(z), box if right else ELSEWHERE))
        predictions.append(prediction(*found))
    return truth(["cat", "dog"], rows), predictions


def test_scores_are_fitted_and_what_they_reach_is_said():
    coco, predictions = scored(images=1500)
    fields = fit_scores(evaluated(coco, predictions))
    assert fields["score_scale"] == pytest.approx(2, abs=0.2) and fields["score_bias"] == pytest.approx(1, abs=0.15)
    info = fields["calibration_info"]
    assert (info["images"], info["objects"], info["names"]) == (1500, 3000, 2)
    assert info["before"]["error_shown"] > 0.1 and info["after"]["error_shown"] < 0.03
    config = DeCoDetrConfig(id2label={0: "cat", 1: "dog"}, **fields)
    analysis = Analysis(evaluated(coco, [calibrated(row, config) for row in predictions]))
    found = before_and_after(analysis, config)
    assert found["after"]["all"] == pytest.approx(info["after"], abs=1e-5)
    assert found["before"]["all"] == pytest.approx(info["before"], abs=1e-5)
    assert set(before_and_after(analysis, DeCoDetrConfig())) == {"after"}


def calibrated(row, config):
    scores = torch.sigmoid(config.calibrated(torch.tensor(logit(row["scores"]))))
    return {**row, "scores": scores.tolist()}


def test_the_ranking_and_so_ap_stay():
    coco, predictions = random_world(seed=3)
    config = DeCoDetrConfig(score_scale=0.4, score_bias=-2.0)
    assert evaluate(coco, [calibrated(row, config) for row in predictions]) == evaluate(coco, predictions)
    raw = fuse_scores(torch.randn(2, 5), torch.randn(2, 5, 4).log_softmax(-1))
    assert torch.equal(raw.flatten().argsort(), config.calibrated(raw).flatten().argsort())
    assert torch.allclose(config.uncalibrated(config.calibrated(raw)), raw, atol=1e-5)


def test_precision_and_recall_are_those_of_the_thresholds():
    coco = truth(["cat", "dog"], {1: [("cat", BOX), ("dog", FAR)], 2: [("cat", BOX)]})
    predictions = [
        prediction((0, 0.9, BOX), (0, 0.35, ELSEWHERE), (1, 0.2, FAR)),
        prediction((0, 0.25, BOX), (1, 0.15, FAR)),
    ]
    analysis = Analysis(evaluated(coco, predictions, novel_names=["dog"]))
    found = before_and_after(analysis, DeCoDetrConfig())["after"]  # from 0.3 on
    assert (found["base"]["precision"], found["base"]["recall"]) == (0.5, 0.5)
    assert (found["novel"]["precision"], found["novel"]["recall"]) == (None, 0.0)
    assert (found["all"]["precision"], found["all"]["recall"]) == (0.5, pytest.approx(1 / 3))
    config = DeCoDetrConfig(score_threshold=0.24, name_thresholds={"dog": 0.1})
    found = before_and_after(analysis, config)["after"]
    assert (found["all"]["precision"], found["all"]["recall"]) == (pytest.approx(3 / 5), 1.0)


def test_names_that_are_not_annotated_are_not_judged():
    coco, predictions = scored()
    names = ["cat", "dog", "yak"]
    more = [{key: row[key] + [value] for key, value in zip(row, (2, 0.99, ELSEWHERE))} for row in predictions]
    plain, with_yaks = evaluated(coco, predictions), type(evaluated(coco, predictions))(coco, names)
    with_yaks.update([image["image_id"] for image in coco.images], more)
    assert fit_scores(with_yaks) == fit_scores(plain)


def test_names_of_a_federated_file_that_are_not_verified_are_not_judged():
    coco, predictions = scored()
    # In every second image it is not known whether the dogs all have boxes, and those detections do not count.
    coco.federation = {image["image_id"]: ((), (1,) if image["image_id"] % 2 else ()) for image in coco.images}
    fields = fit_scores(evaluated(coco, predictions, federated=True))
    counted = Analysis(evaluated(coco, predictions, federated=True)).counts.sum()
    assert counted < Analysis(evaluated(coco, predictions)).counts.sum()
    assert fields["score_scale"] != fit_scores(evaluated(coco, predictions))["score_scale"]


def test_names_have_thresholds_of_their_own_where_that_is_better_on_other_images():
    rng = np.random.default_rng(0)

    def fitted(images, dogs):
        """Right cats have logits of 1 to 2, wrong ones of -1 to 0; those of dogs are lower."""
        coco = truth(["cat", "dog"], {image: [("cat", BOX), ("dog", FAR)] for image in range(images)})
        logits = rng.random((images, 4)) + [1, -1, 1 - dogs, -1 - dogs]
        kinds = ((0, BOX), (0, ELSEWHERE), (1, FAR), (1, ELSEWHERE))
        found = [prediction(*((k, sigmoid(z), box) for (k, box), z in zip(kinds, row))) for row in logits]
        return fit_scores(evaluated(coco, found)), logits

    fields, logits = fitted(40, dogs=3.0)
    config = DeCoDetrConfig(**fields)
    scores = torch.sigmoid(config.calibrated(torch.tensor(logits))).numpy()
    own = fields["name_thresholds"]
    for kind, name in enumerate(("cat", "dog")):  # 44 of 80 are above: the 40 right ones and 4 wrong ones
        assert [(scores[:, 2 * kind + wrong] > own[name]).sum() for wrong in (0, 1)] == [40, 4]
    assert (scores > fields["score_threshold"]).sum(0).tolist() == [40, 40, 8, 0]
    after = fields["calibration_info"]["after"]
    assert (after["precision"], after["recall"]) == (pytest.approx(40 / 44), 1.0)
    fields, _ = fitted(39, dogs=3.0)  # too few of each
    assert fields["name_thresholds"] is None and fields["calibration_info"]["after"]["precision"] == 47 / 86
    assert fitted(60, dogs=0.0)[0]["name_thresholds"] is None  # no better


@pytest.mark.parametrize(
    "images, change, words",
    [
        (24, lambda row: row, "48 annotated objects, expected at least 50"),
        (40, lambda row: {**row, "boxes": [ELSEWHERE] * 2}, "0 of their 80 objects were found"),
        (60, lambda row: {**row, "scores": [1 - score for score in row["scores"]]}, "do not score above wrong ones"),
    ],
)
def test_what_cannot_calibrate_says_why(images, change, words):
    coco, predictions = scored(images=images)
    with pytest.raises(TooLittle, match=words):
        fit_scores(evaluated(coco, [change(row) for row in predictions]))
