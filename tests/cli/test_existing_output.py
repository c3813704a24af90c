"""One rule for existing output: a finished or a foreign one is refused before the work, and --overwrite replaces only
what the command itself wrote."""

import json

import pytest
from helpers.broken_data import good, write

from decodetr.cli import main
from decodetr.training.results.output import begin, output_fields
from decodetr.utils.outputs import unwritten, unwritten_file

# words of the command; what a finished output has; what somebody else's has that would be replaced
CASES = {
    "eval": (
        "eval --model scenes-decodetr --data DATA --output OUT",
        {"report.json": '{"protocol": {}}'},
        {"report.json": '{"regions": 3}'},
    ),
    "eval compare": (
        "eval compare A B --output OUT",
        {"comparison.json": "{}", "comparison.png": ""},
        {"comparison.png": ""},
    ),
    "eval prepare": (
        "eval prepare ov-coco --coco A --output OUT",
        {"names.json": "{}", "annotations/train.json": "{}", "annotations/val.json": "{}"},
        {"names.json": "{}"},
    ),
    "vocabulary build": (
        "vocabulary build --names a --clip scenes-clip --output OUT",
        {"vocabulary.json": "{}"},
        {"README.md": "mine"},
    ),
    "pool inspect": ("pool inspect scenes-pool --output OUT", {"map.html": ""}, {"pool.json": "{}"}),
    "validate": ("validate DATA --output OUT", {"validation.json": "{}"}, {"train.jpg": ""}),
    "scenes reshape": (
        "scenes reshape scenes-clip OUT",
        {"README.md": "", "config.json": "{}"},
        {"config.json": "{}"},
    ),
    "calibrate": (
        "calibrate --model scenes-decodetr --data DATA --output OUT",
        {"config.json": '{"calibration_info": {"images": 3}}'},
        {"config.json": '{"calibration_info": null}'},
    ),
    "train": (
        "train --model scenes-decodetr --data DATA --output OUT",
        {"README.md": "", "train_results.json": "{}", "training_args.bin": "", "config.json": "{}"},
        {"config.json": "{}", "README.md": ""},
    ),
    "a picture of a pool": ("pool map scenes-pool --output OUT/map.png", {"map.png": ""}, None),
    "numbers of scenes": ("scenes measure DATA --output OUT/m.json", {"m.json": "{}"}, None),
}


def _refused(tmp_path, capsys, words, files):
    write(tmp_path / "DATA", good())
    for name, content in files.items():
        file = tmp_path / "OUT" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    before = {file: file.read_bytes() for file in (tmp_path / "OUT").rglob("*") if file.is_file()}
    words = [f"{tmp_path}/{word}" if word.startswith(("DATA", "OUT")) else word for word in words.split()]
    assert main(words) == 1
    assert {file: file.read_bytes() for file in (tmp_path / "OUT").rglob("*") if file.is_file()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize("case", CASES)
def test_a_finished_output_is_refused_with_the_flag_that_replaces_it(case, tmp_path, capsys):
    words, finished, _ = CASES[case]
    error = _refused(tmp_path, capsys, words, finished)
    assert "--overwrite to replace it" in error and "give another" in error.replace("or another", "give another")


@pytest.mark.parametrize("case", [case for case, (_, _, foreign) in CASES.items() if foreign])
def test_what_somebody_else_wrote_is_never_replaced(case, tmp_path, capsys):
    words, _, foreign = CASES[case]
    error = _refused(tmp_path, capsys, f"{words} --overwrite", foreign)
    assert "which it did not write" in error or "that no run of `decodetr train` wrote there" in error
    assert "--overwrite to replace it" not in error


def test_overwrite_replaces_what_the_command_wrote_and_leaves_the_rest(tmp_path):
    output = tmp_path / "names"
    words = ["vocabulary", "build", "--clip", "scenes-clip", "--output", str(output), "--names"]
    assert main([*words, "a"]) == 0
    (output / "notes.txt").write_text("mine")
    assert main([*words, "b"]) == 1
    assert json.loads((output / "vocabulary.json").read_text())["names"] == ["a"]
    assert main([*words, "b", "--overwrite"]) == 0
    assert json.loads((output / "vocabulary.json").read_text())["names"] == ["b"]
    assert (output / "notes.txt").read_text() == "mine"


def test_new_outputs_are_written(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for output in (None, tmp_path, tmp_path / "new"):
        unwritten("--output", output, ("a.json", "b.json"), "decodetr x")
    unwritten_file("--output", None)
    unwritten_file("--output", tmp_path / "a.json")
    unwritten_file("--output", tmp_path / "notes.txt", overwrite=True)
    with pytest.raises(ValueError, match="notes.txt is there; give --overwrite"):
        unwritten_file("--output", tmp_path / "notes.txt")


def test_training_goes_on_where_a_run_is_not_finished(tmp_path):
    assert output_fields(tmp_path / "new", {}) == output_fields(tmp_path, {}) == {}
    (tmp_path / "checkpoint-3").mkdir()
    assert output_fields(tmp_path, {}) == {"resume_from_checkpoint": "auto"}
    for given in ({"overwrite_output_dir": True}, {"resume_from_checkpoint": "last"}):
        assert output_fields(tmp_path, given) == {}
    for name in ("config.json", "training_args.bin", "train_results.json"):  # it ended before its last evaluation did
        (tmp_path / name).write_text("{}")
    assert output_fields(tmp_path, {}) == {"resume_from_checkpoint": "auto"}
    (tmp_path / "README.md").write_text("")
    with pytest.raises(ValueError, match="has a finished run"):
        output_fields(tmp_path, {})
    assert output_fields(tmp_path, {"overwrite_output_dir": True}) == {}
    begin(tmp_path)
    assert output_fields(tmp_path, {}) == {"resume_from_checkpoint": "auto"}
