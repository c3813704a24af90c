"""Pseudo boxes: objects without a name, for the localization stream alone."""

import pytest
import torch
from tiny_models import tiny_batch, tiny_model


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
