"""`decodetr scenes compare` with tiny teachers and a tiny detector."""

import json

import pytest
import torch
from tiny_models import tiny_model
from tiny_teachers import write_tiny_clip, write_tiny_llava

from decodetr import DeCoDetrImageProcessor, PrototypePool
from decodetr.__main__ import main
from decodetr.scenes.compare import VARIANTS, Comparison, _cell, _in_a_line, mentions, tables, variants


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Scenes, names, teachers, detector and what `pool build` makes of them."""
    folder = tmp_path_factory.mktemp("compare")
    clip, detector, scenes = (str(folder / name) for name in ("clip", "detector", "scenes"))
    write_tiny_clip(clip, length=40)  # the names of the scenes are long in its few tokens
    write_tiny_llava(folder / "llava")
    tiny_model(embedding_dim=8).save_pretrained(detector)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(detector)
    assert main(["scenes", "write", scenes, "--train", "4", "--val", "4", "--test", "4", "--workers", "1"]) == 0
    names = ["--names-split", f"{scenes}/names.json", "--text-model", clip, "--output", str(folder / "names")]
    assert main(["vocabulary", "build", *names]) == 0
    teachers = ["--detector", detector, "--clip", clip, "--captioner", str(folder / "llava")]
    sizes = ["--delta", "-1", "--num-coarse", "4", "--num-fine", "3", "--max-proposals", "2"]
    assert main(["pool", "build", "--data", scenes, *teachers, *sizes, "--output", str(folder / "built")]) == 0
    return folder


def _words(built, output, *more):
    words = ["scenes", "compare", str(built / "scenes"), "--built", str(built / "built"), "--output", str(output)]
    words += ["--model", str(built / "detector"), "--clip", str(built / "clip"), "--steps", "2"]
    return [*words, "--vocabulary", str(built / "names"), *more]


def test_runs_once_and_keeps_what_it_measured(built, tmp_path, capsys):
    words = _words(built, tmp_path, "--variants", "captions", "none", "query", "--seeds", "0", "1")
    assert main(words) == 0
    printed = capsys.readouterr().out
    file, page = tmp_path / "runs.json", tmp_path / "table.md"
    results = json.loads(file.read_text())
    assert {name: list(seeds) for name, seeds in results["runs"].items()} == {
        name: ["0", "1"] for name in ("captions", "none", "query")
    }
    assert results["runs"]["none"]["0"] != results["runs"]["none"]["1"]
    assert page.read_text() == tables(results) and page.read_text() in printed
    assert page.read_text().count("| captions | 2 |") == 2  # validation and the shifted split
    written = file.stat().st_mtime_ns
    assert main(words) == 0
    assert file.stat().st_mtime_ns == written and "seed 0" not in capsys.readouterr().out
    assert main([*words, "--steps", "3"]) == 1
    assert "has runs of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_variants_may_be_added_and_a_trained_model_counts_as_a_run(built, tmp_path, capsys):
    """Every variant trains; the trained model is measured as it is."""
    more = ["--seeds", "0", "--splits", "val", "--trained", str(built / "detector"), "--variants"]
    assert main(_words(built, tmp_path, *more, "captions")) == 0
    first = json.loads((tmp_path / "runs.json").read_text())
    assert main(_words(built, tmp_path, *more, *VARIANTS)) == 0
    results = json.loads((tmp_path / "runs.json").read_text())
    assert set(results["runs"]) == set(VARIANTS) and results["runs"]["captions"] == first["runs"]["captions"]
    page = (tmp_path / "table.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert rows == [*VARIANTS.values(), "the teacher itself"] and "Validation; localization finds" in page
    measured = tmp_path / "m.json"
    measure = ["scenes", "measure", str(built / "scenes"), "--model", str(built / "detector"), "--split", "val"]
    measure += ["--clip", str(built / "clip"), "--vocabulary", str(built / "names"), "--output", str(measured)]
    assert main(measure) == 0
    assert json.loads(measured.read_text())["measured"] == results["runs"]["captions"]["0"]["val"]


def test_a_finished_run_is_one_short_line():
    found = {"AP50, all": 82.44993422899014, "AP50_novel, all": 83.069, "AP50_base, all": 82.2, "absent, all": 0.0}
    said = _in_a_line("captions", 1, {"val": found, "shifted": {**found, "AP50, all": 9.96}})
    first = "captions, seed 1: val AP50 novel 83.1, base 82.2, all 82.4"
    assert said == f"{first}; shifted AP50 novel 83.1, base 82.2, all 10.0"


def test_variants_differ_in_what_they_say(built):
    pool = PrototypePool.random(4, 3, 8, torch.Generator().manual_seed(1))
    silent = PrototypePool.random(2, 2, 8)
    made = variants(pool, silent)
    assert list(made) == list(VARIANTS)
    assert made["captions"] == (pool, {}) and made["silent"] == (silent, {"pool_update": "frozen"})
    random = made["random"][0]
    assert random.prototypes.shape == pool.prototypes.shape and not torch.equal(random.prototypes, pool.prototypes)
    fields = {name: changed for name, (_, changed) in made.items() if changed}
    assert fields["background"] == {"pool_use": "background", "distill_weight": 0.0}
    assert fields["none"]["pool_use"] == "none" and fields["query"] == {"semantic_inputs": "query"}
    assert fields["no-thumbnails"] == {"region_pixels": 0}


def test_every_run_keeps_the_detector(built, tmp_path):
    import argparse

    from decodetr.scenes.compare import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    comparison = Comparison(parser.parse_args(_words(built, tmp_path)[2:]))
    trained = comparison.train(comparison.pool, {"pool_use": "none", "distill_weight": 0.0}, seed=1)
    given = comparison.localized.detector.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in trained.detector.state_dict().items())
    assert len(trained.vocabulary) == 180 and trained.config.pool_use == "none"


def test_spread_of_seeds():
    assert _cell([70.0, 72.0, 71.0]) == "71.0 (70.0 to 72.0)" and _cell([0.01, 0.03]) == "0.02 (0.01 to 0.03)"
    assert _cell([61.25]) == "61.2"


def test_a_caption_mentions_a_name_of_any_world_in_its_words_and_one_of_the_drawn_world_in_others():
    assert mentions("a picture of a Guinea Fowl, a kind of bird", ["owl", "guinea fowl"])
    assert not mentions("a fowl from guineas", ["guinea fowl"]) and not mentions("a flower", ["flow"])
    assert mentions("a red star with stripes", ["red striped star"])
    assert not mentions("a red star with stripes", ["red dotted star"]) and not mentions("a red star", [])
