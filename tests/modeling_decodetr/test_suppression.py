"""`nms_iou`: of boxes that overlap, the most certain query keeps its score."""

import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from torchvision.ops import nms

from decodetr.modeling_decodetr.detectors import suppress_duplicates


def test_suppression_by_hand():
    """Box 1 overlaps 0 by 0.6 and is less certain; 3 equals 2 and is more certain; of equal logits the first stays."""
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.25, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.1], [0.7, 0.7, 0.2, 0.1]])
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5], [1.0, 1.0, 0.5, 0.5]])
    for threshold, gone in ((0.5, {1, 2}), (0.6 - 1e-4, {1, 2}), (0.6 + 1e-4, {2}), (1.0, set())):
        found = suppress_duplicates(logits, boxes.expand(2, 4, 4), threshold)
        assert {n for n in range(4) if found[0, n] == -30} == gone
        kept = [n for n in range(4) if n not in gone]
        assert torch.equal(found[0, kept], logits[0, kept])
        repeated = {0.5: {1, 3}, 1.0: set()}.get(threshold, {1, 3} if threshold < 0.6 else {3})
        assert {n for n in range(4) if found[1, n] == -30} == repeated


def test_a_row_of_like_objects_keeps_every_second_box():
    """Each box overlaps its neighbours by 0.63; what a suppressed box overlaps is not suppressed by it."""
    for length in (3, 7, 40):
        centres = 0.1 + 0.045 * torch.arange(length)
        boxes = torch.stack([centres, *torch.full((3, length), 0.2)], -1)[None]
        found = suppress_duplicates(torch.linspace(3, 1, length)[None], boxes, 0.6)
        assert (found[0] > -30).nonzero()[:, 0].tolist() == list(range(0, length, 2))


def _crowd(seed, count, batch=2, ties=False):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(batch, count, 4, generator=generator) * 0.4 + torch.tensor([0.3, 0.3, 0.05, 0.05])
    logits = torch.randn(batch, count, generator=generator)
    if ties:  # few values of logits, and boxes that are there several times
        logits, boxes = logits.round(), boxes[:, torch.randint(count // 3, (count,), generator=generator)]
    return logits, boxes


def _greedy(logits, boxes, threshold):
    """(B, N) bool by torchvision."""
    kept = torch.zeros_like(logits, dtype=torch.bool)
    for row, some_logits, some_boxes in zip(kept, logits, boxes):
        corners = torch.cat([some_boxes[:, :2] - some_boxes[:, 2:] / 2, some_boxes[:, :2] + some_boxes[:, 2:] / 2], -1)
        row[nms(corners, some_logits, threshold)] = True
    return kept


@pytest.mark.parametrize(
    "count, ties", [(1, False), (2, False), (30, False), (30, True), (300, False), (300, True), (900, False)]
)
def test_suppression_is_the_greedy_one_of_torchvision(count, ties):
    for seed, threshold in enumerate((0.05, 0.3, 0.5, 0.8)):
        logits, boxes = _crowd(seed, count, ties=ties)
        found, expected = suppress_duplicates(logits, boxes, threshold), _greedy(logits, boxes, threshold)
        assert torch.equal(found > -30, expected) and torch.equal(found[expected], logits[expected])


def test_boxes_without_area_stay():
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0]] * 3])
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(suppress_duplicates(logits, boxes, 0.5), logits)


class _Suppression(torch.nn.Module):
    def forward(self, logits, boxes):
        return suppress_duplicates(logits, boxes, 0.3)


@pytest.mark.slow
def test_compiled_and_exported_suppression_is_the_same():
    logits, boxes = _crowd(0, 60)
    expected = suppress_duplicates(logits, boxes, 0.3)
    torch._dynamo.reset()
    compiled = torch.compile(_Suppression(), fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits, boxes), expected)
    images = {0: torch.export.Dim("images", min=1, max=64)}
    exported = torch.export.export(_Suppression(), (logits, boxes), dynamic_shapes=(images, images)).module()
    logits, boxes = _crowd(1, 60, batch=5)
    assert torch.equal(exported(logits, boxes), suppress_duplicates(logits, boxes, 0.3))


def test_suppression_is_of_inference_and_reaches_every_output():
    model, batch = tiny_model("detr", nms_iou=0.3), tiny_batch()
    pixels = batch["pixel_values"]
    plain = tiny_model("detr")
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        one, other = model.eval()(**batch), plain.eval()(**batch)
        alone = model(pixels, localization_only=True)
    gone = one.objectness_logits == -30
    assert gone.any() and not gone.all() and one.loss == other.loss
    assert torch.equal(one.objectness_logits[~gone], other.objectness_logits[~gone])
    assert torch.equal(one.logits[~gone], other.logits[~gone]) and (one.logits[gone].sigmoid() < 1e-9).all()
    assert torch.equal(alone.objectness_logits, one.objectness_logits)
    model.train(), model.detector.eval()
    assert torch.equal(model(pixels).objectness_logits, other.objectness_logits)
