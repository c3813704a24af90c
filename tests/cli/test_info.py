"""`decodetr info`: what a model is, knows and learned from, and what else a folder is."""

import json

import pytest
from helpers.tiny_models import tiny_model
from PIL import Image

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.inference.model_facts import describe


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    model.config.training_info = {"annotated_names": [model.config.id2label[0]], "setting": "V-OVD", "data": "x"}
    model.config.score_threshold, model.config.name_thresholds = 0.25, {model.config.id2label[1]: 0.5}
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 96}).save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_facts_of_a_model_are_those_of_its_weights_and_config(saved, capsys):
    model, folder = saved
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    loaded = DeCoDetrForObjectDetection.from_pretrained(folder)
    detector = sum(weight.numel() for weight in loaded.detector.parameters())
    total = sum(weight.numel() for weight in loaded.parameters())
    assert facts["kind"] == "DeCo-DETR" and facts["detector"]["family"] == "rt_detr_v2"
    assert facts["parameters"] == {"all": total, "detector": detector, "semantic_stream": total - detector}
    assert facts["image_size"] == {"height": 64, "width": 96}
    assert facts["names"] == {"all": model.vocabulary.names, "boxed": model.vocabulary.names[:1]}
    assert facts["pool"]["coarse"] + facts["pool"]["fine"] == len(loaded.prototype_pool)
    assert facts["scores"]["threshold"] == 0.25
    assert facts["scores"]["name_thresholds"] == {model.vocabulary.names[1]: 0.5}
    assert "speed" not in facts


def test_the_text_says_the_same_and_speed_on_request(saved, capsys):
    model, folder = saved
    assert main(["info", str(folder), "--speed", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{folder}: DeCo-DETR\n") and "0.25, and 1 names have their own" in text
    assert "setting" in text and "V-OVD" in text and "none; `decodetr calibrate` makes one" in text
    assert "ms an image" in text and " at 64 x 96 on cpu" in text and "median of " in text
    assert main(["info", str(folder), "--speed", "--device", "nonsense"]) == 1


def test_a_shipped_model_has_figures_of_its_calibration(capsys):
    assert main(["info", "scenes-decodetr"]) == 0
    text = capsys.readouterr().out
    assert "180 coarse and 360 fine prototypes" in text and "240: red solid square" in text
    assert "boxed" in text and "180: red solid square" in text and "0.1381" in text and "images: 400" in text


@pytest.mark.parametrize(
    ("name", "kind", "advice"),
    [
        ("scenes-pool", "pool", "give it with --pool"),
        ("scenes-vocabulary", "vocabulary", "give it with --vocabulary"),
        ("scenes-clip", "CLIP", "give it with --clip"),
        ("scenes-llava", "captioner", "give it with --captioner"),
        ("decodetr-r50", "recipe", "decodetr train --recipe decodetr-r50"),
    ],
)
def test_what_else_is_shipped_is_told_kindly(name, kind, advice, capsys):
    found = describe(name)
    assert found["kind"] == kind and advice in found["advice"].replace("`", "")
    assert main(["info", name]) == 0 and capsys.readouterr().out.startswith(f"{name}: {kind}\n")
    if kind != "recipe":
        assert main(["info", name, "--speed"]) == 1
        assert f"is a {kind}" in capsys.readouterr().err


def test_a_bare_detector_can_become_a_model(tmp_path, saved, capsys):
    saved[0].detector.save_pretrained(tmp_path / "bare")
    found = describe(tmp_path / "bare")
    assert found["kind"] == "detector" and found["type"] == "rt_detr_v2"
    assert found["advice"].startswith("`decodetr train --detector")


def test_regions_are_counted(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for i, rows in enumerate((2, 3)):
        pq.write_table(pa.table({"image_id": range(rows)}), tmp_path / f"regions-{i:05d}-of-00002.parquet")
    assert describe(tmp_path) == {
        "name": str(tmp_path),
        "kind": "regions data set",
        "regions": 5,
        "advice": f"give it with --regions {tmp_path} of `decodetr train`",
    }


def test_what_is_nothing_of_ours_is_an_error_that_says_what_is_there(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.jpg")
    assert main(["info", str(tmp_path)]) == 1
    assert "it has cat.jpg" in capsys.readouterr().err
