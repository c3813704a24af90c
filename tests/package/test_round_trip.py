"""A saved model goes to a process without decodetr, is used and trained there by what transformers has, and comes
back. And where decodetr is installed, nobody is asked about the code next to the weights."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.tiny_models import NAMES, tiny_batch, tiny_model
from helpers.without_decodetr import HIDE
from PIL import Image
from safetensors.torch import load_file

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.inference.detection import detect

_WITHOUT = (
    HIDE
    + """
import json
import sys
import torch
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection, Trainer,
    TrainingArguments, pipeline,
)
TRUST = {"trust_remote_code": True}
TASKS = ("object-detection", "zero-shot-object-detection")

def found(folder):
    result = []
    for task in TASKS:
        detector = pipeline(task, model=folder, device="cpu", **TRUST)
        labels = {"candidate_labels": ["the crème brûlée.", "cat"]} if task == TASKS[1] else {}
        result.append(detector("picture.png", threshold=0.0, **labels))
    return result

result = {"first": found("model")}
config = AutoConfig.from_pretrained("model", **TRUST)
zero_shot = AutoModelForZeroShotObjectDetection.from_pretrained("model", **TRUST)
assert type(zero_shot).__module__.startswith("transformers_modules.") and config.embedding_dim == 16
model = AutoModelForObjectDetection.from_pretrained("model", **TRUST)
processor = AutoImageProcessor.from_pretrained("model", **TRUST)
batch = torch.load("batch.pt")
rows = [{"pixel_values": p, "labels": l} for p, l in zip(batch["pixel_values"], batch["labels"])]
collate = lambda rows: {
    "pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": [row["labels"] for row in rows]
}
options = {"max_steps": 1, "learning_rate": 0.01, "report_to": "none", "remove_unused_columns": False, "use_cpu": True}
arguments = TrainingArguments("run", save_strategy="no", dataloader_pin_memory=False, **options)
trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows, processing_class=processor)
result["loss"] = trainer.train().training_loss
trainer.save_model("trained")
again = AutoModelForObjectDetection.from_pretrained("trained", **TRUST).state_dict()
assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
AutoModelForZeroShotObjectDetection.from_pretrained("trained", **TRUST).save_pretrained("trained again")
result["trained"] = found("trained")
assert "decodetr" not in sys.modules
json.dump(result, open("result.json", "w"))
"""
)
_WITH = """
import json
import sys
import decodetr
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection, pipeline
)
for one in (AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection):
    print(type(one.from_pretrained(sys.argv[1])).__module__)
for task in ("object-detection", "zero-shot-object-detection"):
    detector = pipeline(task, model=sys.argv[1], device="cpu")
    print(type(detector).__module__, type(detector.model).__module__)
assert not any(name.startswith("transformers_modules.") for name in sys.modules)
"""


def run(code, folder, *words, stdin=subprocess.DEVNULL):
    """A program in a new process. An empty pipe as input is that of a service without a terminal."""
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=stdin, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def travelled(tmp_path_factory):
    """(folder with "model", "trained" and a picture; what the process without decodetr found)."""
    folder = tmp_path_factory.mktemp("travelled")
    tiny_model().save_pretrained(folder / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "model")
    torch.save(tiny_batch(), folder / "batch.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    run(_WITHOUT, folder)
    return folder, json.loads((folder / "result.json").read_text())


def rows_of(folder, picture, names=None):
    """What the model of a folder detects here, as a pipeline says it."""
    model = DeCoDetrForObjectDetection.from_pretrained(folder).eval()
    if names is not None:
        model.set_names(names)
    with Image.open(picture) as image:
        (found,) = detect(model, DeCoDetrImageProcessor.from_pretrained(folder), [image], 0.0)
    return list(zip(found["names"], found["scores"], found["boxes"]))


def assert_same(rows, expected, label=str):
    assert len(rows) == len(expected) > 0
    for row, (name, score, box) in zip(rows, expected):
        assert label(row["label"]) == name and row["score"] == pytest.approx(score, rel=1e-5)
        assert list(row["box"].values()) == torch.tensor(box).int().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["first", "trained"])
def test_both_pipelines_find_elsewhere_what_is_found_here(travelled, stage):
    folder, result = travelled
    model, picture = folder / ("model" if stage == "first" else "trained"), folder / "picture.png"
    plain, zero_shot = result[stage]
    assert_same(plain, rows_of(model, picture))
    short = {"the crème brûlée.": "crème brûlée", "cat": "cat"}
    assert_same(zero_shot, rows_of(model, picture, ["crème brûlée", "cat"]), short.get)


@pytest.mark.slow
def test_what_was_trained_elsewhere_comes_back_equal(travelled):
    folder, result = travelled
    assert np.isfinite(result["loss"]) and result["loss"] > 0
    stored = load_file(folder / "trained" / "model.safetensors")
    before = load_file(folder / "model" / "model.safetensors")
    assert stored.keys() == before.keys()
    moved = {name for name, value in stored.items() if not torch.equal(value, before[name])}
    assert "semantic_stream.predictor.weight" in moved
    assert not [name for name in moved if name.startswith(("vocabulary.", "prototype_pool."))]
    loaded = DeCoDetrForObjectDetection.from_pretrained(folder / "trained")
    loaded.save_pretrained(folder / "back")
    back = load_file(folder / "back" / "model.safetensors")
    assert stored.keys() == back.keys() and all(torch.equal(value, back[name]) for name, value in stored.items())
    assert loaded.vocabulary.names == NAMES
    code = list((folder / "model").glob("*.py"))
    assert "modeling_decodetr.py" in {file.name for file in code}
    for name in ("trained", "trained again", "back"):
        for file in code:
            if not file.name.startswith(("image_processing", "picture_modes", "float_resizing")):
                assert (folder / name / file.name).read_bytes() == file.read_bytes(), (name, file.name)
    config = json.loads((folder / "back" / "config.json").read_text())
    assert config["auto_map"].keys() == {
        "AutoConfig", "AutoModelForObjectDetection", "AutoModelForZeroShotObjectDetection"
    }  # fmt: skip
    assert config["custom_pipelines"].keys() == {"zero-shot-object-detection"}
    assert not hasattr(loaded.config, "custom_pipelines")


@pytest.mark.slow
def test_where_decodetr_is_installed_nobody_is_asked(travelled):
    folder, _ = travelled
    read, write = os.pipe()  # a question would wait for an answer for ever
    try:
        done = run(_WITH, folder, "trained", stdin=read)
    finally:
        os.close(read)
        os.close(write)
    assert "trust_remote_code" not in done.stdout + done.stderr and "[y/N]" not in done.stdout
    lines = done.stdout.split()
    assert len(lines) == 8 and all(line.startswith("decodetr.") for line in lines), lines
    assert lines[-4:] == ["decodetr.inference.pipelines", "decodetr.modeling_decodetr.modeling_decodetr"] * 2
