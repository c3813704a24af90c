"""Exports of every family, and of images of any size, detect what the models detect."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exports import SIZE, assert_same, exported, named_model, pictures, torch_detections
from helpers.tiny_models import TINY_DETECTORS, tiny_model
from PIL import Image

from decodetr.cli import main
from decodetr.inference.detection import detect
from decodetr.processing import DeCoDetrImageProcessorPil
from decodetr.runtime import ExportedDetector


@pytest.mark.slow
def test_images_of_any_size(tmp_path, capsys):
    """They keep their shape, and those of one size share a batch."""
    model = tiny_model("detr").eval()
    processor = DeCoDetrImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 300})
    made = exported(model, tmp_path, "onnx", processor=processor, dynamic_size=True)
    assert made.description.dynamic == ["batch", "height", "width"] and made.description.image_size is None
    images = [*pictures(), *pictures(seed=1)]
    found = ExportedDetector(tmp_path).detect(images, threshold=0.0)
    assert_same(found, [detect(model, processor, [image], 0.0)[0] for image in images])
    for place, image in {"a": images[0], "banner": Image.new("RGB", (3000, 2)), "b": images[1]}.items():
        image.save(tmp_path / f"{place}.png")
    words = ["predict", tmp_path, "--model", tmp_path, "--output", tmp_path / "found", "--no-pictures"]
    assert main([*map(str, words)]) == 1
    said, rows = capsys.readouterr(), json.loads((tmp_path / "found/detections.json").read_text())["images"]
    assert "banner.png: a picture of 3000 x 2 pixels becomes 300 x 0, and the graph takes" in said.err
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"] and "1 unreadable" in said.out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2"])
def test_graphs_of_any_size_read_maps_where_the_model_does(kind, tmp_path):
    """Of images whose sides are no multiples of a stride, whose maps cover more than they."""
    model = tiny_model("detr", region_pixels=8).eval()
    model.detector.class_labels_classifier.bias.data[0] += 8  # so that scores are those of names, which differ much
    model.semantic_stream.predictor.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    processor = DeCoDetrImageProcessorPil(size={"shortest_edge": 97, "longest_edge": 301})
    exported(model, tmp_path, kind, processor=processor, dynamic_size=True)
    images = pictures()
    found = ExportedDetector(tmp_path, allow_pickle=True).detect(images, threshold=0.0)
    expected = [detect(model, processor, [image], 0.0)[0] for image in images]
    for one, other in zip(found, expected, strict=True):
        one, other = (np.log(sorted(detections["scores"])) for detections in (one, other))
        assert other.std() > 1
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "pt2"])
@pytest.mark.parametrize("family", sorted(TINY_DETECTORS))
def test_every_family_is_exported(family, kind, tmp_path):
    """At batch 1 and 4, with names baked in and as input."""
    model, images = tiny_model(family).eval(), pictures()
    for names_input in (False, True):
        folder = tmp_path / str(names_input)
        made = exported(model, folder, kind, names_input=names_input)
        parity = made.description.parity
        assert parity["batches"] == [1, 4] and parity["found"] == parity["compared"] == 60
        found = ExportedDetector(folder, allow_pickle=True).detect(images, threshold=0.0)
        assert [len(one["names"]) for one in found] == [36] * len(images)


def test_one_image_at_a_time_with_baked_names(tmp_path):
    """A graph of batch 1 takes any number of pictures, one by one."""
    model, images = named_model(), pictures()
    made = exported(model, tmp_path, "pt2", batch_size=1)
    assert made.description.dynamic == [] and made.description.parity["batches"] == [1]
    found = ExportedDetector(tmp_path, allow_pickle=True).detect(images, threshold=0.0)
    assert_same(found, torch_detections(model, images))


@pytest.mark.slow
def test_rt_detr_v2_takes_any_batch(tmp_path):
    """Its batch size is a number in the code of the library. A file of torch.export is read only when it is asked
    for."""
    model = tiny_model("rt_detr_v2", nms_iou=0.3).eval()
    made = exported(model, tmp_path, "pt2", semantic_queries=11)
    assert made.description.dynamic == ["batch"] and made.description.parity["batches"] == [1, 4]
    with pytest.raises(ValueError, match="can run code of whoever wrote it. If it is yours, give allow_pickle=True"):
        ExportedDetector(tmp_path)
    images = pictures()
    found = ExportedDetector(tmp_path, allow_pickle=True).detect(images, threshold=1e-6)
    processor = DeCoDetrImageProcessorPil(size=SIZE)
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt"), semantic_queries=11)
    sizes = [(image.height, image.width) for image in images]
    # Suppressed ones have one score, and any order.
    expected = processor.post_process_object_detection(outputs, 1e-6, target_sizes=sizes)
    names = [[model.vocabulary.names[label] for label in one["labels"]] for one in expected]
    rows = [{key: one[key].tolist() for key in ("scores", "boxes")} for one in expected]
    assert_same(found, [{"names": own, **row} for own, row in zip(names, rows)])
