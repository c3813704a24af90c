"""Labels that are no tensors, out of range or no boxes are refused by their place."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import REQUIRED, tiny_batch, tiny_model


@pytest.mark.parametrize(
    "change, message",
    [
        ({"absent_labels": torch.tensor([0, -1])}, r"labels\[0\]\['absent_labels'\].*from -1 to 0"),
        ({"absent_labels": torch.tensor([3])}, r"\['absent_labels'\] must index the 3 names"),
        ({"absent_labels": torch.tensor([0.0])}, "must be int64"),
        ({"class_labels": torch.tensor([0, -1])}, r"labels\[0\]\['class_labels'\].*from -1 to 0"),
        ({"class_labels": torch.tensor([0, 3])}, r"\['class_labels'\] must index the 3 names"),
        ({"class_labels": torch.tensor([0])}, "has 1 rows, but 'boxes' has 2"),
        ({"boxes": torch.rand(2, 5)}, r"\['boxes'\] must be \(n, 4\), got \(2, 5\)"),
        ({"region_embeds": torch.rand(1, 16)}, "has 1 rows, but 'region_boxes' has 3"),
        ({"region_boxes": torch.rand(2, 4)}, "has 3 rows, but 'region_boxes' has 2"),
        ({"pseudo_boxes": torch.rand(4)}, r"\['pseudo_boxes'\] must be \(n, 4\)"),
        ({"boxes": torch.tensor([[0.5] * 4, [32.0, 20, 8, 2]])}, r"\[0\]\['boxes'\] must be .* 0\.5 to 32\. Divide"),
        ({"region_boxes": torch.full((3, 4), -7.0)}, r"\[0\]\['region_boxes'\] must be \(cx, cy, w, h\) in 0\.\.1"),
        ({"ignore_boxes": torch.full((1, 4), torch.nan)}, r"\['ignore_boxes'\] must be .* from nan to nan"),
        ({"boxes": torch.tensor([[0.5] * 4, [0.5, 0.5, -0.2, 0.1]])}, r"\['boxes'\].* negative .* in row 1: .*-0\.2"),
        ({"pseudo_boxes": torch.tensor([[0.5, 0.5, 0.1, -0.1]])}, r"\['pseudo_boxes'\].* negative .* in row 0"),
        ({"region_embeds": torch.full((3, 16), torch.inf)}, r"\[0\]\['region_embeds'\] has NaN or infinite"),
        ({"boxes": np.full((2, 4), 0.5)}, r"labels\[0\]\['boxes'\] must be a tensor, got ndarray"),
        ({"class_labels": [0, 1]}, r"labels\[0\]\['class_labels'\] must be a tensor, got list"),
        ({"absent_labels": None}, r"labels\[0\]\['absent_labels'\] must be a tensor, got NoneType"),
        ({"boxes": torch.ones(2, 4, dtype=torch.int64)}, r"labels\[0\]\['boxes'\] must be floats, got torch.int64"),
        ({"boxes": torch.zeros(2, 4, device="meta")}, r"\[0\]\['boxes'\] must be on cpu, .* got meta"),
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_labels_out_of_range_are_named(change, message, frozen):
    model, batch = tiny_model("detr").train(), tiny_batch(regions=True)
    model.detector.train(not frozen)
    batch["labels"][0].update(change)
    with pytest.raises(ValueError, match=message):
        model(**batch)
    with pytest.raises(ValueError, match=message):
        model.eval().extract_semantic_features(**batch)


def test_boxes_that_reach_out_of_their_image_pass():
    model, batch = tiny_model("detr").train(), tiny_batch()
    batch["labels"][0]["boxes"] = torch.tensor([[1.0078, 0.5, 0.02, 1.004], [-0.2, 1.3, 0.5, 1.6]])
    assert model(**batch).loss.isfinite()
    batch["labels"] = [{key: value[:0] for key, value in label.items()} for label in batch["labels"]]
    assert model(**batch).loss.isfinite()  # nothing at all


@pytest.mark.parametrize("family", REQUIRED)
def test_boxes_without_area_train(family):
    """Data sets leave them out; an augmentation of one's own may make some."""
    model, batch = tiny_model(family).train(), tiny_batch()
    batch["labels"][0]["boxes"] = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.3, 0.3, 0.2, 0.0]])
    loss = model(**batch).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_labels_that_are_missing_are_named():
    model, batch = tiny_model("detr"), tiny_batch()
    with pytest.raises(ValueError, match="one dict for each of the 2 images, got 1"):
        model(batch["pixel_values"], labels=batch["labels"][:1])
    for labels, message in (
        (batch["labels"][0], "2 images, got dict"),
        (torch.zeros(2, 4), "2 images, got Tensor"),
        ([batch["labels"][0], None], r"labels\[1\] must be a dict, got NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            model(batch["pixel_values"], labels=labels)
    del batch["labels"][1]["boxes"]
    with pytest.raises(ValueError, match=r"labels\[1\] must have .* 'boxes' is missing"):
        model(**batch)
