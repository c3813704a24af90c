"""A detector's boxes with CLIP's names of the crops."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS
from helpers.tiny_teachers import write_tiny_clip
from PIL import Image
from transformers import AutoModelForObjectDetection, RTDetrV2Config

from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.building.clip_detector import NOTHING, ClipDetector
from decodetr.cli import main

DIM = 8
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 11]])


class Clip:
    """Crops of a red picture part are [1, 0, ...], others [0, 1, 0, ...]. What is nothing lies at [0, 0, 1, ...]."""

    size = 4
    info = {"logit_scale": 2.0}
    model = torch.nn.Linear(1, 1)

    def embed_texts(self, texts):
        assert tuple(texts) == NOTHING
        return np.tile(np.eye(DIM, dtype=np.float32)[2], (len(texts), 1))

    def embed_images(self, crops):
        return np.stack([np.eye(DIM, dtype=np.float32)[int(np.asarray(crop)[..., 0].mean() < 128)] for crop in crops])


class Proposer:
    """The same boxes in each picture."""

    detector = torch.nn.Linear(1, 1)

    def __call__(self, images):
        return [(BOXES, torch.tensor([0.81, 0.5, 0.4]))] * len(images)


def _detector(names):
    return ClipDetector(Proposer(), Clip(), Vocabulary(names, torch.eye(DIM)[: len(names)]))


def _picture():
    image = Image.new("RGB", (64, 64))
    image.paste((255, 0, 0), (0, 0, 16, 16))
    return image


def test_a_score_is_the_mean_of_objectness_and_the_softmax_of_clip():
    (found,) = _detector(["red", "dark"])([_picture()], 0.0)
    share = np.exp(2.0) / (np.exp(2.0) + 1 + len(NOTHING))  # cosines 1 and 0, at a logit scale of 2
    other = 1 / (np.exp(2.0) + 1 + len(NOTHING))
    expected = [(0.81 * share) ** 0.5, (0.5 * share) ** 0.5, (0.81 * other) ** 0.5, (0.5 * other) ** 0.5]
    assert found["scores"] == pytest.approx(expected, abs=1e-6)
    assert found["names"] == ["red", "dark", "dark", "red"]
    assert found["boxes"] == BOXES[[0, 1, 0, 1]].tolist(), "the third overlaps the first too much"


def test_one_name_competes_with_nothing():
    (found,) = _detector(["red"])([_picture()], 0.6)
    assert found["names"] == ["red"] and found["boxes"] == [BOXES[0].tolist()], "the dark box is not red"
    (none,) = _detector(["red"])([_picture()], 0.9)
    assert none == {"names": [], "scores": [], "boxes": []}


def test_predict_detects_with_any_detector_and_a_clip(tmp_path, capsys):
    torch.manual_seed(0)
    config = RTDetrV2Config(**{**TINY_DETECTORS["rt_detr_v2"], "decoder_n_levels": 2, "num_labels": 3})
    AutoModelForObjectDetection.from_config(config).save_pretrained(tmp_path / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "detector")
    clip = write_tiny_clip(tmp_path / "clip")
    _picture().save(tmp_path / "one.png")
    command = ["predict", str(tmp_path / "one.png"), "--model", str(tmp_path / "detector"), "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--threshold", "0.01"]
    assert main([*command, "--names", "cat,dog"]) == 1
    error = capsys.readouterr().err
    assert "`decodetr build` makes one" in error and "--clip CLIP --names" in error
    assert main([*command, "--clip", str(clip)]) == 1
    error = capsys.readouterr().err
    assert "CLIP has to be told what to look for" in error and "--names-file" in error
    no_detector = [str(clip) if word == str(tmp_path / "detector") else word for word in command]
    assert main([*no_detector, "--clip", str(clip), "--names", "cat"]) == 1
    assert f"{clip} holds a model of type 'clip', expected a detector" in capsys.readouterr().err
    assert main([*command, "--clip", str(clip), "--names", "cat,dog"]) == 0
    (image,) = json.loads((tmp_path / "out/detections.json").read_text())["images"]
    assert {row["name"] for row in image["detections"]} == {"cat", "dog"} and (tmp_path / "out/one.png").is_file()
    assert "slow" in capsys.readouterr().err
