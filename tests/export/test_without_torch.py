"""An exported model without torch, and `decodetr predict` with it."""

import json
import re
import subprocess
import sys

import pytest
from helpers.exports import SIZE, assert_same, named_model, pictures
from helpers.without_torch import PROGRAM, RUNTIME

from decodetr import DeCoDetrImageProcessor, Vocabulary
from decodetr.cli import main
from decodetr.modeling_decodetr.embedding_artifact import random_rows
from decodetr.runtime import ExportedDetector


def test_nothing_needs_torch_after_the_export(onnx_folder, tmp_path):
    """The runtime, and the command with pictures, crops and tables, which needs no pyarrow either."""
    for place, image in zip("ab", pictures()):
        image.save(tmp_path / f"{place}.png")
    words = [
        "predict",
        tmp_path,
        "--model",
        onnx_folder / "model.onnx",
        "--output",
        tmp_path / "found",
        "--threshold",
        "0",
    ]
    words += ["--format", "json,coco,csv", "--save-crops", "--names", "dog,cat", "--slice", "64"]
    for argv in ([], words):
        done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, argv)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert [row["file"] for row in found["images"]] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert {one["name"] for row in found["images"] for one in row["detections"]} == {"dog", "cat"}
    assert (tmp_path / "found/a.png").exists() and (tmp_path / "found/crops").is_dir()


def test_the_runtime_needs_four_packages(onnx_folder, tmp_path):
    """Those that docs/export.md names, for all that it does."""
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.tif")]
    for file, image in zip(files, pictures(), strict=True):
        image.save(file)
    other = Vocabulary(["one", "two"], random_rows(2, 16, seed=3))
    other.save_pretrained(tmp_path / "names")
    argv = [sys.executable, "-c", RUNTIME, onnx_folder, tmp_path / "names", *files]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    detector = ExportedDetector(onnx_folder)
    own, swapped = json.loads(done.stdout)
    assert_same(own, detector.detect(files, threshold=0.0))
    detector.set_names(vocabulary=tmp_path / "names")
    assert_same(swapped, detector.detect(files, threshold=0.0))
    assert "somebody/something: no such folder, and a name of the Hub needs huggingface_hub: pip" in done.stderr


def test_predict_finds_the_same_with_the_model_and_with_its_export(onnx_folder, tmp_path):
    model = named_model()
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size=SIZE).save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for place, image in zip("ab", pictures()):
        image.save(tmp_path / f"in/{place}.png")
    results = []
    for name, place in (("torch", tmp_path / "model"), ("onnx", onnx_folder)):
        words = ["predict", tmp_path / "in", "--model", place, "--output", tmp_path / name, "--threshold", "0"]
        assert main([*map(str, words), "--no-pictures"]) == 0
        content = json.loads((tmp_path / name / "detections.json").read_text())
        rows = [row["detections"] for row in content["images"]]
        keys = {"names": "name", "scores": "score", "boxes": "box"}
        results.append([{key: [one[word] for one in row] for key, word in keys.items()} for row in rows])
    assert sum(len(row["names"]) for row in results[0]) > 0
    assert_same(results[1], results[0])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--explain"], "--explain: .* is exported, and cannot do that; give the model itself"),
        (["--clip", "scenes-clip"], "--clip: .* is exported"),
        (["--names", "pool"], "--names pool: an exported model has no captions"),
        (["--names", "bird"], "1 of 1 names have no stored embedding"),
        (["--device", "cuda"], "CUDAExecutionProvider is not in this ONNX Runtime"),
        (["--device", "mps"], "--device mps: a model exported as onnx runs on auto, cpu, cuda"),
    ],
)
def test_predict_refuses_what_an_export_cannot_do(onnx_folder, tmp_path, capsys, words, message):
    pictures()[0].save(tmp_path / "a.png")
    place = ["--model", str(onnx_folder), "--output", str(tmp_path / "found")]
    assert main(["predict", str(tmp_path / "a.png"), *place, *words]) == 1
    assert re.search(message, capsys.readouterr().err)
