"""Which part of a data set `decodetr eval` measures on."""

import json

import pytest
from helpers.evaluations import run_eval
from helpers.exported_forms import BOXES, write_coco_layout, write_voc


def _evaluate(data, tmp_path, *more):
    """The report over stored detections, of which there are none."""
    found = tmp_path / "found.json"
    found.write_text("[]")
    status = run_eval("--detections", found, "--data", data, "--output", tmp_path / "report", *more)
    return status, tmp_path / "report" / "report.json"


def test_the_only_part_is_evaluated_and_said(tmp_path, caplog):
    data = write_voc(tmp_path / "voc")  # without lists: all is "train"
    status, file = _evaluate(data, tmp_path)
    report = json.loads(file.read_text())
    assert status == 0 and len(report["images"]) == len(BOXES)
    assert report["source"]["part"] == "train" and "no part 'val'; train, the only one, is evaluated" in caplog.text


@pytest.mark.parametrize(("more", "part"), [((), "val"), (("--part", "train"), "train")])
def test_val_is_evaluated_where_nothing_else_is_asked_for(tmp_path, caplog, more, part):
    data = write_coco_layout(tmp_path / "coco")
    status, file = _evaluate(data, tmp_path, *more)
    assert status == 0 and json.loads(file.read_text())["source"]["part"] == part
    assert "is evaluated" not in caplog.text


def test_a_part_of_an_annotation_file_is_refused(tmp_path, capsys):
    data = write_coco_layout(tmp_path / "coco")
    file = data / "annotations" / "instances_val2017.json"
    status, _ = _evaluate(data, tmp_path, "--annotations", file, "--part", "train")
    assert status != 0 and "--part train goes with --data alone" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["data.yaml", "a.XML"])
def test_an_annotation_file_of_another_form_is_told_from_a_broken_one(tmp_path, capsys, other):
    for name in ("found.json", other):
        (tmp_path / name).write_text("[]")
    assert run_eval("--detections", tmp_path / "found.json", "--annotations", tmp_path / other) != 0
    words = f"expected an annotation file of COCO (.json); of other forms give --data {tmp_path / other}"
    assert words in capsys.readouterr().err
