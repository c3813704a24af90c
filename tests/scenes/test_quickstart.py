"""`decodetr quickstart` end to end with tiny models, resumed, and refused where it must be."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from helpers.html_pages import Page
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava
from PIL import Image
from safetensors.torch import load_file

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.scenes import quickstart

STAGES = quickstart.STAGES


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_clip(folder / "clip", length=40)  # the names of the scenes are long in its few tokens
    write_tiny_llava(folder / "llava")
    tiny_model(embedding_dim=8).save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    return folder


@pytest.fixture
def command(models, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "POOL", {"--num-coarse": 5, "--num-fine": 3, "--delta": -1, "--max-proposals": 2})
    monkeypatch.setattr(quickstart, "COMPARED", quickstart.COMPARED[:2])
    for name, value in {"DEFAULT_THRESHOLD": 1e-6, "PICTURES": 3, "EXPLAINED_PICTURES": 2}.items():
        monkeypatch.setattr(quickstart, name, value)  # random weights find nothing above a higher threshold
    sizes = ["--train-images", "8", "--val-images", "4", "--semantic-steps", "2"]
    chosen = [f"--{name}={models / folder}" for name, folder in _MODELS.items()]
    return ["quickstart", "--output", str(tmp_path / "out"), *chosen, *sizes]


_MODELS = {"model": "detector", "clip": "clip", "captioner": "llava"}


def test_quickstart_runs_skips_what_is_done_and_refuses_other_settings(command, models, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(f"[{i}/{STAGES}] decodetr " in shown for i in range(1, STAGES + 1)) and "done before" not in shown
    _check_training(output, models)
    _check_pictures_and_pages(output)

    (output / "all" / "detections.json").unlink()  # as if it had been killed there
    before = (output / "model" / "model.safetensors").stat().st_mtime_ns
    measured = json.loads((output / "compared" / "runs.json").read_text())
    assert list(measured["runs"]) == list(quickstart.COMPARED) and list(measured["ceiling"]) == ["val"]
    measured["runs"]["random"]["0"]["val"].update({"AP50_novel, all": 61.87, "absent, 1": 0.123})
    (output / "compared" / "runs.json").write_text(json.dumps(measured))
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.count("done before") == STAGES - 1 and (output / "all" / "detections.json").exists()
    assert (output / "model" / "model.safetensors").stat().st_mtime_ns == before
    for text in (shown, (output / "README.md").read_text()):  # the numbers come from runs.json
        assert "| random pool | 1 | 61.9 |" in text and "| 0.12 |" in text
    assert "<td>61.9</td>" in (output / "report.html").read_text()

    assert main([*command[:-1], "3"]) == 1
    assert "other settings" in capsys.readouterr().err


def _check_training(output, models):
    """The detector is that of the given model, the semantic stream is not; the pool is that of the captions, and the
    names are all 240."""
    model = DeCoDetrForObjectDetection.from_pretrained(output / "model")
    given = DeCoDetrForObjectDetection.from_pretrained(models / "detector").state_dict()
    for name, tensor in model.detector.state_dict().items():
        assert torch.equal(tensor, given[f"detector.{name}"]), name
    trained = model.state_dict()
    assert any(not torch.equal(tensor, given[name]) for name, tensor in trained.items() if "residual" in name)
    assert len(model.vocabulary) == 240 and len(model.config.training_info["training_names"]) == 180
    captions = {
        row["caption"]
        for file in (output / "concepts" / "regions").glob("*.parquet")
        for row in pq.read_table(file, columns=["caption"]).to_pylist()
    }
    assert set(model.prototype_pool.captions or json.loads(_pool_json(output))["captions"]) <= captions
    assert load_file(output / "vocabulary-base" / "vocabulary.safetensors")["embeddings"].shape == (180, 8)


def _pool_json(output):
    return (output / "concepts" / "pool" / "pool.json").read_text()


def _check_pictures_and_pages(output):
    for picture in ("detections.jpg", "all-names.jpg", "pool-map.png", "curves.png"):
        assert min(Image.open(output / picture).size) > 300, picture
    novel = set(json.loads((output / "scenes" / "names.json").read_text())["novel"].values())
    assert set((output / "novel-names.txt").read_text().splitlines()) == novel and len(novel) == 60
    found = json.loads((output / "novel" / "detections.json").read_text())
    rows = [row for entry in found["images"] for row in entry["detections"]]
    assert rows and {row["name"] for row in rows} <= novel and all(row["prototypes"] for row in rows)
    assert len(found["images"]) == quickstart.EXPLAINED_PICTURES
    page = Page((output / "report.html").read_text(encoding="utf-8"))
    page.assert_self_contained()
    assert len(page.attributes["img"]) == quickstart.EXPLAINED_PICTURES + 3
    assert len(page.texts["code"]) == 1 and page.texts["code"][0].count("decodetr ") == STAGES
    for link in page.attributes["a"]:
        assert (output / link["href"]).exists(), link
    summary = (output / "README.md").read_text()
    seconds = json.loads((output / "stages.json").read_text())["seconds"]
    assert len(seconds) == STAGES and set(seconds) <= set(page.texts["td"])
    assert all(f"| {stage} | {value} |" in summary for stage, value in seconds.items())


def test_a_stage_that_fails_is_the_last(command, tmp_path, capsys):
    captioner = next(word for word in command if word.startswith("--captioner=")).partition("=")[2]
    command = [f"--clip={captioner}" if word.startswith("--clip=") else word for word in command]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "expected a model with text features" in captured.err
    assert f"[2/{STAGES}]" in captured.out and f"[3/{STAGES}]" not in captured.out
    assert not (tmp_path / "out" / "report.html").exists()


def test_quickstart_touches_no_foreign_folder(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["quickstart", "--output", str(tmp_path), "--overwrite"]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_steps_are_checked_before_anything_is_written(tmp_path, capsys):
    assert main(["quickstart", "--output", str(tmp_path / "out"), "--semantic-steps", "0"]) == 1
    assert "--semantic-steps must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
