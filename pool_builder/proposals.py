"""Regions of training images (paper 1.1): annotated boxes of base names, and proposals besides them.

The paper's proposals are "RPN regions". Who proposes here is chosen in proposers.py. Annotations of other names must
not be in `coco` (`CocoAnnotations.select`), so that what they say cannot change a proposal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torchvision.ops import nms

from decodetr.processing.detection_dataset import apart_from

if TYPE_CHECKING:
    from PIL import Image

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.pool_builder.settings import PoolSettings

# From pictures to the boxes of each, (N, 4), and their scores (N,): see proposers.py.
Proposer = Callable[[list["Image.Image"]], list[tuple[torch.Tensor, torch.Tensor]]]


def propose_in(
    coco: CocoAnnotations,
    entries: list[dict],
    pictures: list[Image.Image],
    proposer: Proposer | None,
    settings: PoolSettings,
) -> list[list[dict[str, Any]]]:
    """
    Regions of some images: of each its annotated boxes in file order (score 1), then proposals by falling score.

    Args:
        coco (CocoAnnotations): with base names only.
        entries (list of dict): of `coco.images`. pictures: their PIL images.
        proposer: one of proposers.py, or None for annotated boxes alone.
        settings (PoolSettings): min_objectness, min_side, nms_iou and max_proposals, see [`select_proposals`].

    Returns:
        list of lists of dict: image_id, file_name, box (list of x0, y0, x1, y1 in pixels, inside the image),
        proposal_score, name (of the annotated box; "" of a proposal).
    """
    limits = settings.of("min_objectness", "min_side", "nms_iou", "max_proposals")
    raw = proposer(pictures) if proposer is not None and pictures else [None] * len(pictures)
    regions = []
    for entry, found in zip(entries, raw):
        boxes, names = annotated_boxes(coco, entry)
        scores = torch.ones(len(boxes))
        if found is not None:
            proposed, objectness, _ = select_proposals(*found, boxes, entry["width"], entry["height"], **limits)
            boxes, scores = torch.cat([boxes, proposed]), torch.cat([scores, objectness])
            names = names + [""] * len(proposed)
        where = {name: entry[name] for name in ("image_id", "file_name")}
        rows = zip(boxes.tolist(), scores.tolist(), names)
        regions.append([{**where, "box": box, "proposal_score": score, "name": name} for box, score, name in rows])
    return regions


def annotated_boxes(coco: CocoAnnotations, entry: dict) -> tuple[torch.Tensor, list[str]]:
    """The image's annotated boxes in file order, clipped to it, without crowd annotations and boxes without area:
    ((A, 4) float32 x0, y0, x1, y1 in pixels, their A names)."""
    index, image_id = coco.annotations_by_image, entry["image_id"]
    boxes = torch.from_numpy(index.corners(image_id, crowds=False)).float()
    boxes = _clip(boxes, entry["width"], entry["height"])
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1)
    categories = index.arrays(image_id, crowds=False)["category"][usable.numpy()]
    return boxes[usable], [coco.names[label] for label in categories.tolist()]


def select_proposals(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    annotated: torch.Tensor,
    width: int,
    height: int,
    min_objectness: float,
    min_side: float,
    nms_iou: float,
    max_proposals: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The proposals that become regions, best first.

    Args:
        boxes (torch.Tensor of shape (N, 4)): x0, y0, x1, y1 in pixels. Clipped to the image here.
        scores (torch.Tensor of shape (N,)): objectness in 0..1. Less than `min_objectness` is dropped.
        annotated (torch.Tensor of shape (A, 4)): annotated boxes. A proposal with IoU >= 0.5 with one is dropped.
        width, height (int): of the image. Boxes whose part in it is thinner than `min_side` pixels are dropped.
        nms_iou (float): of two proposals with a greater IoU the better one stays.
        max_proposals (int): at most that many.

    Returns:
        (torch.Tensor (n, 4), torch.Tensor (n,), torch.Tensor (n,)): boxes, scores and their places in `boxes`.
    """
    boxes = _clip(boxes, width, height)
    keep = (scores >= min_objectness) & ((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(1)
    keep &= apart_from(annotated, boxes)
    order = scores.argsort(descending=True, stable=True)
    order = order[keep[order]]
    best = order[nms(boxes[order], scores[order], nms_iou)[:max_proposals]]
    return boxes[best], scores[best], best


def _clip(boxes, width, height):
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return boxes.clamp(min=torch.zeros_like(limits), max=limits)
