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

PHOTOS = 12


def test_boxes_teach_their_names_and_are_evaluated(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tiny_model(names=["cat"], embedding_dim=8).save_pretrained(tmp_path / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "detector")
    write_tiny_clip(tmp_path / "clip")
    write_tiny_llava(tmp_path / "llava")
    for part in ("train", "val"):
        images, rows = [], []
        (tmp_path / "data" / part).mkdir(parents=True)
        for number in range(1, PHOTOS + 1):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
                tmp_path / f"data/{part}/{number}.png"
            )
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            box = {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [8, 8, 30, 30]}
            rows.append({**box, "area": 900, "iscrowd": 0})
        categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "red star"}]
        document = {"images": images, "annotations": rows, "categories": categories}
        (tmp_path / "data/annotations").mkdir(exist_ok=True)
        (tmp_path / f"data/annotations/{part}.json").write_text(json.dumps(document))
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
    val.write_text(json.dumps({**document, "annotations": rows[1:]}))
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

    for stage in record["done"].values():  # as an earlier version wrote it
        stage["command"] += " # 0123456789ab"
        del stage["made_of"]
    (tmp_path / "out/build.json").write_text(json.dumps(record))
    assert build() == model
