"""What the stages of a pool took, in OUT/spent.json and in the pool's card."""

import json
import re

import pytest
from helpers.pool_builds import build_command
from helpers.pool_data import write_data

from decodetr.cli import main

STAGES = ["proposals", "captions", "embeddings", "regions", "clusters"]


@pytest.fixture(scope="module")
def built(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("cost")
    assert main(build_command(write_data(folder / "data"), models, folder / "out")) == 0
    return folder


def _spent(folder):
    return json.loads((folder / "out/spent.json").read_text())


def _card(folder):
    return (folder / "out/pool/README.md").read_text()


def test_the_card_has_the_seconds_of_each_stage_and_their_sum(built):
    spent = _spent(built)
    assert list(spent) == STAGES and all(0 < one["seconds"] < 600 for one in spent.values())
    assert {(one["begun"], one["ended"]) for one in spent.values()} == {(1, 1)}
    rows = re.findall(
        r"^\| (\w+) \| ([\d,]+) \| (\d*) \|$", _card(built).partition("## What it took")[2], re.MULTILINE
    )
    assert rows[:-1] == [(stage, f"{spent[stage]['seconds']:.0f}", "1") for stage in STAGES]
    assert rows[-1][:2] == ("together", f"{sum(one['seconds'] for one in spent.values()):.0f}")
    assert "on the CPU, " in _card(built) and "at least" not in _card(built)


def test_what_is_kept_is_not_counted_again_and_what_is_made_again_is_counted_anew(built, models):
    spent, card = _spent(built), _card(built)
    assert main(build_command(built / "data", models, built / "out")) == 0
    assert (_spent(built), _card(built)) == (spent, card)
    assert main([*build_command(built / "data", models, built / "out"), "--num-fine", "2", "--overwrite"]) == 0
    again = _spent(built)
    assert again["clusters"] != spent["clusters"] and again["clusters"]["begun"] == 1
    assert {stage: again[stage] for stage in STAGES[:-1]} == {stage: spent[stage] for stage in STAGES[:-1]}


def test_a_run_that_was_killed_gives_a_lower_bound(tmp_path, models):
    words = build_command(write_data(tmp_path / "data"), models, tmp_path / "out")
    (tmp_path / "out").mkdir()
    killed = {"captions": {"seconds": 0.0, "begun": 1, "ended": 0, "machines": ["an H100"]}}
    (tmp_path / "out/spent.json").write_text(json.dumps(killed))  # as it leaves it
    assert main(words) == 0
    card = _card(tmp_path)
    assert _spent(tmp_path)["captions"]["begun"] == 2 and re.search(r"\| captions \| at least \d+ \| 2 \|", card)
    assert "on an H100; the CPU, " in card and "Runs that were killed, whose seconds nobody counted: 1." in card
    (tmp_path / "out/spent.json").unlink()  # a pool of a version that did not count
    assert main([*words, "--num-fine", "2", "--overwrite"]) == 0
    assert "## What it took" not in _card(tmp_path)
