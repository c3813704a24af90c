"""Scores that say how often they are right: what is fitted on annotated images, and what it reaches.

The score of a detection is objectness times name probability. Which detections are right is known on images whose
objects of some names are all annotated: by COCO's matching at an IoU of 0.5, of detections with these names alone, all
names of the vocabulary competing. Fitted are
- one slope and one bias for the logit of the score (Platt, 1999), for all names alike, so that the ranking stays;
- the threshold at which a tenth more detections are shown than there are objects: a little below the place where
  precision and recall are equal, because names without boxes score lower. The score of best F1 jumps from sample to
  sample, as F1 is flat around it (docs/evaluation.md has the measurement);
- thresholds of single names in the same way, where they have enough objects and are worth it on images that did not
  choose them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from decodetr.evaluation.analysis import SHOWN, Analysis, calibration_bins, calibration_error
from decodetr.modeling_decodetr.configuration_decodetr import DEFAULT_THRESHOLD, UNCALIBRATED
from decodetr.utils.spelling import spelled_as

if TYPE_CHECKING:
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator
    from decodetr.modeling_decodetr.configuration_decodetr import DeCoDetrConfig

LEAST_OBJECTS = 50  # fewer say little of two numbers and a threshold
LEAST_OF_A_NAME = 40  # about 20 in each half of the images
_FITTED = 2  # so many of the surest detections for each object are fitted: what lies below is never shown
_SHOWN = 1.1  # and so many are shown
_DIGITS = 4


class TooLittle(ValueError):
    """The images cannot calibrate a model. The message says why."""


def fit_scores(evaluator: DetectionEvaluator) -> dict:
    """
    Args:
        evaluator ([`DetectionEvaluator`]): has seen its images, with scores that are not calibrated. The names of its
            file are annotated exhaustively, or by LVIS' lists.

    Returns:
        dict: fields of [`DeCoDetrConfig`]: "score_scale", "score_bias", "score_threshold", "name_thresholds" (dict or
        None) and "calibration_info": the numbers of "images", "objects" and "names" that it was fitted on, and
        "before" and "after", as [`of_group`] gives them of all names.

    Raises:
        TooLittle: too few objects, too few of them found, or scores that do not rank right detections first.
    """
    analysis = Analysis(evaluator)
    objects, right = int(analysis.objects.sum()), int(analysis.hit.sum())
    if objects < LEAST_OBJECTS:
        raise TooLittle(f"they have {objects} annotated objects, expected at least {LEAST_OBJECTS}")
    if 2 * right < LEAST_OBJECTS:
        raise TooLittle(f"{right} of their {objects} objects were found, expected at least {LEAST_OBJECTS // 2}")
    logits, counts = logit(analysis.found["score"]), analysis.counts
    surest = np.argsort(-logits[counts], kind="stable")[: _FITTED * objects]
    scale, bias = fit_line(logits[counts][surest], analysis.hit[counts][surest])
    if not scale > 0:
        raise TooLittle("right detections in them do not score above wrong ones")
    common = _score(cut(logits[counts], objects), scale, bias)
    own = {name: _score(value, scale, bias) for name, value in _name_thresholds(analysis).items()}
    thresholds = [own.get(name, common) for name in analysis.names]
    before = of_group(analysis, analysis.found["score"], [DEFAULT_THRESHOLD] * len(thresholds))
    after = of_group(analysis, expit(scale * logits + bias), thresholds)
    info = {"images": len(evaluator.state()), "objects": objects, "names": int((analysis.objects > 0).sum())}
    return {
        "score_scale": scale,
        "score_bias": bias,
        "score_threshold": common,
        "name_thresholds": own or None,
        "calibration_info": info | {"before": before["all"], "after": after["all"]},
    }


def logit(scores: np.ndarray) -> np.ndarray:
    """(D,) float64 logits of scores (D,). The model's own are between 1e-12 and 1 - 1e-6."""
    scores = np.clip(np.asarray(scores, dtype=np.float64), 1e-12, 1 - 1e-6)
    return np.log(scores) - np.log1p(-scores)


def fit_line(logits: np.ndarray, hit: np.ndarray) -> tuple[float, float]:
    """
    Slope a and bias b of greatest likelihood for P(right) = sigmoid(a * logit + b).

    As Platt has it, right ones count as (n + 1) / (n + 2) right and wrong ones as 1 / (m + 2), n and m their numbers,
    so that there is an answer where no wrong one scores above a right one.

    Args:
        logits (D,), hit (D,) bool.

    Returns:
        (a, b), floats.
    """
    right, wrong = int(hit.sum()), int((~hit).sum())
    target = np.where(hit, (right + 1) / (right + 2), 1 / (wrong + 2))
    centre, spread = logits.mean(), logits.std() or 1.0
    z = (logits - centre) / spread

    def loss(line):
        value = line[0] * z + line[1]
        error = expit(value) - target
        return (np.logaddexp(0, value) - target * value).mean(), np.array([(error * z).mean(), error.mean()])

    a, b = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    return float(a / spread), float(b - a * centre / spread)


def cut(logits: np.ndarray, objects: int) -> float:
    """The logit above which a tenth more detections (D,) are than objects, half-way to the next one. Below all of them
    where there are fewer. 0 where there are none."""
    if not len(logits):
        return 0.0
    ordered, shown = np.sort(logits)[::-1], round(_SHOWN * objects)
    if len(ordered) <= shown:
        return float(ordered[-1]) - 1.0
    return float(ordered[shown - 1] + ordered[shown]) / 2


def _score(value, scale, bias):
    """The calibrated score of a logit, for people: it may only be rounded down, since scores above it are shown."""
    return math.floor(float(expit(scale * value + bias)) * 10**_DIGITS) / 10**_DIGITS


def _name_thresholds(analysis):
    """{name: logit} for names with enough objects, if such thresholds, chosen on one half of the images, have a better
    F1 on the other than one for all of them, else nothing."""
    counts, real = analysis.counts, ~analysis.truth["crowd"]
    found = {key: analysis.found[key][counts] for key in ("image", "name")}
    found |= {"logit": logit(analysis.found["score"][counts]), "hit": analysis.hit[counts]}
    truth = {key: analysis.truth[key][real] for key in ("image", "name")}
    names = np.flatnonzero(analysis.objects >= LEAST_OF_A_NAME)

    def chosen(found, truth):
        """(threshold of all names, {name: its own}) of some of the images."""
        objects = np.bincount(truth["name"], minlength=len(analysis.names))
        enough = [name for name in names if objects[name] and (found["name"] == name).any()]
        own = {name: cut(found["logit"][found["name"] == name], objects[name]) for name in enough}
        return cut(found["logit"], len(truth["name"])), own

    right, shown = np.zeros(2), np.zeros(2)  # with one threshold, and with own ones
    for half in (0, 1):
        one, own = chosen(*(_rows(table, table["image"] % 2 == half) for table in (found, truth)))
        for place, thresholds in enumerate(({}, own)):
            least = np.full(len(analysis.names), one)
            least[list(thresholds)] = list(thresholds.values())
            above = (found["image"] % 2 != half) & (found["logit"] > least[found["name"]])
            right[place] += found["hit"][above].sum()
            shown[place] += above.sum()
    f1 = 2 * right / (shown + len(truth["name"]))
    own = chosen(found, truth)[1] if f1[1] > f1[0] else {}
    return {analysis.names[name]: value for name, value in own.items()}


def _rows(table, chosen):
    return {key: column[chosen] for key, column in table.items()}


def of_group(
    analysis: Analysis, scores: np.ndarray, thresholds: Sequence[float]
) -> dict[str, dict[str, float | None]]:
    """
    What scores are worth, for each group of names.

    Args:
        analysis ([`Analysis`]).
        scores (D,): of its detections, calibrated or not.
        thresholds: one for each of `analysis.names`.

    Returns:
        {group: {"precision", "recall" of what scores above the thresholds (None where nothing is shown, or where there
        are no objects), "error" and "error_shown" as [`Analysis.calibration`] has them}}, all in 0..1.
    """
    report, least = {}, np.asarray(thresholds)[analysis.found["name"]]
    for group, members in analysis.groups.items():
        columns = [column for column, name in enumerate(analysis.names) if name in members]
        mine = analysis.counts & np.isin(analysis.found["name"], columns)
        shown, objects = mine & (scores > least), int(analysis.objects[columns].sum())
        bins, right = calibration_bins(scores[mine], analysis.hit[mine]), int(analysis.hit[shown].sum())
        report[group] = {
            "precision": right / int(shown.sum()) if shown.any() else None,
            "recall": right / objects if objects else None,
            "error": calibration_error(bins),
            "error_shown": calibration_error(bins, SHOWN),
        }
    return report


def before_and_after(analysis: Analysis, config: DeCoDetrConfig) -> dict[str, dict[str, dict[str, float | None]]]:
    """
    What the scores of a model are worth without its calibration and with it, at its own thresholds.

    Args:
        analysis ([`Analysis`]): of the model's detections. config (DeCoDetrConfig).

    Returns:
        {"before", "after": [`of_group`]}, "after" alone of a model that is not calibrated.
    """
    names, scores = analysis.names, analysis.found["score"]
    known = spelled_as(names, config.name_thresholds or ())
    report = {"after": of_group(analysis, scores, config.thresholds(known))}
    if config.score_threshold is None:
        return report
    raw = expit(config.uncalibrated(logit(scores)))
    return {"before": of_group(analysis, raw, [DEFAULT_THRESHOLD] * len(names))} | report


@contextlib.contextmanager
def uncalibrated(config: DeCoDetrConfig) -> Iterator[None]:
    """Inside, a DeCoDetrConfig gives the scores that calibration starts from."""
    before = {name: getattr(config, name) for name in UNCALIBRATED}
    try:
        for name, value in UNCALIBRATED.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def set_calibration(config: DeCoDetrConfig, fields: dict, source: dict) -> dict:
    """Put what [`fit_scores`] found into a DeCoDetrConfig. `source`: what the images were, for the record. Returns
    the record, which the config has as `calibration_info`."""
    for name, value in fields.items():
        setattr(config, name, value)
    info = {**fields["calibration_info"], **source}
    config.calibration_info = info
    return info
