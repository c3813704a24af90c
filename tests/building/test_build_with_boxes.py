"""`decodetr build` of a data set whose photos have boxes, from a DeCo-DETR."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image

import decodetr
from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.building import build_run, contents
from decodetr.building.options import BuildOptions
from decodetr.cli import main

PHOTOS = 12
NAMES = ["cup", "red star"]


def _write_given(folder, rng, val_names=NAMES):
    """A DeCo-DETR, its teachers, and a data set with boxes."""
    tiny_model(names=["cat"], embedding_dim=8).save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    write_tiny_clip(folder / "clip")
    write_tiny_llava(folder / "llava")
    for part, names in (("train", NAMES), ("val", val_names)):
        images, rows = [], []
        (folder / "data" / part).mkdir(parents=True)
        for number in range(1, PHOTOS + 1):
            picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
            picture.save(folder / f"data/{part}/{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            box = {"id": number, "image_id": number, "category_id": 1 + number % len(names), "bbox": [8, 8, 30, 30]}
            rows.append({**box, "area": 900, "iscrowd": 0})
        categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        document = {"images": images, "annotations": rows, "categories": categories}
        (folder / "data/annotations").mkdir(exist_ok=True)
        (folder / f"data/annotations/{part}.json").write_text(json.dumps(document))


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_names_of_the_validation_images_alone_are_asked_for_before_any_work(tmp_path, capsys, monkeypatch, plan):
    _write_given(tmp_path, np.random.default_rng(0), [*NAMES, "zebra", "yak"])
    monkeypatch.setattr(build_run, "measure", lambda *_: pytest.fail("models were loaded"))
    words = ["build", str(tmp_path / "detector"), "--images", str(tmp_path / "data"), "--clip", str(tmp_path / "clip")]
    words += ["--captioner", str(tmp_path / "llava"), "--output", str(tmp_path / "out"), "--device", "cpu", *plan]
    assert main([*words, "--names", "yak"]) == 1
    error = capsys.readouterr().err
    assert "1 names of the validation data are not among the 3 of the saved model: 'zebra'; a build learns" in error
    assert "give the others by --names FILE" in error and "--deploy-vocabulary" not in error
    assert not (tmp_path / "out").exists()
    options = BuildOptions(
        detector=str(tmp_path / "detector"), images=str(tmp_path / "data"), clip=str(tmp_path / "clip"),
        captioner=str(tmp_path / "llava"), output=tmp_path / "out", names={"zebra": ["a"], "yak": ["b"]}, device="cpu",
    )  # fmt: skip
    assert build_run.BuildRun(options).start.boxed, "with all of them it begins"


def test_a_plan_without_validation_images_has_no_report(tmp_path, capsys):
    _write_given(tmp_path, np.random.default_rng(0))
    (tmp_path / "data/annotations/val.json").unlink()
    words = ["build", str(tmp_path / "detector"), "--images", str(tmp_path / "data"), "--clip", str(tmp_path / "clip")]
    words += ["--captioner", str(tmp_path / "llava"), "--output", str(tmp_path / "out"), "--device", "cpu", "--plan"]
    assert main(words) == 0
    rows = {line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")}
    assert {"pool", "model", "together"} <= rows and "report" not in rows


def test_boxes_teach_their_names_and_are_evaluated(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    _write_given(tmp_path, rng)
    build = partial(
        decodetr.build,
        tmp_path / "detector", tmp_path / "data", tmp_path / "clip", tmp_path / "llava", tmp_path / "out",
        names={"blue_dog": ["blue dog"], "cup": ["a cup"]}, steps=2, device="cpu", keep_share=0.9,
    )  # fmt: skip
    model = build()
    trained = DeCoDetrForObjectDetection.from_pretrained(model)
    assert trained.vocabulary.names == ["cup", "red star", "blue_dog"]
    assert trained.config.training_info["training_names"] == ["cup", "red star"], "those with boxes compete"
    before = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "detector").detector.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.detector.state_dict().items())
    vocabulary = json.loads((tmp_path / "out/names/vocabulary.json").read_text())
    assert vocabulary["names"] == ["cup", "red star", "blue_dog"]
    assert trained.config.training_info["annotated_names"] == ["cup", "red star"]
    assert (tmp_path / "out/report/report.html").is_file() and not (tmp_path / "out/data").exists()
    card = (model / "README.md").read_text()
    assert "The data set has boxes" in card and "on validation images" in card
    assert "[1/5] decodetr pool build" in capsys.readouterr().out
    assert build() == model, "nothing is left to do"
    record = json.loads((tmp_path / "out/build.json").read_text())
    assert [*record["done"]["pool"]["made_of"]] == ["names split", "boxes", "pictures"]

    val = tmp_path / "data/annotations/val.json"
    whole = val.read_text()
    document = json.loads(whole)
    val.write_text(json.dumps({**document, "annotations": document["annotations"][1:]}))
    with pytest.raises(ValueError, match="the stage model was made of other validation boxes; give --overwrite model"):
        build()
    val.write_text(whole)
    split = {"base": {"1": "cup"}, "novel": {"2": "red star"}}
    (tmp_path / "data/names.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match="the stage pool was made of other names split; give --overwrite pool"):
        build()
    (tmp_path / "data/names.json").unlink()
    picture = tmp_path / "data/train/3.png"
    same = picture.read_bytes()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(picture)  # with the same boxes
    with pytest.raises(ValueError, match="the stage pool was made of other pictures; give --overwrite pool"):
        build()
    picture.write_bytes(same)

    with monkeypatch.context() as patch:
        patch.setattr(contents, "problem_images", lambda _: [{"image_id": 3}])  # which can be read
        with pytest.raises(
            ValueError, match="the stage pool was made of other pictures that can be read within --max"
        ):
            build()

    for stage in record["done"].values():  # as an earlier version wrote it
        stage["command"] += " # 0123456789ab"
        del stage["made_of"]
    (tmp_path / "out/build.json").write_text(json.dumps(record))
    assert build() == model
