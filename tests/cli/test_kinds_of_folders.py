"""A folder of another kind than the option takes is called by its name, with what to do; wherever one can be given."""

import pytest
from helpers.pictures import write_image
from PIL import Image

from decodetr.cli import main
from decodetr.utils.shipped import cannot_load, kind_of, resolve

RECIPE = "'decodetr-fast' is a recipe; it has no weights: `decodetr train --recipe decodetr-fast --data DIR ...`"


@pytest.fixture
def image(tmp_path):
    return str(write_image(tmp_path / "a.png"))


def error_of(capsys, *words):
    assert main([str(word) for word in words]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_predict(image, tmp_path, capsys):
    command = ["predict", image, "--output", tmp_path / "out", "--device", "cpu"]
    assert f"expected a model, {RECIPE} makes a model" in error_of(capsys, *command, "--model", "decodetr-fast")
    assert "'scenes-pool' is a pool; give it with --pool" in error_of(capsys, *command, "--model", "scenes-pool")
    text = "a model of type 'clip', expected a DeCo-DETR; `decodetr build`"
    assert text in error_of(capsys, *command, "--model", "scenes-clip")
    error = error_of(capsys, *command, "--vocabulary", "scenes-pool")
    assert "expected a vocabulary, 'scenes-pool' is a pool" in error
    assert "'scenes-decodetr' is a model; give it with --model" in error_of(
        capsys, *command, "--vocabulary", "scenes-decodetr"
    )
    error = error_of(capsys, *command, "--names", "gnu", "--text-model", "scenes-vocabulary")
    assert "expected a text model, 'scenes-vocabulary' is a vocabulary" in error
    assert not (tmp_path / "out").exists()


def test_pool_and_vocabulary_commands(tmp_path, capsys):
    error = error_of(capsys, "pool", "map", "scenes-vocabulary", "--output", tmp_path / "map.png")
    assert "expected a pool, 'scenes-vocabulary' is a vocabulary; give it with --vocabulary" in error
    error = error_of(capsys, "pool", "inspect", "scenes-pool", "--vocabulary", "decodetr-r50")
    assert "expected a vocabulary, 'decodetr-r50' is a recipe" in error
    error = error_of(capsys, "pool", "inspect", "scenes-pool", "--text", "a", "--clip", "scenes-pool")
    assert "expected a CLIP, 'scenes-pool' is a pool" in error
    command = ["vocabulary", "build", "--names", "a", "--text-model", "decodetr-fast", "--output", tmp_path / "v"]
    assert f"expected a text model, {RECIPE}" in error_of(capsys, *command)
    command = ["validate", tmp_path, "--vocabulary", "scenes-pool"]
    assert "expected a vocabulary, 'scenes-pool' is a pool" in error_of(capsys, *command)


def test_kinds_by_what_a_folder_holds(tmp_path):
    assert kind_of(tmp_path) is None and kind_of(tmp_path / "none") is None
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "pool.json").write_text("{}")
    assert kind_of(tmp_path / "pool")[0] == "pool" and kind_of(tmp_path)[0] == "output of `decodetr pool build`"
    with pytest.raises(ValueError, match=f"its pool is {tmp_path}/pool, its regions are {tmp_path}/regions"):
        resolve(tmp_path, "pool")
    assert f"its pool is {tmp_path}/pool" in str(cannot_load("pool", str(tmp_path), "no pool.json"))
    assert resolve(tmp_path / "pool", "pool") == str(tmp_path / "pool")
    for kind, name in (("model", "scenes-decodetr"), ("CLIP", "scenes-clip"), ("pool", "scenes-pool")):
        assert resolve(name, kind).endswith(f"hub_cards/{name}")


# What predict says before and after


@pytest.mark.parametrize("device", ["nope", "cuda", "cuda:7", "mps", "meta", "cpu:1", ""])
def test_a_device_that_is_not_there(image, tmp_path, capsys, device):
    import torch

    if torch.accelerator.is_available() and device == "cuda":
        pytest.skip("there is one")
    error = error_of(capsys, "predict", image, "--output", tmp_path / "out", "--device", device)
    assert f"--device {device}: expected one of auto, cpu" in error and len(error.splitlines()) == 1
    error = error_of(capsys, "vocabulary", "build", "--names", "a", "--text-model", "scenes-clip", "--output",
                     tmp_path / "v", "--device", device)  # fmt: skip
    assert f"--device {device}: expected one of auto, cpu" in error


@pytest.mark.parametrize("names", ['cat,"salt', 'cat,"salt" pepper'])
def test_names_with_a_quote_too_few(image, tmp_path, capsys, names):
    error = error_of(capsys, "predict", image, "--output", tmp_path / "out", "--names", names)
    assert f"--names {names!r}: expected names with commas" in error and 'salt, pepper"' in error


def test_nothing_found_is_explained(tiny_detector_folder, image, tmp_path, capsys):
    command = ["predict", image, "--output", str(tmp_path / "out"), "--device", "cpu", "--threshold", "1"]
    assert main([*command, "--model", str(tiny_detector_folder)]) == 0
    out = capsys.readouterr()
    assert "No score is above --threshold 1.0; the best one is 0." in out.out and "a.png" in out.out
    assert "does not say what it was trained on" in out.out and "drawn scenes" not in out.err
    assert main(command) == 0
    out = capsys.readouterr()
    assert "scenes-decodetr knows small drawn scenes and nothing of the real world" in out.err
    assert "trained on boxes of 180 names: red solid square" in out.out
    assert Image.open(tmp_path / "out" / "a.png").size == (640, 480)
