"""benchmarks/ablate.py: rows, what their results say, and runs that go on after a kill."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.tiny_built import write_tiny_built

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.scenes.comparison import Comparison
from decodetr.scenes.options import ComparisonOptions
from decodetr.scenes.pool_variants import PoolChange, caption_pool, changed_pool, thinned
from decodetr.utils.shipped import resolve


def test_rows_answer_a_question_and_claims_name_rows():
    import ablate
    from ablations.rows import CLAIMS, QUESTIONS, ROWS

    asked = Counter(row for question in QUESTIONS.values() for row in question.rows)
    assert set(asked) == set(ROWS)
    assert all(set(question.axis or {}) <= set(question.rows) for question in QUESTIONS.values())
    assert len(CLAIMS) == 12
    for claim in CLAIMS:
        assert (claim.row is None) == (claim.points is None) == bool(claim.why)
        assert claim.row is None or {claim.row, claim.reference} <= set(ROWS)
    listed = ablate.listed()
    assert all(question.title in listed for question in QUESTIONS.values())
    assert ablate.rows_of(["pool", "none", "free"]) == ["captions", "random", "background", "none", "free"]
    with pytest.raises(ValueError, match="--rows fine-3: expected a row or a question"):
        ablate.rows_of(["fine-3"])


def test_a_rung_of_the_ladder_differs_from_the_one_below_by_one_thing():
    from ablations.rows import ROWS

    none, pool, isolation, cosine = (ROWS[f"joint-{name}"] for name in ("none", "pool", "isolation", "cosine"))
    assert none.fields == {**pool.fields, "pool_use": "none", "distill_weight": 0.0}
    assert pool.fields == {"gradient_isolation": False} and isolation.fields == cosine.fields == {}
    constant = {"--align_weight_shape": "constant"}
    assert none.training == pool.training == isolation.training == constant and cosine.training == {}
    assert ROWS["joint-cosine-mixed"].fields == pool.fields and ROWS["joint-cosine-mixed"].training == {}


def test_the_rows_that_defaults_name_are_there():
    import re

    from ablations.rows import QUESTIONS, ROWS

    from decodetr import DeCoDetrConfig

    named = [
        row for part in re.findall(r"\[Rows? ([^]]*)", DeCoDetrConfig.__doc__) for row in re.findall("`(.*?)`", part)
    ]
    assert len(named) > 20 and set(named) <= set(ROWS)
    assert {f"temperature-{value}" for value in QUESTIONS["temperature"].axis.values()} <= set(named)


def test_runs_of_equal_seeds_are_compared():
    from ablations.verdicts import differences, interval, told

    assert differences({"0": 5.0, "2": 7.0, "10": 1.0}, {"10": 2.0, "0": 3.0, "1": 4.0}) == [2.0, -1.0]
    # Mean 2, standard deviation 1; t of two degrees of freedom is 4.303, so half of the interval is 4.303 / sqrt(3).
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 2.484, 2.0 + 2.484), abs=1e-3)
    assert interval([1.0]) == (1.0, -math.inf, math.inf)
    assert [told(values) for values in ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], [-5.0, -6.0, -7.0], [9.0])] == [0, 1, -1, 0]


@pytest.mark.parametrize(
    "values, claimed, stand_in, expected",
    [
        ([], 6.2, False, "not measured yet"),
        ([9.0], 6.2, False, "cannot be told here"),
        ([5.0, 6.0, 7.0], 6.2, False, "holds"),  # 3.5 to 8.5
        ([-5.0, -6.0, -7.0], -6.2, False, "holds"),
        ([5.0, 6.0, 7.0], 9.0, False, "holds in kind"),
        ([5.0, 6.0, 7.0], 6.2, True, "holds in kind"),
        ([5.0, 6.0, 7.0], -6.2, False, "does not hold"),  # the other side
        ([0.0, 0.1, 0.2], 6.2, False, "does not hold"),  # -0.15 to 0.35
        ([0.0, 0.1, 0.2], 6.2, True, "cannot be told here"),
        ([0.0, 0.1, 0.2], 0.2, False, "cannot be told here"),
        ([0.0, 0.0], 1.0, False, "does not hold"),
    ],
)
def test_verdicts_follow_from_the_rule(values, claimed, stand_in, expected):
    from ablations.verdicts import verdict

    assert verdict(values, claimed, stand_in) == expected


@pytest.mark.slow
def test_costs_are_ratios_of_the_default_to_the_same_without_a_part(built, tmp_path, capsys, monkeypatch):
    import ablate
    from ablations import costs

    from decodetr.speed.catalog import OURS, STREAM
    from decodetr.utils.documents import read_json

    tiny = DeCoDetrForObjectDetection.from_pretrained(resolve("scenes-decodetr")).config.detector_config
    monkeypatch.setitem(OURS, costs.DETECTOR, replace(OURS[costs.DETECTOR], fields=tiny.to_dict()))
    monkeypatch.setattr(costs, "SIDE", 160)
    small = {"num_coarse_prototypes": 3, "num_fine_prototypes": 4, "embedding_dim": 8}
    for name, value in small.items():
        monkeypatch.setitem(STREAM, name, value)
    monkeypatch.setattr(costs, "KEPT", [part for part in costs.KEPT if part[1] in ("query", "predictor-random")])
    words = ["cost", *_words(built, tmp_path)[1:], "--rounds", "2"]
    assert ablate.main(words) == 0, capsys.readouterr().err
    found = read_json(tmp_path / "results" / costs.FILE, dict)
    for what in ("forward", "step"):
        assert set(found[what]) == {row for _, row in costs.KEPT}
        assert all(0 < spread["median"] and spread["runs"] == 2 for spread in found[what].values())
    assert found["stream"] == {"prototypes": 7, "width": 8}
    assert ablate.main([*words, "--base-names", "2", "3"]) == 1
    assert "cost takes one --base-names, got [2, 3]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return write_tiny_built(tmp_path_factory.mktemp("ablations"))


def _words(built, folder, *more):
    words = ["run", "--data", str(built / "scenes"), "--built", str(built / "built"), "--work", str(folder / "work")]
    words += ["--model", str(built / "detector"), "--clip", str(built / "clip"), "--vocabulary", str(built / "names")]
    return [*words, "--results", str(folder / "results"), "--steps", "2", "--queries", "3", *more]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_shares_features(built, tmp_path, capsys, monkeypatch):
    import ablate

    words = _words(built, tmp_path, "--rows", "captions", "none", "fine-0", "--base-names", "48", "--seeds", "0", "1")
    real, trained = Comparison.train, []

    def killed(self, pool, fields, seed, *more):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((fields.get("pool_use"), seed))
        return real(self, pool, fields, seed, *more)

    monkeypatch.setattr(Comparison, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        ablate.main(words)
    file = tmp_path / "results" / "scenes-48.json"
    assert set(json.loads(file.read_text())["runs"]) == {"captions", "none"}
    (features,) = (tmp_path / "work").glob("features-*/manifest.json")
    made = features.stat().st_mtime_ns
    monkeypatch.setattr(Comparison, "train", real)
    assert ablate.main(words) == 0
    results = json.loads(file.read_text())
    assert {row: list(seeds) for row, seeds in results["runs"].items()} == {
        row: ["0", "1"] for row in ("captions", "none", "fine-0")
    }
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scenes-48: ")]
    assert len(said) == 6 and said[0].startswith("scenes-48: captions, seed 0: AP50 novel ")
    assert features.stat().st_mtime_ns == made and trained == [(None, 0), ("none", 0)]
    entry = results["runs"]["fine-0"]["1"]
    assert entry["prototypes"] == [4, 0] and entry["seconds"] > 0 and "AP50_novel, 12" in entry["val"]
    assert results["settings"] == {
        "name": "scenes", "base_names": 48, "train_images": 800, "val_images": 150, "steps": 2, "queries": 3
    }  # fmt: skip
    written = file.stat().st_mtime_ns
    assert ablate.main(words) == 0 and file.stat().st_mtime_ns == written
    assert ablate.main([*words, "--steps", "3"]) == 1
    assert "has runs of other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_take_runs_that_no_other_one_has_begun(built, tmp_path, capsys):
    """One holds a run: another one goes on to the next, and both are in the file."""
    import ablate
    from filelock import FileLock

    words = _words(built, tmp_path, "--rows", "captions", "none", "--base-names", "48", "--seeds", "0")
    work, file = tmp_path / "work", tmp_path / "results" / "scenes-48.json"
    work.mkdir()
    with FileLock(work / ".decodetr.lock-scenes-48-captions-0"), FileLock(work / ".decodetr.lock-scenes-48-ceiling"):
        assert ablate.main(words) == 0
    first = json.loads(file.read_text())
    assert set(first["runs"]) == {"none"} and first["ceiling"] == {}
    assert ablate.main(words) == 0
    results = json.loads(file.read_text())
    assert set(results["runs"]) == {"captions", "none"} and results["ceiling"]["val"]["recall_base"] >= 0
    assert results["runs"]["none"] == first["runs"]["none"]
    assert results["runs"]["none"]["0"]["machine"]["device"].startswith("cpu (")
    file.write_text(json.dumps(results | {"ceiling": {}}))  # as if who measured it had been killed
    assert ablate.main(words) == 0
    assert json.loads(file.read_text()) == results


@pytest.mark.slow
def test_views_are_cached_and_belong_to_the_settings(built, tmp_path):
    import ablate
    from ablations.page import load_results, page_of

    from decodetr.training.features.feature_cache import FeatureCache

    words = _words(built, tmp_path, "--rows", "captions", "--base-names", "48", "--seeds", "0", "--device", "cpu")
    assert ablate.main(words) == 0
    assert ablate.main([*words, "--views", "2", "--world", "twice"]) == 0
    (one,) = (tmp_path / "work").glob("features-????????????")
    (two,) = (tmp_path / "work").glob("features-*-views-2")
    assert len(FeatureCache(two)) == 2 * len(FeatureCache(one))
    found = load_results(tmp_path / "results")
    assert "views" not in found["scenes-48"]["settings"] and found["twice-48"]["settings"]["views"] == 2
    assert "| twice-48, 2 views | 48 |" in page_of(found, {}, tmp_path)


def test_the_gradients_of_both_losses_are_compared_where_both_reach():
    from ablations.conflict_trainer import compare_gradients

    shared, own = (torch.nn.Parameter(torch.tensor(values)) for values in ([1.0, 2.0], [3.0]))
    first = 3 * shared[0] + own.sum()
    second = (4 * shared * torch.tensor([-3.0, 4.0])).sum()
    found = compare_gradients(first, second, [shared, own])  # (3, 0) and (-12, 16)
    assert found == {"shared": 2, "cosine": pytest.approx(-0.6), "ratio": pytest.approx(20 / 3)}
    assert compare_gradients(first, 2 * shared.detach().sum() * own.sum(), [shared]) == {
        "shared": 0, "cosine": None, "ratio": 0.0
    }  # fmt: skip


def test_isolation_leaves_no_gradient_of_names_in_the_detector(built, tmp_path, capsys):
    import ablate

    words = _words(built, tmp_path, "--rows", "joint-pool", "joint-isolation", "--base-names", "48", "--seeds", "0")
    assert ablate.main([*words, "--from-scratch", "--world", "scratch", "--device", "cpu"]) == 0
    results = json.loads((tmp_path / "results" / "scratch-48.json").read_text())
    assert results["settings"]["from_scratch"] is True
    mixed, apart = (results["runs"][f"joint-{row}"]["0"]["conflict"] for row in ("pool", "isolation"))
    assert mixed["step"] == apart["step"] == [0, 1]
    assert all(count > 0 for count in mixed["shared"]) and all(-1 <= value <= 1 for value in mixed["cosine"])
    assert all(value > 0 for value in mixed["ratio"])
    assert apart["shared"] == [0, 0] and apart["cosine"] == [None, None] and apart["ratio"] == [0, 0]
    assert ablate.main([*words, "--from-scratch", "--rows", "none"]) == 1
    assert "--from-scratch: none trains the semantic stream alone" in capsys.readouterr().err


@pytest.mark.slow
def test_every_row_trains(built, tmp_path):
    import ablate
    from ablations.rows import ROWS

    few = tmp_path / "detector"  # a quarter of the places on its maps, so that there can be four times as many queries
    model = DeCoDetrForObjectDetection.from_pretrained(built / "detector")
    model.config.detector_config.num_queries = 5
    model.save_pretrained(few)
    DeCoDetrImageProcessor.from_pretrained(built / "detector").save_pretrained(few)
    others = [f"{word}={built / 'built'}" for word in ("32", "64")]
    words = _words(built, tmp_path, "--rows", *ROWS, "--seeds", "0", "--model", str(few), "--captioners", *others)
    assert ablate.main(words) == 0
    results = json.loads((tmp_path / "results" / "scenes.json").read_text())
    assert set(results["runs"]) == set(ROWS)
    assert all(math.isfinite(run["0"]["val"]["AP50_novel, all"]) for run in results["runs"].values())


def test_the_pool_of_another_captioner_is_of_the_same_regions(built, tmp_path, capsys):
    import ablate

    from decodetr import PrototypePool

    other = tmp_path / "other"
    shutil.copytree(built / "built", other)
    pool = PrototypePool.from_pretrained(other / "pool")
    shutil.rmtree(other / "pool")
    coarse = torch.nonzero(pool.level == 0).flatten()
    smaller = PrototypePool(
        pool.prototypes[coarse], pool.level[coarse], pool.parent[coarse], pool.count[coarse],
        [pool.captions[i] for i in coarse], pool.info | {"num_fine": 0},
    )  # fmt: skip
    smaller.save_pretrained(other / "pool")
    words = _words(built, tmp_path, "--rows", "captioner-32", "--seeds", "0", "--base-names", "48")
    assert ablate.main(words) == 1
    assert "a row needs --captioners 32=BUILT" in capsys.readouterr().err
    assert ablate.main([*words, "--captioners", f"32={other}"]) == 0
    results = json.loads((tmp_path / "results" / "scenes-48.json").read_text())
    assert results["runs"]["captioner-32"]["0"]["prototypes"] == [len(coarse), 0]
    (shard, *_) = sorted((other / "regions").glob("*.parquet"))
    pq.write_table(pq.read_table(shard).slice(1), shard)
    assert ablate.main([*words, "--captioners", f"32={other}", "--world", "again"]) == 1
    assert "build it of the same detector and images" in capsys.readouterr().err


def test_what_does_not_go_together_is_refused(tmp_path, capsys):
    import ablate

    given = ["run", "--data", "d", "--built", "b", "--work", str(tmp_path)]
    for words, message in (
        (["run", "--work", str(tmp_path)], "give --data and --built, or --photos"),
        (["run", "--data", "d", "--built", "b"], "run needs --work"),
        (["run", "--data", "d", "--built", "b", "--photos", "p"], "give --data and --built, or --photos"),
        ([*given, "--captioners", "32"], "--captioners 32: expected WORD=BUILT"),
        ([*given, "--views", "0"], "--views must be at least 1, got 0"),
        ([*given, "--views", "2", "--rows", "joint-pool"], "--views: joint-pool reads the images"),
    ):
        assert ablate.main(words) == 1 and message in capsys.readouterr().err


def test_the_photo_world_has_all_that_is_needed():
    import ablate

    (world,) = ablate.worlds(ablate.parser().parse_args(["run", "--photos", "P", "--queries", "0"]))
    assert world.key == world.name == "photos" and world.queries is None and world.base_names is None
    assert (world.data, world.built, world.model) == ("P/world", "P/chain/built", "P/chain/boxes")
    assert (world.vocabulary, world.clip) == ("P/chain/names", "P/teachers/photo-clip")
    scenes = ablate.worlds(ablate.parser().parse_args("run --data d --built b --base-names 6 12".split()))
    assert [world.key for world in scenes] == ["scenes-6", "scenes-12"]


@pytest.fixture(scope="module")
def comparison(built):
    return Comparison(
        ComparisonOptions(
            folder=str(built / "scenes"), model=str(built / "detector"), built=str(built / "built"),
            vocabulary=str(built / "names"), clip=str(built / "clip"), variants=[], seeds=[], splits=["val"], steps=1,
            base_names=None, trained=None, output="",
        ),
        train_images=3,
        val_images=2,
    )  # fmt: skip


def test_a_comparison_may_be_of_the_first_images(comparison):
    assert [len(coco.images) for coco in (comparison.train_annotations, comparison.splits["val"])] == [3, 2]


def test_pools_of_fewer_captions_and_other_sizes(comparison):
    place, clip, pool = comparison.built, comparison.clip, comparison.pool
    assert changed_pool(place, clip, pool, PoolChange()) is pool
    again = changed_pool(place, clip, pool, PoolChange(fine=1.01))  # the same numbers, clustered again
    assert again.prototypes.shape == pool.prototypes.shape and again.captions == pool.captions
    assert np.allclose(again.prototypes, pool.prototypes, atol=1e-3)  # stored embeddings have 16 bits
    assert changed_pool(place, clip, pool, PoolChange(fine=0)).num_fine == 0
    one = changed_pool(place, clip, pool, PoolChange(levels=1))
    assert one.num_fine == 0 and len(one) > len(pool) - pool.num_fine
    few = changed_pool(place, clip, pool, PoolChange(share=0.3))
    assert few.count[few.level == 0].sum() == round(0.3 * pool.count[pool.level == 0].sum().item())
    best = changed_pool(place, clip, pool, PoolChange(best=0.5))
    assert 0 < best.count[best.level == 0].sum() < pool.count[pool.level == 0].sum()
    silent = changed_pool(place, clip, pool, PoolChange(lost=1))
    assert len(silent.captions) <= len(pool.captions)
    moved = comparison.changed_pool(PoolChange(fine=0))
    assert moved.info["space"].keys() == pool.info["space"].keys() and moved.info["num_fine"] == 0
    with pytest.raises(ValueError, match="share of a pool is out of its range"):
        PoolChange(share=0)


def test_captions_lose_words_but_for_small_ones():
    rng = np.random.default_rng(0)
    assert thinned("a red star with stripes", 1.0, rng) == "something"
    assert thinned("a red star with stripes", 0.0, rng) == "a red star with stripes"
    many = [thinned("a red star", 0.25, rng) for _ in range(2000)]
    assert {"a red star", "a red", "a star", "something"} == set(many)
    assert many.count("a red star") / 2000 == pytest.approx(0.75**2, abs=0.04)
    assert many.count("something") / 2000 == pytest.approx(0.25**2, abs=0.02)


def test_counts_of_captions_are_weights(comparison):
    counts = Counter({"a red star": 5, "a blue ring": 2})
    pool = caption_pool(counts, comparison.clip, comparison.pool, 2, 0)
    assert sorted(zip(pool.captions, pool.count.tolist())) == [("a blue ring", 2), ("a red star", 5)]


def test_a_step_reads_other_queries_of_an_image_each_time(comparison, tmp_path):
    import torch
    from ablations.some_queries import SomeQueries

    whole = comparison.make_cache(views=1, folder=tmp_path / "features")
    some = SomeQueries(whole.folder, 2)
    torch.manual_seed(0)
    item, full = some[0], whole[0]
    assert len(some) == len(whole) and item.keys() == full.keys()
    most = min(2, len(full["queries"]))
    assert len(item["queries"]) == len(item["name_index"]) == len(item["region_embeds"]) == most
    assert all(len(part) == most for part in item["samples"])
    drawn = {some[0]["queries"][0].sum().item() for _ in range(30)}
    assert len(drawn) == len(full["queries"])
    place = (full["queries"] == item["queries"][0]).all(1).nonzero()[0, 0]
    assert torch.equal(item["samples"][0][0], full["samples"][0][place])


def test_fields_that_sample_boxes_in_another_way_have_features_of_their_own(comparison):
    default = comparison.features({"semantic_inputs": "query"})
    assert default is comparison.cache
    other = comparison.features({"region_pixels": 8})
    assert other is not default and other is comparison.features({"region_pixels": 8})
    assert other.made_by["region_pixels"] == 8
