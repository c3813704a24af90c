"""Pseudo boxes: objects without a name, for the localization stream alone."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.processing import RegionTable
from decodetr.processing.detection_dataset import TargetMaker, TargetOptions


def test_pseudo_boxes_are_objects_to_the_localization_stream_alone():
    model, batch = tiny_model(), tiny_batch(regions=True)
    model.train()
    plain = batch["labels"]
    extra = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.7, 0.2, 0.3]])
    pseudo = [{**label, "pseudo_boxes": extra[:i]} for i, label in enumerate(plain, start=1)]
    annotated = [
        {
            **label,
            "boxes": torch.cat([label["boxes"], extra[:i]]),
            "class_labels": torch.cat([label["class_labels"], torch.zeros(i, dtype=torch.int64)]),
        }
        for i, label in enumerate(plain, start=1)
    ]
    losses = {}
    for name, labels in {"plain": plain, "pseudo": pseudo, "annotated": annotated}.items():
        torch.manual_seed(0)  # denoising queries
        losses[name] = model(batch["pixel_values"], labels=labels).loss_dict
    assert torch.equal(losses["pseudo"]["loss_det"], losses["annotated"]["loss_det"])
    assert losses["pseudo"]["loss_det"] != losses["plain"]["loss_det"]
    model.eval()  # the same queries whatever is annotated
    with torch.no_grad():
        with_pseudo, without = (model(batch["pixel_values"], labels=labels).loss_dict for labels in (pseudo, plain))
    for name in ("loss_distill", "loss_align"):
        assert torch.equal(with_pseudo[name], without[name])


def test_paper_variant_refuses_pseudo_boxes():
    model, batch = tiny_model(class_agnostic=False, detector={"num_labels": 3}), tiny_batch()
    batch["labels"][0]["pseudo_boxes"] = torch.tensor([[0.2, 0.2, 0.1, 0.1]])
    with pytest.raises(ValueError, match="pseudo_boxes need class_agnostic=True"):
        model(**batch)


@pytest.mark.parametrize("kind, key", [("objects", "pseudo_boxes"), ("ignore", "ignore_boxes")])
@pytest.mark.parametrize(
    "label, crowd, boxes, left",
    [
        (None, 0, 0, 1),  # no annotation
        (-1, 0, 0, 1),  # its name is not trained on, so it is left out, and the object stays an object
        (0, 0, 1, 0),
        (0, 1, 0, 0),  # the box of a crowd is no object
        (-1, 1, 0, 0),
    ],
)
def test_an_annotation_that_is_left_out_does_not_make_its_object_background(
    tmp_path, kind, key, label, crowd, boxes, left
):
    one = np.eye(1, 16, dtype="float32")
    columns = {"image_id": np.array([1]), "box": np.array([[10, 10, 40, 40]], dtype="float32"), "image_embed": one}
    columns |= {"proposal_score": np.array([0.9]), "text_embed": one, "clip_score": np.ones(1)}
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    table = RegionTable.of_columns("regions", tmp_path / "regions", [columns])
    targets = TargetOptions(table, pseudo_box_score=0.4, pseudo_boxes=kind)
    make = TargetMaker(processor, ["a new name"], targets)
    n = 0 if label is None else 1
    annotations = {
        "bbox": np.array([[10.0, 10, 30, 30]] * n).reshape(n, 4),
        "iscrowd": np.array([crowd] * n, dtype=int),
    }
    labels = make.make_item(
        Image.new("RGB", (64, 64)), 1, torch.tensor([label] * n, dtype=torch.int64), annotations, 0
    )
    assert len(labels["labels"]["boxes"]) == boxes and len(labels["labels"][key]) == left
