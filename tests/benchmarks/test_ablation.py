"""benchmarks/ablation.py: every row of the ladder trains what it says, once."""

import math

import pytest
from helpers.paths import BENCHMARKS
from helpers.tiny_models import write_tiny_config

from decodetr import DeCoDetrConfig
from decodetr.scenes.write import SceneSettings, write_scenes
from decodetr.utils.documents import read_json


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words of the benchmark over eight scenes with a stand-in of a pool."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from standin import write_standin

        folder = tmp_path_factory.mktemp("ladder")
        write_scenes(folder / "data", SceneSettings(train=8, val=2, test=1, image_size=64, seed=1))
        write_standin(folder / "data", folder / "standin", dim=16)
    tables = []
    for name in ("pool", "regions", "vocabulary"):
        tables += [f"--{name}", str(folder / "standin" / name)]
    return [str(folder / "data"), *tables, "--config", str(write_tiny_config(folder)), "--steps", "3"]


ISOLATED = {"no pool": False, "+ cosine lambda(t)": True}


def test_every_row_of_the_ladder_is_the_run_that_it_says(words, tmp_path, capsys):
    import ablation

    more = ["--output", str(tmp_path), "--seeds", "3", "--rows", *ISOLATED, "--", "--set", "nms_iou=0.5"]
    more += ["--logging_steps", "1", "--use_cpu", "true", "--disable_tqdm", "true"]
    assert ablation.main([*words, *more]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    table, weights = table.splitlines()[2:], {}
    for line, (row, isolated) in zip(table, ISOLATED.items()):
        run = tmp_path / f"{row.strip('+ ').replace(' lambda(t)', '-lambda-t').replace(' ', '-')}-3"
        config = DeCoDetrConfig.from_pretrained(run)
        assert config.gradient_isolation is isolated and config.nms_iou == 0.5
        assert config.pool_use == ("none" if row == "no pool" else "lookup+background")
        history = read_json(run / "trainer_state.json")["log_history"]
        weights[row] = [entry["align_weight"] for entry in history if "align_weight" in entry]
        results = read_json(run / "eval_results.json")
        assert line.split(" | ")[:3] == [f"| {row}", "1", f"{results['eval_AP50_novel']:.1f}"]
        assert math.isfinite(results["eval_class_agnostic_AP50"])
    assert weights == {"no pool": [1.0] * 3, "+ cosine lambda(t)": [0.5, 1.0, 1.0]}


def test_finished_runs_are_kept(words, tmp_path, capsys):
    import ablation

    done = tmp_path / "isolation-0"
    done.mkdir()
    values = dict.fromkeys(ablation._COLUMNS, 12.34)
    (done / "eval_results.json").write_text(str(values).replace("'", '"'))
    assert ablation.main([*words, "--output", str(tmp_path), "--seeds", "0", "--rows", "+ isolation"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == "| + isolation | 1 | 12.3 | 12.3 | 12.3 | 12.3 |"
    assert ablation._spread([1.0, 3.0]) == "2.0 (1.0 to 3.0)"


def test_a_rung_differs_from_the_one_below_by_one_thing(words):
    import ablation

    args = ablation.parser().parse_args([*words, "--output", "out"])
    rows = [
        ablation.command(args, row, 0, [])[len(ablation.command(args, "+ cosine lambda(t)", 0, [])) :]
        for row in ablation.ROWS
    ]
    constant, mixed = ["--align_weight_shape", "constant"], ["--set", "gradient_isolation=false"]
    without = ["--set", "pool_use=none", "distill_weight=0"]
    assert rows == [[*constant, *mixed, *without], [*constant, *mixed], constant, [], mixed]
