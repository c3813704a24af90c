"""The files of an evaluation belong together, whatever happens while they are written."""

import hashlib
import json
import os
import random
import resource
import signal
import time

import pytest
from helpers.evaluations import run_eval
from helpers.processes import kill, start
from helpers.report_writer import make_report, write_in_turn

from decodetr.evaluation.detections import load_facts
from decodetr.evaluation.report import write_report
from decodetr.utils.files import reading


def run_of(folder):
    """Which run the files of a folder are of; an assertion if they are of two."""
    with reading(folder):
        text = (folder / "report.json").read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        run = json.loads(text)["protocol"]["run"]
        for name in ("report.md", "report.html"):
            assert digest in (folder / name).read_text(encoding="utf-8"), (name, run)
        assert load_facts(folder / "detections.parquet") == {"run": run}
    return run


def test_the_pages_carry_the_digest_of_the_numbers(tmp_path):
    for run in "AB":
        report, analysis, facts = make_report(run)
        assert write_report(report, analysis, tmp_path, facts) == tmp_path / "report.html"
        assert run_of(tmp_path) == run
    names = {file.name for file in tmp_path.iterdir()}
    pictures = {"precision_recall.png", "calibration.png", "errors.png"}
    files = {"report.json", "report.md", "report.html", "detections.parquet", "thresholds.json"}
    assert names == files | pictures
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}


def test_where_nothing_was_found_no_score_is_the_best(tmp_path):
    box = {"category_id": 1, "bbox": [2, 2, 20, 20]}
    (tmp_path / "val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.png", "width": 40, "height": 40}],
                "annotations": [{"id": 1, "image_id": 1, "area": 400, "iscrowd": 0, **box}],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    for found in ([], [{"image_id": 1, **box, "bbox": [25, 25, 9, 9], "score": 0.9}]):
        (tmp_path / "found.json").write_text(json.dumps(found))
        words = ["--annotations", tmp_path / "val.json", "--detections", tmp_path / "found.json", "--overwrite"]
        assert run_eval(*words, "--output", tmp_path / "report") == 0
        for file in ("report.json", "thresholds.json"):
            assert json.loads((tmp_path / "report" / file).read_text())["threshold"] is None, file
        page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
        assert "Nothing was found, so that" in page and "where F1 is best," not in page


def test_a_full_disk_leaves_the_old_report(tmp_path):
    report, analysis, facts = make_report("A")
    write_report(report, analysis, tmp_path, facts)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    largest = max(map(len, before.values()))  # the page with its pictures: all other files would fit
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1000, limits[1]))
        with pytest.raises(OSError):
            write_report(*make_report("B")[:2], tmp_path, facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kills", [2, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_leaves_the_old_or_the_new_report(tmp_path, kills):
    random.seed(kills)
    report, analysis, facts = make_report("A")
    write_report(report, analysis, tmp_path, facts)
    for _ in range(kills):
        writer = start(write_in_turn, tmp_path)
        time.sleep(random.uniform(0, 1.5))
        assert writer.is_alive()
        kill(writer)
        assert run_of(tmp_path) in "AB"
