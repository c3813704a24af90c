"""A starting point that looks at pictures of many objects sees all of them, and no more that it is not sure of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_config
from PIL import Image

import decodetr.training.data.self_regions as module
from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.annotations.coco import CocoAnnotations
from decodetr.training.data.detector_boxes import DetectorBoxes
from decodetr.training.data.self_regions import self_regions

COUNT, UNSURE = 48, 30  # objects of a picture, and other things
NAMES = ("cup", "plate")


@pytest.fixture
def crowded(tmp_path, monkeypatch):
    """(model, annotations, processor) of two pictures of 48 objects, all of which the model finds, with 30 things that
    it is not sure of."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    images, annotations = [], []
    corners = [(20 * column, 20 * row) for row in range(6) for column in range(13)]
    for n in (1, 2):
        Image.fromarray(np.zeros((120, 260, 3), dtype=np.uint8)).save(tmp_path / f"train/{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 260, "height": 120})
        annotations += [
            {"image_id": n, "category_id": 1 + place % 2, "bbox": [x, y, 15, 15], "area": 225, "iscrowd": 0}
            for place, (x, y) in enumerate(corners[:COUNT])
        ]
    annotations = [{"id": n, **row} for n, row in enumerate(annotations, 1)]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
    file = tmp_path / "annotations/train.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    boxes = torch.tensor([[x, y, x + 15, y + 15] for x, y in corners]) / torch.tensor([260, 120, 260, 120])
    boxes = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    scores = torch.where(torch.arange(len(corners)) < COUNT, 4.0, -1.0)  # 0.98 and 0.27

    def looked(model, batch, **_):
        b, d = len(batch["labels"]), model.config.embedding_dim
        return SimpleNamespace(
            pred_boxes=boxes.expand(b, -1, -1),
            objectness_logits=scores.expand(b, -1),
            semantic_embeds=torch.randn(b, len(boxes), d),
            prototype_weights=torch.rand(b, len(boxes), len(model.prototype_pool.prototypes)),
        )

    monkeypatch.setattr(module, "forward", looked)
    model = DeCoDetrForObjectDetection(tiny_config())
    return model, CocoAnnotations.load(file), DeCoDetrImageProcessor(size={"height": 32, "width": 32})


def test_a_detector_that_finds_all_of_many_objects_is_told_so(crowded):
    model, coco, processor = crowded
    seen = DetectorBoxes.count(coco, self_regions(model, coco, processor, sure=0.4))
    assert seen == DetectorBoxes(annotated=2 * COUNT, found=2 * COUNT, others=0, images=0)
    assert seen.use(True) == "objects"


def test_certain_things_without_a_box_are_regions_however_many(crowded):
    """24 of another name in each picture; of those that it is not sure of, no more than a pool has."""
    model, coco, processor = crowded
    table = self_regions(model, coco.select(["cup"]), processor)
    scores = table.get(1)["proposal_scores"]
    assert len(scores) == COUNT // 2 and (scores > 0.9).all()
    assert len(self_regions(model, coco, processor).boxes(1)) == 20 < UNSURE
    assert len(self_regions(model, coco, processor, certain=0.2).boxes(1)) == UNSURE
