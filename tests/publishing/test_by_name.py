"""Wherever a command takes a folder, it takes the name of a repository."""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers.data_forms import NAMES, write_coco
from helpers.exports import SIZE
from helpers.hub_server import hub_environment
from helpers.tiny_models import tiny_model
from huggingface_hub import constants

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_artifact import random_rows

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def filled(hub):
    """A Hub with a model, a pool and a vocabulary."""
    model, processor = tiny_model("detr", names=NAMES), DeCoDetrImageProcessor(size=SIZE)
    model.push_to_hub("me/model", license="mit", image_processor=processor)
    PrototypePool(random_rows(4, 16), captions=list("abcd")).push_to_hub("me/pool", license="mit")
    Vocabulary(["yak", "gnu"], random_rows(2, 16)).push_to_hub("me/names", license="mit")
    return hub


def found_in(folder):
    document = json.loads((folder / "detections.json").read_text())
    return {row["name"] for image in document["images"] for row in image["detections"]}, document


@pytest.mark.slow
def test_predict_eval_and_train(filled, tmp_path, capsys):
    data = tmp_path / "data"
    write_coco(data)
    pictures = next(path.parent for path in sorted(data.rglob("*.png")))
    words = ["predict", str(pictures), "--model", "me/model", "--threshold", "0", "--device", "cpu", "--no-pictures"]
    assert main([*words, "--output", str(tmp_path / "own")]) == 0
    assert main([*words, "--output", str(tmp_path / "other"), "--vocabulary", "me/names"]) == 0
    assert found_in(tmp_path / "own")[0] <= set(NAMES) and found_in(tmp_path / "other")[0] == {"yak", "gnu"}
    words = ["--model", "me/model", "--data", str(data)]
    more = ["--annotations", str(data / "annotations" / "train.json"), "--output", str(tmp_path / "report")]
    assert main(["eval", *words, *more, "--device", "cpu"]) == 0
    more = ["--output", str(tmp_path / "mine"), "--max_steps", "1", "--val-annotations", "none", "--use-cpu", "true"]
    assert main(["train", *words, *more, "--report_to", "none"]) == 0
    assert DeCoDetrForObjectDetection.from_pretrained(tmp_path / "mine").vocabulary.names == NAMES


def test_info_says_what_a_repository_holds(filled, capsys):
    for name, kind in {"model": "DeCo-DETR", "pool": "pool", "names": "vocabulary"}.items():
        assert main(["info", f"me/{name}"]) == 0
        assert capsys.readouterr().out.startswith(f"me/{name}: {kind}\n")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "me/pool"], "the model 'me/pool' cannot be loaded: it is a pool; give it with --pool"),
        (["--model", "me/nothing"], "the model 'me/nothing' cannot be loaded: .*hf auth login"),
        (["--model", "me/model", "--vocabulary", "me/pool"], "the vocabulary 'me/pool' cannot be loaded: it is a po"),
    ],
)
def test_another_repository_is_named(filled, words, message, tmp_path, capsys):
    write_coco(tmp_path / "data")
    picture = next((tmp_path / "data").rglob("*.png"))
    assert main(["predict", str(picture), *words, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert re.search(message, said, re.DOTALL), said


def test_what_was_loaded_once_is_there_without_a_network(filled, tmp_path, monkeypatch, capsys):
    write_coco(tmp_path / "data")
    picture = next((tmp_path / "data").rglob("*.png"))
    words = ["predict", str(picture), "--model", "me/model", "--threshold", "0", "--device", "cpu", "--no-pictures"]
    assert main([*words, "--output", str(tmp_path / "first")]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    filled.asked.clear()
    assert main([*words, "--output", str(tmp_path / "second")]) == 0
    first, second = (found_in(tmp_path / name)[1]["images"] for name in ("first", "second"))
    assert filled.asked == [] and first == second


@pytest.mark.slow
def test_a_new_process_with_the_address_of_a_hub(filled, tmp_path):
    write_coco(tmp_path / "data")
    picture = next((tmp_path / "data").rglob("*.png"))
    command = [sys.executable, "-m", "decodetr"]
    words = ["predict", str(picture), "--model", "me/model", "--device", "cpu", "--threshold", "0"]
    environment = hub_environment(filled, tmp_path / "new")
    done = subprocess.run([*command, *words, "--output", str(tmp_path / "out")], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert found_in(tmp_path / "out")[0] <= set(NAMES)
    pushed = tmp_path / "pushed"
    PrototypePool.from_pretrained("me/pool").save_pretrained(pushed)
    (pushed / "README.md").write_text("---\nlicense: mit\n---\n# A pool\n")
    environment = hub_environment(filled, tmp_path / "new")
    done = subprocess.run(
        [*command, "push", str(pushed), "me/again"], env=environment, capture_output=True, text=True, cwd=os.getcwd()
    )
    assert done.returncode == 0 and f"{filled.endpoint}/me/again (commit" in done.stdout, done.stderr
    assert filled.files("me/again")["pool.json"] == filled.files("me/pool")["pool.json"]
