"""Queries on regions that may be objects: no lesson, a weaker one, or the full one of background."""

import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model
from torch.nn import functional as F

from decodetr.modeling_decodetr.detectors import num_queries

ALL = (0.5, 0.5, 1.0, 1.0)


def _gradient(model, batch, ignore=None, weight=0.0):
    """Loss, class logits of the last layer and their gradient (B, N, classes), with `ignore_boxes` in every label."""
    model.config.ignore_weight = weight
    labels = batch["labels"]
    if ignore is not None:
        labels = [{**label, "ignore_boxes": torch.tensor(ignore)} for label in labels]
    seen, seen_grad = [], []
    handle = model.detector.register_forward_hook(lambda *args: seen.append(args[-1].logits))
    torch.manual_seed(0)  # denoising queries
    try:
        with torch.enable_grad():
            outputs = model(batch["pixel_values"], labels=labels)
            seen[-1].register_hook(seen_grad.append)
            loss = outputs.loss_dict["loss_det"]
            loss.backward()
    finally:
        handle.remove()
    gradient = seen_grad[-1]
    n, groups = num_queries(model.config.detector_config), getattr(model.config.detector_config, "group_detr", 1)
    return loss.item(), outputs, gradient[:, -n * groups :]  # denoising queries come first, and have no background


@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_every_family_leaves_out_what_lies_on_a_region(family):
    """All boxes of the model lie on regions (threshold 0): what is left is the gradient of the matched queries."""
    model, batch = tiny_model(family, region_iou_threshold=0.0), tiny_batch()
    model.train()
    plain_loss, _, plain = _gradient(model, batch)
    model.zero_grad()
    loss, outputs, ignored = _gradient(model, batch, ignore=[ALL])
    half = _gradient(model, batch, ignore=[ALL], weight=0.5)[2]
    assert loss == plain_loss  # its value stays, its gradient does not
    rows = ignored.flatten(2).abs().sum(-1) > 0
    groups = getattr(model.config.detector_config, "group_detr", 1)
    # A matched query whose box misses entirely has no varifocal loss. The second image has no object.
    assert 0 < rows[0].sum() <= groups * len(batch["labels"][0]["boxes"]) and not rows[1].any()
    assert "rt_detr" in family or rows[0].sum() == groups * len(batch["labels"][0]["boxes"])
    assert torch.equal(ignored[rows], plain[rows]) and (plain[1].abs().sum(-1) > 0).all()
    assert torch.allclose(half[~rows], 0.5 * plain[~rows]) and torch.equal(half[rows], plain[rows])


def test_only_queries_on_the_region_are_left_out():
    model, batch = tiny_model("deformable_detr", region_iou_threshold=0.2), tiny_batch()
    model.train()
    plain = _gradient(model, batch)[2]
    boxes = model(**batch).pred_boxes
    region = boxes[1, 3].tolist()
    got = _gradient(model, batch, ignore=[region])[2]
    changed = (got != plain).flatten(2).any(-1)
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
    low = torch.maximum(corners[..., :2], corners[1, 3, :2])
    high = torch.minimum(corners[..., 2:], corners[1, 3, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    on = shared / (boxes[..., 2:].prod(-1) + boxes[1, 3, 2:].prod() - shared) >= 0.2
    assert changed[1].equal(on[1]) and changed[1, 3]
    assert not (changed[0] & ~on[0]).any() and not got[changed].any()


def test_the_gradient_is_that_of_the_weighted_loss():
    """Deformable DETR's focal loss by hand, without the queries that are left out."""
    model, batch = tiny_model("deformable_detr", region_iou_threshold=0.0), tiny_batch(batch=1)
    model.train()
    _, outputs, got = _gradient(model, batch, ignore=[ALL], weight=0.25)
    matched = got.abs().flatten(1) > 0
    plain = _gradient(model, batch)[2]
    logits = outputs.objectness_logits.detach()[0].requires_grad_()
    target = (plain[0, :, 0] < 0).float()  # pushed up: matched
    assert target.sum() == len(batch["labels"][0]["boxes"]) and matched.all()
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = cross_entropy * torch.where(target > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    config = model.config.detector_config
    weight = torch.where(target > 0, 1.0, 0.25)
    loss = (weight * focal).sum() / target.sum() * getattr(config, "class_loss_coefficient", 1.0)
    loss.backward()
    ratio = got[0, :, 0] / logits.grad
    assert ratio.max() - ratio.min() < 1e-3 * ratio.abs().max()  # up to the weight of the class loss


def test_nothing_is_watched_without_regions_or_at_full_weight():
    model, batch = tiny_model(), tiny_batch()
    model.train()
    plain = _gradient(model, batch)[2]
    assert torch.equal(_gradient(model, batch, ignore=[ALL], weight=1.0)[2], plain)
    empty = [{**label, "ignore_boxes": torch.zeros(0, 4)} for label in batch["labels"]]
    torch.manual_seed(0)
    assert model(batch["pixel_values"], labels=empty).loss_dict["loss_det"] > 0
