"""What ends `decodetr predict` in the middle takes nothing away, and the same command goes on; nor do its pictures
replace anything else."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
from helpers.pictures import write_image
from helpers.processes import predict_killed_at, start
from PIL import Image

from decodetr.cli import main
from decodetr.inference import detection as predict
from decodetr.inference.picture_run import PredictRun

_DETECT = predict.detect


@pytest.fixture
def command(tiny_detector_folder, tmp_path):
    for i in range(5):
        write_image(tmp_path / "in" / f"{i}.jpg", color=(40 * i, 90, 90))
    options = ["--threshold", "0", "--top-k", "2", "--batch-size", "1", "--device", "cpu"]
    model = ["--model", str(tiny_detector_folder), "--output", str(tmp_path / "out")]
    return ["predict", str(tmp_path / "in"), *model, *options]


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(n, error): the n-th call of `detect` from now on raises it; returns the list of calls."""

    def stop(number=None, error=None):
        calls = []

        def detect(*args, **kwargs):
            calls.append(args)
            if len(calls) == number:
                raise error
            return _DETECT(*args, **kwargs)

        monkeypatch.setattr(predict, "detect", detect)
        return calls

    return stop


def test_a_long_name_does_not_end_the_run(command, tmp_path):
    """Of a file, and of a class."""
    stem, name = "x" * 251, "é" * 200
    (tmp_path / "in" / "0.jpg").rename(tmp_path / "in" / f"{stem}.jpg")
    assert main([*command, "--save-crops", "--format", "json,yolo"]) == 0
    assert (tmp_path / "out" / f"{stem}.png").is_file() and len(read(tmp_path)["images"]) == 5
    crops = [path.name for path in (tmp_path / "out" / "crops").rglob("*_1.png")]
    assert len(crops) == 5 and {"1_1.png", "4_1.png"} < set(crops)
    assert [len(crop) for crop in sorted(crops)][-1] == 200 + 9 + len("_1.png")
    entry = {"width": 90, "height": 60, "detections": [{"name": name, "box": [0, 0, 9, 9], "score": 0.5}]}
    run = SimpleNamespace(options=SimpleNamespace(crops=True))
    PredictRun.write_crops(run, tmp_path / "long", "a", Image.new("RGB", (90, 60)), entry)
    (folder,) = (path for path in (tmp_path / "long" / "crops").iterdir() if path.is_dir())
    assert folder.name.startswith(f"{name[:100]}-") and (folder / "a_1.png").is_file()


def read(tmp_path):
    return json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (OSError("no space left"), 1)])
def test_what_was_done_is_kept_and_the_same_command_goes_on(command, stop_at, tmp_path, capsys, error, status):
    stop_at()
    assert main(command) == 0
    whole = read(tmp_path)
    (tmp_path / "out" / "detections.json").unlink()

    stop_at(4, error)
    assert main(command) == status
    out = capsys.readouterr().out
    assert "6 detections in 3 images" in out and "2 of 5 images are missing" in out and "3.jpg" in out
    partial = read(tmp_path)
    assert partial["images"] == whole["images"][:3]
    assert partial["missing"] == [entry["file"] for entry in whole["images"][3:]]
    assert all((tmp_path / "out" / entry["picture"]).is_file() for entry in partial["images"])

    calls = stop_at()
    assert main(command) == 0 and len(calls) == 2
    assert read(tmp_path) == whole
    calls = stop_at()
    assert main(command) == 0 and len(calls) == 5  # a finished run begins anew


def test_changed_images_and_settings_are_done_again(command, stop_at, tmp_path):
    stop_at(4, KeyboardInterrupt())
    assert main(command) == 130
    write_image(tmp_path / "in" / "1.jpg", size=(50, 50))
    (tmp_path / "out" / "2.png").unlink()
    calls = stop_at(4, KeyboardInterrupt())
    assert main(command) == 130 and len(calls) == 4  # 1, 2, 3 and 4, where it stops
    assert [(entry["width"], entry["picture"]) for entry in read(tmp_path)["images"]] == [
        (80, "0.png"), (50, "1.png"), (80, "2.png"), (80, "3.png"),
    ]  # fmt: skip
    calls = stop_at()
    assert main([*command, "--names", "dog"]) == 0 and len(calls) == 5
    assert read(tmp_path)["missing"] == []


@pytest.mark.parametrize(
    "file, change",
    [
        ("config.json", {"nms_iou": 0.5}),
        ("config.json", {"name_temperature": 0.2}),
        ("preprocessor_config.json", {"size": {"height": 96, "width": 96}}),
    ],
)
def test_results_of_another_config_are_not_gone_on_with(
    command, stop_at, tiny_detector_folder, tmp_path, file, change
):
    folder = shutil.copytree(tiny_detector_folder, tmp_path / "mine")
    command[command.index("--model") + 1] = str(folder)
    stop_at(4, KeyboardInterrupt())
    assert main(command) == 130
    fields = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**fields, **change}), encoding="utf-8")
    calls = stop_at()
    assert main(command) == 0 and len(calls) == 5


def test_a_killed_run_goes_on(command, stop_at, tmp_path):
    process = start(predict_killed_at, 4, command)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "detections.json").exists()
    with open(tmp_path / "out" / ".decodetr-predict.jsonl", "ab") as file:
        file.write(b'{"source": [1, 2], "resu')  # a line that was cut off
    calls = stop_at()
    assert main(command) == 0 and len(calls) in (2, 3)  # the third was being written, or was on the disk
    assert len(read(tmp_path)["images"]) == 5
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*(f"{i}.png" for i in range(5)), "detections.json"])


def test_file_names_that_are_no_utf_8(command, tmp_path, capsys):
    name = os.fsencode(str(tmp_path / "in" / "caf")) + b"\xe9.jpg"
    os.rename(tmp_path / "in" / "3.jpg", name)
    broken = os.fsencode(str(tmp_path / "in" / "x")) + b"\xff.png"
    with open(broken, "wb") as file:
        file.write(b"no picture")
    assert main(command) == 1
    report = read(tmp_path)
    assert len(report["images"]) == 5 and os.fsdecode(name) in [entry["file"] for entry in report["images"]]
    assert [entry["file"] for entry in report["failed"]] == [os.fsdecode(broken)]
    for entry in report["images"]:
        assert Image.open(tmp_path / "out" / entry["picture"]).format == "PNG"
    capsys.readouterr()


def test_pictures_replace_only_pictures_of_predict(tiny_detector_folder, tmp_path):
    folder = tmp_path / "in"
    write_image(folder / "a.jpg"), write_image(folder / "sub" / "a.jpg")
    kept = write_image(folder / "a.png", color=(1, 2, 3)).read_bytes()
    (folder / "in_a.png").symlink_to(tmp_path / "nowhere.png")
    command = ["predict", str(folder / "a.jpg"), str(folder / "sub"), "--model", str(tiny_detector_folder)]
    for _ in range(2):
        assert main([*command, "--output", str(folder), "--device", "cpu"]) == 0
        report = json.loads((folder / "detections.json").read_text())
        assert [entry["picture"] for entry in report["images"]] == ["in_a_2.png", "sub_a.png"]
        assert (folder / "a.png").read_bytes() == kept and not (tmp_path / "nowhere.png").exists()
    assert {path.name for path in folder.iterdir()} == {
        "a.jpg", "a.png", "in_a.png", "in_a_2.png", "sub_a.png", "sub", "detections.json",
    }  # fmt: skip


def test_pictures_as_jpeg_replace_only_pictures_of_predict(command, tmp_path):
    write_image(tmp_path / "out" / "0.jpg", color=(1, 2, 3))
    kept = (tmp_path / "out" / "0.jpg").read_bytes()
    for _ in range(2):
        assert main([*command, "--picture-format", "jpg"]) == 0
        names = [entry["picture"] for entry in read(tmp_path)["images"]]
        assert names == ["in_0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert (tmp_path / "out" / "0.jpg").read_bytes() == kept
    drawn = Image.open(tmp_path / "out" / "1.jpg")
    assert drawn.format == "JPEG" and drawn.width >= 640
    assert main([*command, "--workers", "0"]) == 0  # no threads: the same, as PNG
    assert [entry["picture"] for entry in read(tmp_path)["images"]] == [f"{i}.png" for i in range(5)]
