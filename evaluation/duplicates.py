"""Whether overlapping boxes are duplicates: non-maximum suppression that is chosen on annotated images.

A DETR needs none once it is trained for long. After some epochs on a thousand pictures it still finds many objects two
or three times (docs/photo_world.md has the measurement), and nobody can tell beforehand.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torchvision.ops import nms

if TYPE_CHECKING:
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator

CANDIDATES = (0.8, 0.7, 0.6, 0.5)  # IoUs from which a box is a duplicate of a more certain one; the mildest first
WORTH = 1.0  # points of AP50 that suppression has to bring


def choose_nms_iou(localization: DetectionEvaluator) -> tuple[float | None, dict[float | None, float]]:
    """
    The `nms_iou` of a model whose boxes have been seen without any.

    Args:
        localization: a class-agnostic [`DetectionEvaluator`] that has seen its images.

    Returns:
        (the IoU of the best AP50 of boxes, or None where it is not at least one point above that without suppression;
        {IoU: AP50}, None without suppression).
    """
    reached: dict[float | None, float] = {None: localization.compute()["AP50"]}
    for iou in CANDIDATES:
        reached[iou] = _suppressed(localization, iou).compute()["AP50"]
    best = max(reached, key=lambda iou: reached[iou])
    return (best if reached[best] >= reached[None] + WORTH else None), reached


def _suppressed(evaluator, iou):
    """The same images after greedy non-maximum suppression of each one's boxes."""
    other = copy.copy(evaluator)
    other.reset()
    states = []
    for image_id, scores, labels, boxes in evaluator.state():
        kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou).numpy()
        states.append((image_id, scores[kept], labels[kept], boxes[kept]))
    other.merge([states])
    return other
