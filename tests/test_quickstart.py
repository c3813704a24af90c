"""`decodetr quickstart` end to end with tiny numbers, resumed, and refused where it must be."""

import json

import pytest
from PIL import Image

from decodetr.__main__ import main

TINY = ["--train-images", "24", "--val-images", "12", "--steps", "2", "--semantic-steps", "2"]


def test_quickstart_runs_skips_what_is_done_and_refuses_other_settings(tmp_path, capsys):
    output = tmp_path / "out"
    command = ["quickstart", "--output", str(output), *TINY]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(f"[{i}/6]" in shown for i in range(1, 7)) and "AP50, base names" in shown
    for picture in ("detections.png", "curves.png"):
        assert min(Image.open(output / picture).size) > 300
    report = json.loads((output / "eval.json").read_text())
    assert report["metrics"]["AP50_base"] is not None
    summary = (output / "README.md").read_text()
    assert "detections.png" in summary and "recall of novel objects" in summary

    (output / "eval.json").unlink()  # as if it had been killed there
    before = (output / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out.count("done before") == 5
    assert (output / "eval.json").exists() and (output / "model" / "model.safetensors").stat().st_mtime_ns == before

    assert main([*command[:-1], "3"]) == 1
    assert "other settings" in capsys.readouterr().err


def test_quickstart_touches_no_foreign_folder(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["quickstart", "--output", str(tmp_path), "--overwrite"]) == 1
    assert "holds no quickstart" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_localization_recipe_reaches_its_figures(tmp_path):
    """The recipe of docs/scenes.md, 17 minutes on two cores."""
    data, run = tmp_path / "scenes", tmp_path / "run"
    assert main(["scenes", "write", str(data), "--train", "4000"]) == 0
    assert main(["scenes", "standin", str(data), "--output", str(data / "standin")]) == 0
    from decodetr.scenes.quickstart import _CONFIG

    words = f"""train --data {data} --output_dir {run} --config {_CONFIG} --pool {data}/standin/pool
        --vocabulary {data}/standin/vocabulary --streams localization --max_steps 3000 --per_device_train_batch_size 16
        --learning_rate 5e-4 --warmup_steps 200 --lr_scheduler_type cosine --save_strategy no --report_to none"""
    assert main(words.split()) == 0
    metrics = json.loads((run / "eval_results.json").read_text())
    assert metrics["eval_class_agnostic_AP50"] >= 85 and metrics["eval_class_agnostic_AR50_novel"] >= 90
