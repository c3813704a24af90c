"""`decodetr scenes compare` with tiny teachers and a tiny detector."""

import argparse
import json
from dataclasses import fields

import pytest
import torch
from helpers.tiny_built import write_tiny_built
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip

from decodetr import DeCoDetrImageProcessor, PrototypePool
from decodetr.cli import main
from decodetr.cli.scenes import add_arguments
from decodetr.scenes.comparison import Comparison
from decodetr.scenes.options import VARIANTS, ComparisonOptions
from decodetr.scenes.pool_ablation import _cell, _in_a_line, tables, variants
from decodetr.scenes.pool_variants import mentions
from decodetr.scenes.world import BASE_NAMES, NAMES, few_names
from decodetr.utils.tables import markdown_tables


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return write_tiny_built(tmp_path_factory.mktemp("compare"))


def _words(built, output, *more):
    words = ["scenes", "compare", str(built / "scenes"), "--built", str(built / "built"), "--output", str(output)]
    words += ["--model", str(built / "detector"), "--clip", str(built / "clip"), "--steps", "2"]
    return [*words, "--vocabulary", str(built / "names"), *more]


def _comparison(built, output, *more):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = vars(parser.parse_args(_words(built, output, *more)[1:]))
    return Comparison(ComparisonOptions(**{field.name: given[field.name] for field in fields(ComparisonOptions)}))


def test_runs_once_and_keeps_what_it_measured(built, tmp_path, capsys):
    words = _words(built, tmp_path, "--variants", "captions", "query", "--seeds", "0", "1")
    assert main(words) == 0
    printed = capsys.readouterr().out
    file, page = tmp_path / "runs.json", tmp_path / "table.md"
    results = json.loads(file.read_text())
    assert {name: list(seeds) for name, seeds in results["runs"].items()} == {
        name: ["0", "1"] for name in ("captions", "query")
    }
    comparison = _comparison(built, tmp_path / "again")
    one, other = (comparison.train(comparison.pool, {}, seed).semantic_stream for seed in (0, 1))
    assert not torch.equal(one.input_projection[1].weight, other.input_projection[1].weight)
    assert page.read_text() == markdown_tables(tables(results)) and page.read_text() in printed
    assert page.read_text().count("| captions | 2 |") == 2  # validation and the shifted split
    written = file.stat().st_mtime_ns
    assert main(words) == 0
    assert file.stat().st_mtime_ns == written and "seed 0" not in capsys.readouterr().out
    assert main([*words, "--steps", "3"]) == 1
    assert "has runs of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_few_base_names_keep_their_boxes_and_all_others_count_as_novel(built, tmp_path, capsys):
    words = _words(built, tmp_path, "--variants", "none", "--seeds", "0", "--splits", "val", "--base-names", "48")
    assert main(words) == 0
    results = json.loads((tmp_path / "runs.json").read_text())
    page = (tmp_path / "table.md").read_text()
    assert results["settings"]["base_names"] == 48 and page.startswith("Validation; 48 names have boxes; localization")
    comparison = _comparison(built, tmp_path, "--base-names", "48")
    kept = few_names(BASE_NAMES, 48)
    assert comparison.train_annotations.names == kept and len(comparison.novel) == 192
    assert set(comparison.novel) | set(kept) == {name.name for name in NAMES}
    # What it trains on: boxes of kept names alone have a name.
    whole = _comparison(built, tmp_path)
    few, all_boxes = (sum((item["name_index"] >= 0).sum() for item in found.cache) for found in (comparison, whole))
    assert 0 < few < all_boxes
    assert main([*words[:-1], "12"]) == 1 and "has runs of other settings" in capsys.readouterr().err
    assert main([*_words(built, tmp_path / "other"), "--base-names", "181", "--steps", "0"]) == 1
    error = capsys.readouterr().err
    assert "--base-names must be from 1 to 180" in error and "--steps must be at least 1" in error


def test_the_model_takes_the_pools_clip_and_tables_of_two_clips_are_refused(built, tmp_path, capsys):
    wide = tiny_model(embedding_dim=16)
    wide.save_pretrained(tmp_path / "wide")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "wide")
    comparison = _comparison(built, tmp_path, "--model", str(tmp_path / "wide"))
    model = comparison.model(comparison.pool, {})
    assert model.config.embedding_dim == comparison.pool.embedding_dim == 8 and len(model.vocabulary) == 180
    given = wide.detector.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in model.detector.state_dict().items())
    other = str(write_tiny_clip(tmp_path / "clip", seed=1, length=40))
    names = ["--names-split", str(built / "scenes/names.json"), "--text-model", other]
    assert main(["vocabulary", "build", *names, "--output", str(tmp_path / "names")]) == 0
    for option, given in (("--clip", other), ("--vocabulary", str(tmp_path / "names"))):
        assert main(_words(built, tmp_path / "out", option, given)) == 1
        assert f"{option} {given} is of another CLIP than the pool of --built" in capsys.readouterr().err


def test_the_shape_that_never_has_a_box_has_its_own_column_where_there_is_one():
    run = {f"{key}, {size}": 50.0 for key in ("AP50", "AP50_novel", "AP50_base", "absent") for size in ("all", 12, 1)}
    ceiling = {key: 90.0 for key in ("AP50", "AP50_novel", "AP50_base", "recall_novel", "recall_base")}
    results = {"settings": {}, "ceiling": {"val": ceiling}, "runs": {"none": {"0": {"val": run}}}}
    ((title, head, _),) = tables(results)
    assert "crescents" not in head and title.startswith("Validation; localization finds")
    ceiling["AP50_never_boxed"], run["AP50_never_boxed, all"] = 80.0, 12.3
    ((_, head, (row, teacher)),) = tables(results)
    at = head.index("crescents")
    assert row[at] == "12.3" and teacher[at] == "80.0"
    assert len(head) == len(row) == len(teacher)
    ceiling |= {f"{key}, own boxes": 70.0 for key in ("AP50", "AP50_novel", "AP50_base", "AP50_never_boxed")}
    ((_, head, (_, teacher, same)),) = tables(results)
    assert same[0] == "the teacher itself, on the same boxes" and same[at] == "70.0" and teacher[at] == "80.0"
    assert len(head) == len(same)


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
    teachers = [f"the teacher itself, on {boxes}" for boxes in ("annotated boxes", "the same boxes")]
    assert rows == [*VARIANTS.values(), *teachers] and "Validation; localization finds" in page
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
    silent, random = PrototypePool.random(2, 2, 8), PrototypePool.random(4, 3, 8)
    made = variants(pool, silent, random)
    assert list(made) == list(VARIANTS)
    assert made["captions"] == (pool, {}) and made["silent"] == (silent, {}) and made["random"] == (random, {})
    fields = {name: changed for name, (_, changed) in made.items() if changed}
    assert fields["background"] == {"pool_use": "background", "distill_weight": 0.0}
    assert fields["none"]["pool_use"] == "none" and fields["query"] == {"semantic_inputs": "query"}
    assert fields["no-thumbnails"] == {"region_pixels": 0}


def test_every_run_keeps_the_detector(built, tmp_path):
    comparison = _comparison(built, tmp_path)
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
