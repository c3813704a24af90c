"""One command from data that the project has never seen, in three forms, to a model that is fine-tuned, evaluated,
saved and described."""

import ast
import json
import os
import shutil

import pytest
from helpers.card_snippets import run_snippets
from helpers.data_forms import NAMES, hub_dataset, picture, write_coco, write_yolo
from transformers import pipeline

import decodetr
from decodetr.cli import main


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    write_coco(folder / "coco")
    write_yolo(folder / "yolo")
    hub_dataset().save_to_disk(folder / "saved")
    for form in ("coco", "yolo", "saved"):
        words = [
            "--model",
            str(world / "model"),
            "--data",
            str(folder / form),
            "--output_dir",
            str(folder / f"my {form}"),
        ]
        more = ["--val-share", "0.67", "--num_train_epochs", "2", "--report_to", "none", "--disable_tqdm", "true"]
        assert main(["train", *words, *more]) == 0
    return folder


def _read(folder, form, file):
    return json.loads((folder / f"my {form}" / file).read_text())


@pytest.mark.parametrize("form", ["coco", "yolo", "saved"])
def test_from_data_to_a_model_with_a_card(trained, form):
    output = trained / f"my {form}"
    detector = pipeline("object-detection", str(output))
    assert type(detector.model) is decodetr.DeCoDetrForObjectDetection
    assert detector.model.vocabulary.names[-2:] == NAMES  # embedded on the way; the old ones are still there
    assert len(detector.model.vocabulary) > 2
    assert isinstance(detector(picture("a"), threshold=0.0), list)
    metrics = _read(trained, form, "eval_results.json")
    assert {"eval_AP50", "eval_AP50_trained", "eval_class_agnostic_AP50"} <= metrics.keys()
    card = (output / "README.md").read_text()
    for text in ("pipeline_tag: object-detection", "## Measured", "## Before and after", "## What it learned from",
                 f"| annotated names | {', '.join(NAMES)} |", "## Made", "decodetr train --model"):  # fmt: skip
        assert text in card, text
    assert f"| AP50 | {metrics['eval_AP50']:.1f} |" in card
    assert "The starting point and the trained model.\n" in card and "There were no held-out names to measure" in card


@pytest.mark.parametrize("new", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_python_of_the_card_runs(trained, tmp_path, new):
    detected, by_pipeline = run_snippets((trained / "my coco" / "README.md").read_text(), tmp_path, new)
    assert detected.splitlines()[-1].isdecimal()
    assert isinstance(ast.literal_eval(by_pipeline), list)


def test_the_best_threshold_is_recorded_and_said(trained, tmp_path, capsys):
    assert 0 < _read(trained, "coco", "eval_results.json")["eval_best_threshold"] <= 1
    assert "F1 is best" not in (trained / "my coco" / "README.md").read_text(), "of this few objects"
    picture("a").save(tmp_path / "a.png")
    shutil.copytree(trained / "my coco", tmp_path / "model")
    command = ["predict", str(tmp_path / "a.png"), "--model", str(tmp_path / "model"), "--output"]
    for best, said in ((0.0169, "F1 was best at --threshold 0.0169\n"), (1.0, "")):
        (tmp_path / "model" / "eval_results.json").write_text(json.dumps({"eval_best_threshold": best}))
        assert main([*command, str(tmp_path / f"out {best}"), "--threshold", "1"]) == 0
        out = capsys.readouterr().out
        assert said in out and ("F1 was best" in out) == bool(said)


def test_everything_in_the_folder_can_be_read_by_those_who_may(trained):
    umask = os.umask(0)
    os.umask(umask)
    files = [file for file in (trained / "my coco").rglob("*") if file.is_file()]
    modes = {file.relative_to(trained).as_posix(): file.stat().st_mode & 0o777 for file in files}
    assert "my coco/model.safetensors" in modes and set(modes.values()) == {0o666 & ~umask}, modes


def test_the_three_forms_train_alike(trained):
    losses = [_read(trained, form, "train_results.json")["train_loss"] for form in ("coco", "yolo", "saved")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[2] == pytest.approx(losses[0], rel=1e-4)
