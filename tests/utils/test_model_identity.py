"""What tells one model from another: its weights, configs and tables, not what a run wrote next to them."""

import json
import shutil

import pytest

from decodetr.utils.model_identity import folder_digest, model_identity


@pytest.fixture
def model(tiny_detector_folder, tmp_path):
    return shutil.copytree(tiny_detector_folder, tmp_path / "model")


def test_results_of_a_run_do_not_count(model):
    before = model_identity(model)["weights"]
    for name in ("train_results.json", "all_results.json", "eval_results.json", "forgetting.json", "run.json"):
        (model / name).write_text(json.dumps({"train_runtime": 12.5}))
    assert model_identity(model)["weights"] == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.json", "manifest.json", "train.json"])
def test_configs_and_tables_count(model, name):
    before = folder_digest(model)
    content = json.loads((model / name).read_text()) if (model / name).is_file() else {}
    (model / name).write_text(json.dumps(content | {"more": 1}))
    assert folder_digest(model) != before


def test_weights_count(model):
    before, file = folder_digest(model), model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert folder_digest(model) != before


def test_a_single_file_counts_whatever_its_name(tmp_path):
    file = tmp_path / "anything.json"
    file.write_text('{"a": 1, "b": 2}')
    before = folder_digest(file)
    file.write_text('{"b": 2,\n "a": 1}')
    assert folder_digest(file) == before
    file.write_text('{"a": 2, "b": 2}')
    assert folder_digest(file) != before and folder_digest(tmp_path / "none") is None
