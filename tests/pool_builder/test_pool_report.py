"""report.json of a pool says what is there now, and no stage is made from what another one no longer holds."""

import json
import shutil

import pytest
from helpers.pool_builds import build_command
from helpers.pool_data import write_data

from decodetr import PrototypePool
from decodetr.cli import main


@pytest.fixture(scope="module")
def built(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("report")
    assert main(build_command(write_data(folder / "data"), models, folder / "out")) == 0
    return folder


@pytest.fixture
def out(built, tmp_path):
    return shutil.copytree(built / "out", tmp_path / "out")


def _report(out):
    return json.loads((out / "report.json").read_text())


def test_the_report_follows_the_stages_that_are_made_again(out, capsys):
    first = _report(out)
    words = ["--output", str(out), "--overwrite"]
    assert main(["pool", "filter", "--keep-share", "0.5", *words]) == 0
    filtered = _report(out)
    assert filtered["regions"]["kept"] < first["regions"]["kept"] and "clusters" not in filtered
    assert f"{out / 'clusters'}: made from what is no longer there" in capsys.readouterr().err
    assert main(["pool", "cluster", "--num-coarse", "2", "--num-fine", "0", *words]) == 0
    clustered = _report(out)
    assert clustered["regions"] == filtered["regions"] and clustered["clusters"]["coarse"] == 2
    assert PrototypePool.from_pretrained(out / "pool").info["kept"] == clustered["regions"]["kept"]
    assert "no longer there" not in capsys.readouterr().err


def test_a_stage_is_not_made_from_another_run_of_an_earlier_one(built, out, models, capsys):
    data, cpu = ["--data", str(built / "data")], ["--device", "cpu", "--batch-size", "4"]
    say = ["--captioner", str(models / "llava"), "--max-new-tokens", "2", "--overwrite"]
    assert main(["pool", "captions", *data, *say, *cpu, "--output", str(out)]) == 0
    assert set(_report(out)) == {"proposals", "captions", "problems"}
    capsys.readouterr()
    for stage in ("filter", "cluster"):
        assert main(["pool", stage, "--output", str(out), "--overwrite"]) == 1
        error = capsys.readouterr().err
        assert f"{out / 'embeddings'} was made from other captions than" in error and "pool embeddings`" in error


def test_progress_bars_count_images_and_regions(built, models, tmp_path, capsys):
    assert main(build_command(built / "data", models, tmp_path / "out", "--shard-groups", "2")) == 0
    shown = capsys.readouterr().err
    regions = _report(tmp_path / "out")["proposals"]["rows"]
    bars = dict(
        line.split(":", 1) for line in shown.replace("\r", "\n").split("\n") if "100%" in line
    )  # the last of each
    counted = {"proposals": 0, "captions": 0, "embeddings": 0}
    for name, bar in bars.items():
        if (stage := name.strip().split(",")[0]) in counted:
            counted[stage] += int(bar.split("|")[-1].split("/")[0])
            assert ("image" if stage == "proposals" else "region") in bar
    assert counted == {"proposals": 10, "captions": regions, "embeddings": regions}  # in two shards
    assert "examples" not in shown
