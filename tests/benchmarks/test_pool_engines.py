"""benchmarks/pool_engines.py: what it compares."""

import os

import pool_engines
import pytest

from decodetr.cli import main


def _row(seconds, between, rows=60, shards=3):
    return {"seconds": seconds, "between": between, "rows": rows, "shards": shards}


def test_the_report_compares_turns_with_those_of_the_first_engine():
    one = {stage: _row([2.0, 4.0, 3.0], [1.0, 1.5, 2.0]) for stage in pool_engines.STAGES}
    ray = {stage: _row([3.0, 5.0, 9.0], [0.5, 0.25, 4.0]) for stage in pool_engines.STAGES}
    result = {"engines": {"one process": one, "ray, one worker": ray}, "equal": {"one process": True}}
    text = pool_engines.report({**result, "equal": {**result["equal"], "ray, one worker": False}})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:8]]
    assert cells[0] == ["proposals", "one process", "3.0", "0.0 s", "1.00", "20.0", "1.50 for 3", "true"]
    assert cells[1] == ["proposals", "ray, one worker", "5.0", "1.0 s", "1.50", "12.0", "0.50 for 3", "false"]


def test_time_between_shards(tmp_path):
    for number, when in enumerate((100, 107, 103)):
        file = tmp_path / f"s-{number}.parquet"
        file.write_bytes(b"")
        os.utime(file, (when, when))
    assert pool_engines.between_shards(tmp_path) == (7.0, 2)


@pytest.mark.slow
def test_other_bytes_are_told(tmp_path, monkeypatch, capsys):
    """Commands run in this process here; the second engine writes one file more."""

    def run(words, before, args):
        assert main(words) == 0
        if before and words[1] == "embeddings":
            (pool_engines.Path(words[words.index("--output") + 1]) / "more").write_text("")
        return 1.0

    monkeypatch.setattr(pool_engines, "run", run)
    words = ["--images", "2", "--image-size", "64", "--batch-size", "1", "--shard-groups", "1", "--detector", "grid"]
    assert pool_engines.main([*words, "--engines", "one process"]) == 0
    assert pool_engines.main([*words, "--engines", "one process", "two processes"]) == 1
    assert "two processes" in capsys.readouterr().out
