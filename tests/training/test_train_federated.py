"""An LVIS file is evaluated by LVIS' rules while a model trains, as `decodetr eval --protocol ov-lvis` does."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrImageProcessor, DeCoDetrTrainer, DeCoDetrTrainingArguments
from decodetr.evaluation.loop import evaluate_model
from decodetr.evaluation.output_evaluator import rules_of
from decodetr.processing import CocoAnnotations, DetectionDataset
from decodetr.training.planning.memory import _evaluation_knobs

LVIS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}


def _data(folder, federated):
    """Two images with one object each, a cat and a dog. Nobody says whether the first image has a dog."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").mkdir()
    images = []
    for i in (1, 2):
        Image.new("RGB", (64, 64), (40 * i, 90, 90)).save(folder / "val" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64, **(LVIS if federated else {})})
    rows = [
        {"id": i, "image_id": i, "category_id": i, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0} for i in (1, 2)
    ]
    names = [{"id": 1, "name": "cat", "frequency": "f"}, {"id": 2, "name": "dog", "frequency": "r"}]
    document = {"images": images, "annotations": rows, "categories": names}
    (folder / "annotations" / "val.json").write_text(json.dumps(document))
    return CocoAnnotations.load(folder / "annotations" / "val.json")


def _found(monkeypatch):
    """Detections: both objects, and before them a confident dog where nobody looked for one."""

    def results(outputs, processor, sizes, max_detections):
        right = {"boxes": torch.tensor([[5.0, 5, 25, 25]])}
        elsewhere = torch.tensor([[30.0, 30, 50, 50], [5, 5, 25, 25]])
        first = {"scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([1, 0]), "boxes": elsewhere}
        second = {"scores": torch.tensor([0.5]), "labels": torch.tensor([1]), **right}
        boxes = {"scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.int64), **right}
        return [{**found, "localization": boxes} for found in (first, second)]

    monkeypatch.setattr("decodetr.training.trainer.results_of", results)
    monkeypatch.setattr("decodetr.evaluation.predictors.results_of", results)


@pytest.mark.parametrize("federated, ap, kept", [(True, 100.0, 300), (False, 75.0, 100)])
def test_evaluation_in_training_follows_the_file(tmp_path, monkeypatch, federated, ap, kept):
    coco = _data(tmp_path / "data", federated)
    _found(monkeypatch)
    model, processor = tiny_model(names=["cat", "dog"]), DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
    options = {"processing_class": processor, "novel_names": ["dog"]}
    trainer = DeCoDetrTrainer(model, args, eval_dataset=DetectionDataset(coco, processor, ["cat", "dog"]), **options)
    metrics = trainer.evaluate()
    assert metrics["eval_AP50"] == pytest.approx(ap) and f"eval_AR{kept}" in metrics
    assert metrics["eval_AP50_novel"] == pytest.approx(100.0 if federated else 50.0)
    found = evaluate_model(model, processor, coco, ["cat", "dog"], progress=False)
    assert found["AP50"] == pytest.approx(ap) and f"AR{kept}" in found
    assert f"--eval-max-detections {kept // 2} (now {kept})" in " ".join(_evaluation_knobs(trainer))


def test_the_rules_are_those_of_the_file_unless_somebody_says_how_many(tmp_path):
    lvis, coco = _data(tmp_path / "lvis", True), _data(tmp_path / "coco", False)
    assert rules_of(lvis) == {"federated": True, "max_detections": 300}
    assert rules_of(coco) == rules_of(None) == {"federated": False, "max_detections": 100}
    assert rules_of(lvis, 7) == {"federated": True, "max_detections": 7}


def test_the_command_evaluates_a_federated_file_as_it_is(tmp_path, capsys):
    from decodetr.cli import main

    rows = [
        {"image_id": 1, "category_id": 2, "bbox": [30, 30, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.8},
        {"image_id": 2, "category_id": 2, "bbox": [5, 5, 20, 20], "score": 0.5},
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    for federated, ap in ((True, "100.0"), (False, "75.0")):
        file = _data(tmp_path / str(federated), federated).file
        words = ["eval", "--detections", tmp_path / "found.json", "--annotations", file, "--output", tmp_path / "out"]
        words.append("--overwrite")
        assert main([str(word) for word in words]) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["protocol"]["federated"] is federated
        assert np.isclose(report["metrics"]["AP50"], float(ap))
    capsys.readouterr()
