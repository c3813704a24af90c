"""Outputs of a graph to detections, in numpy."""

from __future__ import annotations

import numpy as np


def best_pairs(logits: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The (query, name) pairs of an image with the greatest logits, greatest first. Those of -inf, which were not scored,
    are none.

    A pair of the k best has at least the k-th greatest of the queries' best logits, so that few are sorted.

    Args:
        logits (N, K) float32. top_k (int): k.

    Returns:
        Logits, queries and names, each (k,) or less.

    Raises:
        ValueError: logits that are NaN.
    """
    best = logits.max(axis=1)
    check_numbers(best)
    flat = logits.reshape(-1)
    least = np.partition(best, len(best) - top_k)[len(best) - top_k] if top_k < len(best) else -np.inf
    pairs = np.flatnonzero(flat >= least) if np.isfinite(least) else np.flatnonzero(flat > -np.inf)
    if len(pairs) > top_k:
        pairs = pairs[np.sort(np.argpartition(-flat[pairs], top_k - 1)[:top_k])]
    pairs = pairs[np.argsort(-flat[pairs], kind="stable")]
    return flat[pairs], pairs // logits.shape[1], pairs % logits.shape[1]


def check_numbers(scores: np.ndarray) -> None:
    """ValueError where a score is NaN."""
    if np.isnan(scores).any():
        raise ValueError("scores are NaN: the graph overflowed; export the model with --dtype float32 or bfloat16")


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) of float32."""
    with np.errstate(over="ignore"):  # exp overflows to infinity, the score is 0
        return 1 / (1 + np.exp(-logits.astype(np.float32, copy=False)))


def corners(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) x0, y0, x1, y1 of boxes (n, 4), cx, cy, w, h."""
    half = boxes[:, 2:] * np.float32(0.5)
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
