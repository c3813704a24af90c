"""Pictures at each evaluation of a run: what is drawn, where, and that nothing is computed twice for them."""

import numpy as np
import pytest
import torch
from helpers.trainings import make_trainer
from PIL import Image

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainingArguments
from decodetr.processing import CocoAnnotations
from decodetr.training.results.pictures import _CELL, _HEADER, EvaluationPictures

EVALUATING = {"eval_strategy": "steps", "eval_steps": 2}


def _cell(sheet, row, column):
    """Pixels of a cell without its line of text, darker or lighter than white."""
    x, y = column * _CELL, row * (_CELL + _HEADER) + _HEADER
    return np.asarray(sheet.crop((x, y, x + _CELL, y + _CELL)).convert("RGB")).astype(int)


def test_detections_are_beside_annotations(scenes):
    coco = CocoAnnotations.load(scenes / "annotations/val.json")
    pictures = EvaluationPictures(coco, 3)
    ids = [image["image_id"] for image in coco.images]

    def found(scores):
        boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0], [20.0, 30.0, 60.0, 60.0]])[: len(scores)]
        return {"scores": torch.tensor(scores), "labels": torch.arange(len(scores)), "boxes": boxes}

    results = {ids[0]: found([0.9, 0.1]), ids[1]: found([]), ids[3]: found([0.9])}
    pictures.update(list(results), list(results.values()))  # the third is not there: another process has it
    pictures.merge(lambda rows: [*rows, (ids[2], found([0.29]))])
    sheet = pictures.sheet(["one", "two"])
    assert sheet.size == (4 * _CELL, 2 * (_CELL + _HEADER))  # two images in a row, the fourth was not asked for
    again = EvaluationPictures(coco, 3)
    again.update([*ids, ids[0]], [*[found([])] * len(ids), found([0.9])])  # the first one of an image counts
    again.update(ids[:2], [found([0.9])] * 2)
    plain = again.sheet(["one", "two"])
    for (row, column), drawn in {(0, 1): True, (0, 3): False, (1, 1): False}.items():
        same = np.abs(_cell(sheet, row, column) - _cell(plain, row, column)).max() == 0
        assert same != drawn
    for row, column in ((0, 0), (0, 2), (1, 0)):  # annotations
        assert (_cell(sheet, row, column) == _cell(plain, row, column)).all()
        assert np.abs(_cell(plain, row, column) - _cell(plain, row, column + 1)).max() > 50
    assert EvaluationPictures(coco, 0).sheet([]) is None


@pytest.mark.slow
def test_they_come_from_the_evaluation_loop(scenes, tmp_path, monkeypatch):
    counted, forward = [], DeCoDetrForObjectDetection.forward

    def count(self, *args, **kwargs):
        counted.append(self.training)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(DeCoDetrForObjectDetection, "forward", count)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make_trainer(scenes, tmp_path, report_to="tensorboard", eval_pictures=8, **EVALUATING)
    trainer.train()
    assert counted.count(False) == 4  # 6 images in batches of 4, twice
    assert sorted(file.name for file in (tmp_path / "pictures").glob("step-*")) == ["step-2.jpg", "step-4.jpg"]
    with Image.open(tmp_path / "pictures/step-4.jpg") as sheet:
        assert sheet.size == (4 * _CELL, 3 * (_CELL + _HEADER))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = next(file for file in tmp_path.rglob("events.out.tfevents.*"))
    logged = accumulator.EventAccumulator(str(events.parent), size_guidance={"images": 0}).Reload()
    shown = logged.Images("eval/detections")
    assert [image.step for image in shown] == [2, 4] and shown[0].width == 4 * _CELL


def test_none_are_drawn_if_none_are_wanted(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, eval_pictures=0, **EVALUATING)
    trainer.evaluate()
    trainer.args.eval_pictures = 2
    trainer.evaluate()  # no run has begun
    trainer.args.eval_pictures = 0
    trainer.train()
    assert not (tmp_path / "pictures").exists()
    trainer.args.eval_pictures = 2
    trainer.evaluate()
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["step-4.jpg"]
    with pytest.raises(ValueError, match="eval_pictures must be at least 0"):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path), eval_pictures=-1)
