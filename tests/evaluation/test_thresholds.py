"""thresholds.json: the score of best F1 of each name, and a model that takes it over."""

import json

import numpy as np
import pytest
import torch
from helpers.detections import BOX, FAR, evaluated, prediction, random_world, truth
from helpers.tiny_models import NAMES, tiny_model

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.evaluation import thresholds
from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.thresholds import best_thresholds, read_thresholds


def test_thresholds_by_hand():
    rows = {i: [("cat", BOX)] for i in range(4)} | {9: [("dog", BOX)]}
    # cat: 0.9 right, 0.8 wrong, 0.7 right, 0.7 right, 0.2 wrong. Best at 0.7: three of four shown are right.
    found = [
        prediction((0, 0.9, BOX)), prediction((0, 0.8, FAR), (0, 0.7, BOX)), prediction((0, 0.7, BOX)),
        prediction((0, 0.2, FAR)), prediction((1, 0.6, FAR)),
    ]  # fmt: skip
    report = best_thresholds(Analysis(evaluated(truth(["cat", "dog"], rows), found)))
    cat, dog = report["names"]["cat"], report["names"]["dog"]
    assert (cat["objects"], cat["f1"], cat["precision"], cat["recall"]) == (4, 0.75, 0.75, 0.75)
    assert 0.69 <= cat["threshold"] < 0.7 and list(report["names"]) == ["dog", "cat"]
    assert dog == {"objects": 1, "threshold": None, "f1": 0.0, "precision": None, "recall": 0.0}
    assert report["name_thresholds"] == {} and report["threshold"] == cat["threshold"]  # few objects


def test_no_threshold_would_have_been_better(monkeypatch):
    monkeypatch.setattr(thresholds, "LEAST_OF_A_NAME", 20)
    coco, predictions = random_world(0)
    analysis = Analysis(evaluated(coco, predictions))
    report = best_thresholds(analysis)
    assert set(report["name_thresholds"]) == {n for n, row in report["names"].items() if row["objects"] >= 20} != set()
    for column, name in enumerate(analysis.names):
        mine = (analysis.found["name"] == column) & analysis.counts
        scores, hit, objects = analysis.found["score"][mine], analysis.hit[mine], analysis.objects[column]

        def f1(least, scores=scores, hit=hit, objects=objects):
            return 2 * hit[scores > least].sum() / ((scores > least).sum() + objects)

        best = max(f1(least) for least in np.linspace(0, 1, 2001))
        assert (
            f1(report["names"][name]["threshold"])
            == pytest.approx(best)
            == pytest.approx(report["names"][name]["f1"], abs=1e-4)
        )


def test_a_file_of_something_else_is_refused(tmp_path):
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"threshold": 0.4, "name_thresholds": {"cat": 1}, "names": 3}))
    assert read_thresholds(file) == (0.4, {"cat": 1.0})
    for wrong in (
        {},
        {"threshold": 2},
        {"threshold": True},
        {"threshold": 0.1, "name_thresholds": {"cat": None}},
        {"threshold": 0.1, "name_thresholds": [1]},
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="thresholds.json: expected {"):
            read_thresholds(file)


@pytest.fixture
def folder(tmp_path):
    model = tiny_model()
    model.config.score_scale, model.config.score_bias = 2.0, 0.5
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    return tmp_path


def test_a_model_takes_thresholds_over(folder, capsys):
    file = folder / "thresholds.json"
    file.write_text(json.dumps({"threshold": 0.4, "name_thresholds": {NAMES[1]: 0.2, "other": 0.1}}))
    assert main(["calibrate", "--model", str(folder / "model"), "--thresholds", str(file)]) == 0
    assert "the default threshold is 0.4, 2 names have a separate one" in capsys.readouterr().out
    config = DeCoDetrForObjectDetection.from_pretrained(folder / "model").config
    assert config.thresholds() == [0.4 if name != NAMES[1] else 0.2 for name in NAMES]
    assert (config.score_scale, config.score_bias) == (2.0, 0.5)
    card = (folder / "model/README.md").read_text()
    assert "`decodetr predict` shows scores above 0.4 (2 names have separate thresholds)" in card
    file.write_text(json.dumps({"threshold": 0.4, "name_thresholds": {"other": 0.1}}))
    copy = ["calibrate", "--model", str(folder / "model"), "--output", str(folder / "copy"), "--thresholds", str(file)]
    assert main(copy) == 1 and "none of its 1 names, such as ['other']" in capsys.readouterr().err
    for unread in (["--data", str(folder)], ["--duplicates"], ["--most", "3"]):
        assert main([*copy, *unread]) == 1 and f"leave out {unread[0]}" in capsys.readouterr().err
    assert not (folder / "copy").exists()


def test_post_processing_takes_a_threshold_for_each_name():
    logits = torch.tensor([[[0.5, 0.3], [0.2, 0.35]]]).logit()
    outputs = {"logits": logits, "pred_boxes": torch.full((1, 2, 4), 0.5)}
    config = DeCoDetrConfig(id2label={0: "cat", 1: "dog"}, score_threshold=0.4, name_thresholds={"dog": 0.32})
    processor = DeCoDetrImageProcessor()
    (found,) = processor.post_process_object_detection(outputs, config.thresholds())
    assert found["labels"].tolist() == [0, 1] and found["scores"].tolist() == pytest.approx([0.5, 0.35])
    (one,) = processor.post_process_object_detection(outputs, 0.32)
    assert one["labels"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="one for each of the 2 names"):
        processor.post_process_object_detection(outputs, [0.1, 0.2, 0.3])


def test_a_pipeline_takes_the_thresholds_of_the_model():
    from PIL import Image
    from transformers import pipeline

    model, image = tiny_model().eval(), Image.new("RGB", (64, 64), (90, 120, 90))
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    detector = pipeline("object-detection", model=model, image_processor=processor)
    everything = detector(image, threshold=0.0)
    cut = sorted(row["score"] for row in everything if row["label"] == NAMES[0])[-3]
    model.config.score_threshold, model.config.name_thresholds = 1.0, {NAMES[0]: cut}
    shown = detector(image, threshold=model.config.thresholds())
    assert len(shown) == 2 and {row["label"] for row in shown} == {NAMES[0]}
