"""`nms_iou`: of boxes that overlap, the most certain query keeps its score."""

import torch
from tiny_models import tiny_batch, tiny_model
from torchvision.ops import box_convert, nms

from decodetr.modeling_decodetr.detectors import suppress_duplicates


def test_suppression_by_hand():
    """Box 1 overlaps 0 by 0.6 and is less certain; 3 equals 2 and is more certain; equal logits stay."""
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.25, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.1], [0.7, 0.7, 0.2, 0.1]])
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5], [1.0, 1.0, 0.5, 0.5]])
    for threshold, gone in ((0.5, {1, 2}), (0.6 - 1e-4, {1, 2}), (0.6 + 1e-4, {2}), (1.0, set())):
        found = suppress_duplicates(logits, boxes.expand(2, 4, 4), threshold)
        assert {n for n in range(4) if found[0, n] == -30} == gone
        kept = [n for n in range(4) if n not in gone]
        assert torch.equal(found[0, kept], logits[0, kept]) and torch.equal(found[1], logits[1])


def test_suppression_agrees_with_torchvision_where_overlaps_do_not_chain():
    torch.manual_seed(0)
    boxes = torch.rand(1, 30, 4) * torch.tensor([1, 1, 0.3, 0.3]) + torch.tensor([0, 0, 0.1, 0.1])
    logits, corners = torch.randn(1, 30), box_convert(boxes[0], "cxcywh", "xyxy")
    kept = (suppress_duplicates(logits, boxes, 0.3)[0] > -30).nonzero().flatten().tolist()
    greedy = set(nms(corners, logits[0], 0.3).tolist())
    assert set(kept) <= greedy and 5 < len(kept) < 30
    again = suppress_duplicates(logits[:, list(greedy)], boxes[:, list(greedy)], 0.3)
    assert (again > -30).all()


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
