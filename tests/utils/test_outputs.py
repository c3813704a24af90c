"""What a command reads it never writes over: it refuses before the work."""

import os

import pytest
from helpers.broken_data import good, write

from decodetr.cli import main
from decodetr.utils.outputs import apart


def test_an_output_that_is_an_input(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").touch()
    os.symlink(tmp_path / "in", tmp_path / "link")
    for output in ("in", "link", "in/../in", "in/"):
        with pytest.raises(ValueError, match="^--output .*: DATA reads .*, which would be written over; give another"):
            apart("--output", f"{tmp_path}/{output}", {"DATA": tmp_path / "in"}, ())
        with pytest.raises(ValueError, match="--names reads .*a.json, which would be written over"):
            apart("--output", f"{tmp_path}/{output}", {"--names": tmp_path / "in" / "a.json"}, ("a.json",))
    file = tmp_path / "in" / "a.json"
    with pytest.raises(ValueError, match="would be written over"):
        apart("--output", file, {"DATA": [tmp_path / "none", file]})
    apart("--output", tmp_path / "in", {"--names": file}, ("b.json",))
    apart("--output", tmp_path / "in" / "new", {"DATA": tmp_path / "in", "--names": None, "--model": "hub/name"})
    apart(None, None, {"DATA": tmp_path})


CASES = {
    "eval into its data": "eval --model scenes-decodetr --data DATA --output DATA",
    "eval into its model": "eval --model MODEL --data DATA --output MODEL",
    "eval over its detections": "eval --detections RUN/detections.parquet --data DATA --output RUN",
    "train into its data": "train --model scenes-decodetr --data DATA --output_dir DATA",
    "train into its model": "train --model MODEL --data DATA --output_dir MODEL",
    "train over its config": "train --config RUN/config.json --data DATA --output_dir RUN",
    "a pool into its data": "pool proposals --data DATA --output DATA",
    "a pool into its detector": "pool proposals --data DATA --detector MODEL --output MODEL",
    "a vocabulary into its text model": "vocabulary build --names a --text-model MODEL --output MODEL",
    "a vocabulary over its names": "vocabulary build --names-file RUN/vocabulary.json --text-model M --output RUN",
    "a protocol into its source": "eval prepare ov-coco --coco DATA --output DATA",
    "a page into its pool": "pool inspect POOL --output POOL",
    "a map over its pool": "pool map POOL --output POOL/pool.json",
    "numbers over annotations": "scenes measure DATA --output DATA/annotations/train.json",
}


@pytest.mark.parametrize("case", CASES)
def test_commands_refuse_before_the_work(tmp_path, capsys, case):
    write(tmp_path / "DATA", good())
    for folder in ("MODEL", "RUN", "POOL"):
        (tmp_path / folder).mkdir()
        for name in ("config.json", "detections.parquet", "vocabulary.json", "pool.json"):
            (tmp_path / folder / name).write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    names = ("DATA", "MODEL", "RUN", "POOL")
    words = [f"{tmp_path}/{word}" if word.startswith(names) else word for word in CASES[case].split()]
    assert main(words) == 1
    assert "which would be written over; give another --output" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_console_of_another_encoding(tmp_path):
    import json
    import subprocess
    import sys

    document = good()
    document["categories"][0]["name"] = "猫"
    document["annotations"][0]["bbox"] = [10, 10, -5, 20]
    folder = write(tmp_path / "data", json.dumps(document))
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "decodetr", "validate", str(folder)]
    done = subprocess.run(words, capture_output=True, env=environment)
    assert done.returncode == 1 and b"boxes of negative size" in done.stdout and b"\\u732b" in done.stdout, done.stderr
