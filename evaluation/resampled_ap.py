"""AP of every name with each image counted so many times: what a bootstrap asks for a thousand times.

Matches are made once. Precision is highest at detections that found something, so it is computed at these alone, and
what a resample costs is one sum over all detections. The digits are those of [`precision_at_recalls`] name by name.
"""

import numpy as np

from decodetr.evaluation.matches import RECALLS


class ResampledAP:
    """
    Args:
        truth, found: dicts of arrays, as [`DetectionEvaluator.truth`] and `found` give them.
        matches: of [`match_detections`], with T thresholds.
        names (int): K.
    """

    def __init__(
        self, truth: dict[str, np.ndarray], found: dict[str, np.ndarray], matches: dict[str, np.ndarray], names: int
    ) -> None:
        self._names, self._steps = names, matches["hit"].shape[1]
        objects = ~truth["crowd"]
        self._object_image, self._object_name = truth["image"][objects], truth["name"][objects]
        order = np.argsort(-found["score"], kind="stable")
        order = order[np.argsort(found["name"][order], kind="stable")]
        name = found["name"][order]
        first = np.searchsorted(name, np.arange(names))
        self._image = found["image"][order].astype(np.int32)
        hits, ignored = (
            [np.flatnonzero(matches[key][order, t]) for t in range(self._steps)] for key in ("hit", "ignored")
        )
        curves = list(enumerate(zip(hits, ignored)))
        # Detections that found an object, by threshold, name and score: where they are, and in which curve.
        self._hit = np.concatenate(hits).astype(np.int32)
        self._before = first[name[self._hit]].astype(np.int32)  # where the detections of their name begin
        self._curve = np.concatenate([t * names + name[rows] for t, (rows, _) in curves])
        self._curve_start = np.searchsorted(self._curve, self._curve).astype(np.int32)
        # How many that do not count come before each of them, and before its name.
        ends = np.cumsum([0, *map(len, ignored)])
        places = [ends[t] + np.searchsorted(skipped, rows) for t, (rows, skipped) in curves]
        starts = [ends[t] + np.searchsorted(skipped, first[name[rows]]) for t, (rows, skipped) in curves]
        self._ignored, self._ignored_before = (np.concatenate(some).astype(np.int32) for some in (places, starts))
        self._ignored_image = self._image[np.concatenate(ignored)]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """
        Args:
            weights: how often each image counts, whole numbers.

        Returns:
            (K, T) AP in 0..1. NaN where no object of a name is left.
        """
        objects = np.bincount(self._object_name, weights[self._object_image], self._names)
        weights = weights.astype(np.int32)
        right = _sums(weights[self._image[self._hit]])
        right = right[1:] - right[self._curve_start]
        counted = _sums(weights[self._image])
        counted = counted[self._hit + 1] - counted[self._before]
        skipped = _sums(weights[self._ignored_image])
        counted -= skipped[self._ignored] - skipped[self._ignored_before]
        precision = right / np.maximum(counted, np.spacing(1))
        recall = right / np.maximum(objects, 1)[self._curve % self._names]
        # The highest precision at each of the 101 recalls and beyond.
        place = self._curve * len(RECALLS) + _reached(recall)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        table = np.zeros((self._steps * self._names, len(RECALLS)))
        if len(starts):
            table.reshape(-1)[place[starts]] = np.maximum.reduceat(precision, starts)
        table = np.ascontiguousarray(np.maximum.accumulate(table[:, ::-1], axis=1)[:, ::-1])
        ap = table.mean(1).reshape(self._steps, self._names).T
        return np.where(objects[:, None] > 0, ap, np.nan)


def _reached(recall):
    """(n,) number of the last of the 101 recalls that each one reaches: a quick guess, put right to the digit."""
    last = len(RECALLS) - 1
    place = (recall * last).astype(np.int64)
    place += (place < last) & (RECALLS[np.minimum(place + 1, last)] <= recall)
    return place - (RECALLS[place] > recall)


def _sums(values):
    """(n + 1,) sums of the first 0, 1, .. n values."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
