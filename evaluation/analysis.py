"""What lies behind an AP: kinds of errors, confusions, calibration, curves, the worst images. All at an IoU of 0.5.

Kinds of errors follow TIDE (Bolya et al., ECCV 2020). A detection that found no object is, in this order, a
"duplicate" (IoU >= 0.5 with an object of its name, which a better one found), a "classification" error (IoU >= 0.5
with an object of another name), a "localization" error (IoU of 0.1 to 0.5 with one of its name), "both" (0.1 to 0.5
with one of another name), or "background". An object is "missed" if no detection found it and none points to it by a
localization or classification error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from decodetr.evaluation.best_f1 import best_f1
from decodetr.evaluation.coco_matching import mean_percent
from decodetr.evaluation.matches import average_precision, match_detections, precision_at_recalls, rows_of

if TYPE_CHECKING:
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator

KINDS = ("localization", "classification", "both", "duplicate", "background")
_FOUND, _TOUCHED = 0.5, 0.1
_BINS = 10
_CONFUSED = 30  # pairs of names that are listed
SHOWN = 0.1  # scores below are never shown, and nearly all of the best 100 boxes of an image have such scores


class Analysis:
    """
    Of a [`DetectionEvaluator`] that has seen its images.

    Attributes:
        evaluator. truth, found: its arrays. matches: of [`match_detections`].
        kind (D,) int: of each detection the place in KINDS, -1 where it found an object or does not count.
        missed (G,) bool: which objects are missed.
        are_shares (bool): all scores are in 0..1. Others rank detections as well, but are no share of right ones.
        threshold (float or None): that of [`best_f1`] over all names, None where nothing was found. Counts of mistakes
            are of the detections `above` it. Of scores that are no shares, it is one of their places between the least
            and the greatest.
    """

    def __init__(self, evaluator: DetectionEvaluator) -> None:
        self.evaluator = evaluator
        self.names, self.groups = evaluator.evaluated, {"all": set(evaluator.evaluated), **evaluator.groups}
        self.truth, self.found = evaluator.truth(), evaluator.found()
        self.matches = match_detections(self.truth, self.found)
        self.hit, self.counts = self.matches["hit"][:, 0], ~self.matches["ignored"][:, 0]
        scores = self.found["score"]
        low, high = scores.min(initial=0), scores.max(initial=1)
        self.are_shares = bool(low >= 0 and high <= 1)
        self._scores = scores if self.are_shares else ((scores - low) / (high - low)).astype(np.float32)
        self.objects = np.bincount(self.truth["name"][~self.truth["crowd"]], minlength=len(self.names))
        self.kind = self._kinds()
        self.missed = self._missed()
        best = best_f1(self._scores[self.counts], self.hit[self.counts], max(int(self.objects.sum()), 1))
        self.threshold: float | None = best["threshold"]

    def _kinds(self):
        same, other = self.matches["same_iou"], self.matches["other_iou"]
        conditions = [
            (other >= _TOUCHED) & (same < _TOUCHED),
            (same >= _TOUCHED),
            (other >= _FOUND),
            (same >= _FOUND),
        ]
        kind = np.full(len(same), KINDS.index("background"))
        for name, condition in zip(("both", "localization", "classification", "duplicate"), conditions):
            kind[condition] = KINDS.index(name)
        kind[self.hit | ~self.counts] = -1
        return kind

    def _missed(self):
        missed = ~self.truth["crowd"]
        missed[self.matches["object"][self.hit]] = False
        for kind, pointer in (("localization", "same_object"), ("classification", "other_object")):
            missed[self.matches[pointer][self.kind == KINDS.index(kind)]] = False
        return missed

    def errors(self) -> dict[str, dict[str, float]]:
        """Kinds of errors: {kind: {"count": detections above the threshold (objects, if missed), "delta_AP50_<group>":
        what AP50 of the group would gain without them}}.

        Localization and classification errors are put right (a detection whose object another one found is taken
        away), the other detections are taken away, and missed objects are not counted.
        """
        above = self.above()
        before, report = self._group_ap(), {}
        for place, kind in enumerate(KINDS):
            rows = self.kind == place
            after = self._group_ap(*self._without(kind, rows))
            report[kind] = {"count": int((rows & above).sum()), **_gains(before, after)}
        objects = self.objects - np.bincount(self.truth["name"][self.missed], minlength=len(self.names))
        # A name of which every object is missed would have no AP. It keeps its 0.
        after = self._group_ap(objects=np.where((objects == 0) & (self.objects > 0), self.objects, objects))
        return report | {"missed": {"count": int(self.missed.sum()), **_gains(before, after)}}

    def _without(self, kind, rows):
        """(names, hit, counts) of the detections with one kind of errors put right."""
        names, hit, counts = self.found["name"].copy(), self.hit.copy(), self.counts & ~rows
        if kind in ("localization", "classification"):
            pointer = self.matches["same_object" if kind == "localization" else "other_object"]
            taken = set(self.matches["object"][self.hit].tolist())
            for row in np.flatnonzero(rows)[np.argsort(-self.found["score"][rows], kind="stable")]:
                if pointer[row] not in taken:
                    taken.add(pointer[row])
                    names[row] = self.truth["name"][pointer[row]]
                    hit[row] = counts[row] = True
        return names, hit, counts

    def _group_ap(self, names=None, hit=None, counts=None, objects=None):
        names = self.found["name"] if names is None else names
        hit, counts = (self.hit, self.counts) if hit is None else (hit, counts)
        objects = self.objects if objects is None else objects
        ap = np.array(
            [
                average_precision(self.found["score"][rows], hit[rows], objects[name])
                for name, rows in enumerate(rows_of(names, len(self.names), counts))
            ]
        )
        return {group: mean_percent(ap[self._columns(group)]) for group in self.groups}

    def _columns(self, group):
        return [column for column, name in enumerate(self.names) if name in self.groups[group]]

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """{group: {"0.50": [101 precisions at recalls 0, 0.01 .. 1, mean over its names], "0.75": ...}}."""
        report = {group: {} for group in self.groups}
        for step in (0, 5):
            hit, counts = self.matches["hit"][:, step], ~self.matches["ignored"][:, step]
            curves = np.full((len(self.names), 101), np.nan)
            for name, rows in enumerate(rows_of(self.found["name"], len(self.names), counts)):
                if self.objects[name]:
                    right = hit[rows][np.argsort(-self.found["score"][rows], kind="stable")].astype(np.float64)
                    curves[name] = precision_at_recalls(right, 1 - right, self.objects[name])
            for group in self.groups:
                rows = curves[[c for c in self._columns(group) if self.objects[c]]]
                if len(rows):
                    report[group][f"{0.5 + 0.05 * step:.2f}"] = rows.mean(0).round(4).tolist()
        return report

    def calibration(self) -> dict[str, dict]:
        """{group: {"bins": [{"score" (mean), "precision", "count"} of each tenth of 0..1 with detections], "error":
        expected calibration error in 0..1, weighted by count; "error_shown": that of scores from 0.1 on}}."""
        report = {}
        for group in self.groups:
            chosen = self.counts & np.isin(self.found["name"], self._columns(group))
            bins = calibration_bins(self.found["score"][chosen], self.hit[chosen])
            errors = {"error": calibration_error(bins), "error_shown": calibration_error(bins, SHOWN)}
            report[group] = {"bins": bins, **errors}
        return report

    def confusion(self, similarity: Callable[[str, str], float | None] | None = None) -> list[dict]:
        """What objects are taken for: the best detection that counts on each (IoU >= 0.5, whatever its name) has
        another name.

        Args:
            similarity (callable, optional): (name, name) -> cosine of their embeddings, or None.

        Returns:
            list of {"name", "taken_for", "count", "share" (of the name's objects), "cosine"}, most frequent first.
        """
        own = self.matches["same_iou"] >= self.matches["other_iou"]
        iou = np.where(own, self.matches["same_iou"], self.matches["other_iou"])
        nearest = np.where(own, self.matches["same_object"], self.matches["other_object"])
        best = {}
        for row in np.argsort(-self.found["score"], kind="stable"):
            if iou[row] >= _FOUND and self.counts[row]:
                best.setdefault(int(nearest[row]), int(self.found["name"][row]))
        pairs = np.array([(self.truth["name"][g], name) for g, name in best.items()], dtype=np.int64).reshape(-1, 2)
        pairs, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
        rows = []
        for place in np.argsort(-counts, kind="stable")[:_CONFUSED]:
            name, other = (self.names[column] for column in pairs[place])
            row = {"name": name, "taken_for": other, "count": int(counts[place])}
            row["share"] = row["count"] / int(self.objects[pairs[place, 0]])
            rows.append(row | {"cosine": similarity(name, other) if similarity else None})
        return rows

    def above(self) -> np.ndarray:
        """(D,) bool: detections with scores above the threshold, which `decodetr predict` would show. None where there
        is no threshold."""
        return self._scores > (1.0 if self.threshold is None else self.threshold)

    def wrong(self) -> np.ndarray:
        """(D,) bool: detections above the threshold that found no object and count."""
        return self.above() & ~self.hit & self.counts

    def reached(self) -> np.ndarray:
        """(G,) bool: objects that a detection above the threshold found."""
        reached = np.zeros(len(self.truth["name"]), dtype=bool)
        reached[self.matches["object"][self.hit & self.above()]] = True
        return reached

    def worst_images(self, most: int = 12) -> list[dict[str, int]]:
        """Images with most mistakes at the threshold: list of {"image" (place among the sorted ids), "wrong",
        "not_found"}."""
        images = 1 + max(self.truth["image"].max(initial=-1), self.found["image"].max(initial=-1))
        wrong = np.bincount(self.found["image"][self.wrong()], minlength=images)
        not_found = np.bincount(self.truth["image"][~self.reached() & ~self.truth["crowd"]], minlength=images)
        order = np.argsort(-(wrong + not_found), kind="stable")[:most]
        return [
            {"image": int(i), "wrong": int(wrong[i]), "not_found": int(not_found[i])}
            for i in order
            if wrong[i] + not_found[i]
        ]


def calibration_bins(scores: np.ndarray, hit: np.ndarray) -> list[dict[str, float]]:
    """Of each tenth of 0..1 that has detections {"score" (mean), "precision", "count"}. Takes scores (D,) and hit (D,)
    bool."""
    tenth = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    return [
        {
            "score": float(scores[tenth == i].mean()),
            "precision": float(hit[tenth == i].mean()),
            "count": int((tenth == i).sum()),
        }
        for i in np.unique(tenth)
    ]


def calibration_error(bins: list[dict[str, float]], least: float = 0.0) -> float:
    """Expected calibration error in 0..1: the difference of score and precision, weighted by count, over those of
    [`calibration_bins`] whose mean score is at least `least`. 0 without detections."""
    bins = [entry for entry in bins if entry["score"] >= least]
    error = sum(entry["count"] * abs(entry["score"] - entry["precision"]) for entry in bins)
    return error / max(sum(entry["count"] for entry in bins), 1)


def _gains(before, after):
    return {f"delta_AP50_{group}": after[group] - before[group] for group in before}
