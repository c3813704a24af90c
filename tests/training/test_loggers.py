"""Pictures and pool maps in the loggers of --report-to that run without network: what they keep is read back."""

import io
import json
import os
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from helpers.trainings import make_trainer
from PIL import Image

from decodetr.cli import main
from decodetr.cli.train import read_fields
from decodetr.training.results.loggers import TAKE_PICTURES, kept_open

# `decodetr train` in a process that can open no connection but those of the machine itself.
WITHOUT_NETWORK = """
import socket, sys
connect = socket.socket.connect
def refuse(self, address, *more):
    local = self.family == getattr(socket, "AF_UNIX", None) or str(address[0]) in ("127.0.0.1", "::1", "localhost")
    if not local:
        raise OSError(f"a connection to {address}")
    return connect(self, address, *more)
socket.socket.connect = refuse
from decodetr.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.slow
def test_every_logger_keeps_what_is_drawn(one_step, tmp_path):
    """All four at once: one run in each, with the same pictures and the metrics after training."""
    for module in ("tensorboard", "mlflow", "trackio", "wandb"):
        pytest.importorskip(module)
    data = one_step[one_step.index("--data") + 1]
    words = [*one_step, "--config", f"{data}/config.yaml", "--set", "pool_update=literal", "--output", "run"]
    for option, value in (("--report_to", "none"), ("--val-annotations", "none"), ("--max_steps", "1")):
        place = words.index(option)
        assert words[place + 1] == value
        del words[place : place + 2]
    words += ["--max-steps", "2", "--eval-strategy", "steps", "--eval-steps", "1", "--vocabulary"]
    words += [f"{data}/standin/vocabulary", "--report-to", "tensorboard", "mlflow", "--report-to", "trackio", "wandb"]
    local = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "TRACKIO_DIR": str(tmp_path / "trackio")}
    local |= {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TENSORBOARD_LOGGING_DIR": str(tmp_path / "logs")}
    command = [sys.executable, "-c", WITHOUT_NETWORK, *words]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **local}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    folder = tmp_path / "run" / "pictures"
    maps = {step: _pixels(Image.open(folder / f"pool-step-{step}.png")) for step in (0, 2)}
    assert (maps[0] != maps[2]).any()  # the pool moves
    sheets = {step: _pixels(Image.open(folder / f"step-{step}.jpg")) for step in (1, 2)}
    final_ap = json.loads((tmp_path / "run/eval_results.json").read_text())["eval_AP50"]

    def check(tag, step, picture):
        shown = _pixels(picture)
        if tag == "pool/map":
            assert (shown == maps[step]).all()
        else:
            assert np.abs(shown - sheets[step]).mean() < 3  # the file is a JPEG

    _check_tensorboard(tmp_path, check)
    _check_mlflow(tmp_path, check, final_ap)
    _check_trackio(tmp_path, check)
    _check_wandb(tmp_path, check)


EXPECTED = [("eval/detections", 1), ("eval/detections", 2), ("eval/detections", 2), ("pool/map", 0), ("pool/map", 2)]


def _check_tensorboard(folder, check):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = EventAccumulator(str(folder / "logs"), size_guidance={"images": 0}).Reload()
    found = [(tag, image.step) for tag in ("eval/detections", "pool/map") for image in logged.Images(tag)]
    assert sorted(found) == EXPECTED
    for tag in ("eval/detections", "pool/map"):
        for image in logged.Images(tag):
            check(tag, image.step, Image.open(io.BytesIO(image.encoded_image_string)))


def _check_mlflow(folder, check, final_ap):
    runs = sqlite3.connect(folder / "mlflow.db").execute("select run_uuid, status from runs").fetchall()
    assert len(runs) == 1 and runs[0][1] == "FINISHED"  # the evaluation after training is of the same run
    rows = sqlite3.connect(folder / "mlflow.db").execute("select value, step from metrics where key = 'eval_AP50'")
    assert [step for _, step in sorted(rows, key=lambda row: row[1])] == [1, 2, 2]
    files = sorted((folder / "mlruns").rglob("images/*.png"))
    found = []
    for file in files:
        tag, step = re.match(r"(\w+.\w+)\+step\+(\d+)\+", file.name.replace("%", "+")).groups()
        tag = re.sub(r"\W", "/", tag)
        found.append((tag, int(step)))
        check(tag, int(step), Image.open(file))
    assert sorted(found) == EXPECTED and final_ap >= 0


def _check_trackio(folder, check):
    rows = sqlite3.connect(folder / "trackio" / "huggingface.db").execute("select run_name, metrics from metrics")
    rows = [(run, json.loads(metrics)) for run, metrics in rows]
    assert len({run for run, _ in rows}) == 1
    found = []
    for _, metrics in rows:
        for tag, value in metrics.items():
            if isinstance(value, dict):
                step = metrics["train/global_step"]
                found.append((tag, step))
                check(tag, step, Image.open(folder / "trackio/media" / value["file_path"]))
    assert sorted(found) == EXPECTED
    assert sum("eval/AP50" in metrics for _, metrics in rows) == 3


def _check_wandb(folder, check):
    (run,) = (folder / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    media = run / "files" / "media" / "images"
    sheets, maps = (sorted(media.glob(pattern), key=_place) for pattern in ("eval/*.png", "pool/*.png"))
    for file, step in zip(sheets, (1, 2, 2), strict=True):
        check("eval/detections", step, Image.open(file))
    for file, step in zip(maps, (0, 2), strict=True):
        check("pool/map", step, Image.open(file))


def _place(file):
    """wandb numbers what is logged: detections_7_3942f51a.png."""
    return int(file.stem.split("_")[1])


@pytest.mark.slow
def test_a_map_is_drawn_for_a_logger_alone(scenes, tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    trainer = make_trainer(scenes, tmp_path, eval_pictures=0, max_steps=1)
    trainer.train()
    assert not (tmp_path / "pictures").exists()
    trainer = make_trainer(scenes, tmp_path, eval_pictures=0, max_steps=1, report_to="tensorboard")
    trainer.model.config.pool_update = "frozen"
    with kept_open(trainer.callback_handler.callbacks):
        trainer.train()
        (writer,) = [c.tb_writer for c in trainer.callback_handler.callbacks if isinstance(c, tuple(TAKE_PICTURES))]
        assert writer is not None  # for what comes after training
    (closed,) = [c.tb_writer for c in trainer.callback_handler.callbacks if isinstance(c, tuple(TAKE_PICTURES))]
    assert closed is None
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["pool-step-0.png"]  # a frozen pool stays
    logged = accumulator.EventAccumulator(str(tmp_path / "logs"), size_guidance={"images": 0}).Reload()
    (image,) = logged.Images("pool/map")
    assert (image.step, image.width, image.height) == (0, 1600, 1200)


def test_several_loggers_are_several_words():
    assert read_fields(["--report-to", "tensorboard", "mlflow", "--report_to", "wandb"]) == {
        "report_to": ["tensorboard", "mlflow", "wandb"]
    }
    assert read_fields(["--report-to", "none"]) == {"report_to": ["none"]}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio", "wandb"])
def test_an_absent_logger_is_named_before_data_are_read(name, one_step, tmp_path, monkeypatch, capsys):
    import importlib.util

    find, read = importlib.util.find_spec, []
    hidden = (name, "tensorboardX")
    monkeypatch.setattr(importlib.util, "find_spec", lambda module, *a: None if module in hidden else find(module, *a))
    monkeypatch.setattr("decodetr.train.TrainingData.read", lambda *args: read.append(args))
    data = one_step[one_step.index("--data") + 1]
    words = [*one_step[:-1], name, "--config", f"{data}/config.yaml", "--output", str(tmp_path / "run")]
    assert one_step[-2] == "--report_to" and main(words) == 1
    error = capsys.readouterr().err
    assert f"--report-to {name} needs {name}" in error and f"pip install 'decodetr[{name}]'" in error and not read


def test_what_is_logged_before_training_lies_in_the_output_too(scenes, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(scenes, tmp_path / "run", max_steps=1, report_to="tensorboard")
    trainer.evaluate()
    trainer.train()
    files = [file.relative_to(tmp_path).parts[:2] for file in tmp_path.rglob("events*")]
    assert files == [("run", "runs")]
