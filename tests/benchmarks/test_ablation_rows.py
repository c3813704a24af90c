"""Rows whose change is no field of a config do what they say."""

import json
import math

import pytest
import torch
from helpers.tiny_built import write_tiny_built
from helpers.tiny_models import tiny_model
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.annotations.coco import CocoAnnotations
from decodetr.modeling_decodetr.embedding_space import look_up
from decodetr.scenes.options import ComparisonOptions
from decodetr.training.data.weak_labels import read_image_labels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return write_tiny_built(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def set_up(built):
    """A comparison of the tiny world with a setup."""
    from ablations.rows import Setup
    from ablations.setups import SetUpComparison

    options = ComparisonOptions(
        folder=str(built / "scenes"), model=str(built / "detector"), built=str(built / "built"),
        vocabulary=str(built / "names"), clip=str(built / "clip"), variants=[], seeds=[], splits=["val"], steps=1,
        base_names=12, trained=None, output="",
    )  # fmt: skip
    return lambda **fields: SetUpComparison(Setup(**fields), options, 3, 2)


@pytest.fixture
def model():
    """With three coarse prototypes, of which the second and third have two fine ones each."""
    model = tiny_model(embedding_dim=8, residual_weight=0.5).eval()
    level, parent = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([-1, -1, -1, 1, 1, 2, 2])
    prototypes = PrototypePool.random(7, 0, 8).prototypes
    model.set_pool(PrototypePool(prototypes, level, parent, torch.tensor([6, 3, 1, 1, 1, 1, 1])))
    return model


def _inputs(model, count=5):
    width = model.semantic_stream.input_projection[0].normalized_shape[0]
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_sparse_lookup_reads_the_closest_prototypes_alone(model, count):
    from ablations.beginnings import closest, sparse

    stream, tables, inputs = model.semantic_stream, model.tables(), _inputs(model)
    all_weights, of_all = stream(inputs, tables)
    sparse(model, closest, count)
    log_weights, found = stream(inputs, tables)
    assert torch.equal(log_weights, all_weights)  # L_distill compares over all of them
    projected = stream.input_projection(inputs)
    best = all_weights.argmax(-1)
    of_one = stream._enhance(projected, tables.prototypes[best] * tables.lengths[best][:, None])
    torch.testing.assert_close(found, of_one if count == 1 else of_all)
    assert not torch.allclose(of_one, of_all, atol=1e-3)
    embeds, names = stream.score(inputs[None], tables)  # what inference calls
    torch.testing.assert_close(embeds[0], found)
    torch.testing.assert_close(names[0], stream.name_log_probs(found, tables)[0])


def test_the_best_two_share_the_weight(model):
    from ablations.beginnings import closest, sparse

    stream, tables, inputs = model.semantic_stream, model.tables(), _inputs(model)
    sparse(model, closest, 2)
    projected = stream.input_projection(inputs)
    log_weights, _ = look_up(projected, tables)
    best = log_weights.topk(2)
    two = (best.values.softmax(-1)[..., None] * (tables.prototypes * tables.lengths[:, None])[best.indices]).sum(1)
    torch.testing.assert_close(stream(inputs, tables)[1], stream._enhance(projected, two))


def test_fine_prototypes_are_those_of_the_closest_coarse_ones(model):
    from ablations.beginnings import coarse_then_fine

    tables = model.tables()
    log_weights = torch.tensor([[0.3, 0.2, 0.1, 0.0, 0.0, 9.0, 9.0], [0.1, 0.3, 0.2, 9.0, 0.0, 0.0, 0.0]])
    for count, expected in (
        (1, [[1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 0]]),  # a fine prototype does not choose
        (2, [[1, 1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1]]),
        (9, [[1] * 7, [1] * 7]),
    ):
        assert coarse_then_fine(log_weights, tables, count).int().tolist() == expected


def test_targets_are_what_they_say():
    from ablations.targets import bags, relations

    e, z, image = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([4, 4])
    assert relations(e, z, image).item() == pytest.approx(2 * (0 - 1) ** 2 / 4)
    assert relations(e.flip(1), e, image) == 0 and bags(e.flip(1), e, image).item() == pytest.approx(0, abs=1e-6)
    assert bags(e, z, image).item() == pytest.approx(1 - math.sqrt(0.5))
    assert bags(e, z, torch.tensor([0, 1])).item() == pytest.approx(0.5)  # two images: 0 and 1
    nothing = torch.zeros(0, 2)
    assert relations(nothing, nothing, image[:0]) == bags(nothing, nothing, image[:0]) == 0


def test_a_target_joins_the_distillation(model):
    from ablations.targets import add_target, relations

    embeds = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    embeds[3] = 0  # no region
    features = {
        "queries": _inputs(model, 4)[:, :32],
        "name_index": torch.tensor([0, -1, -1, 1]),
        "region_embeds": embeds,
        "image": torch.tensor([0, 0, 1, 1]),
    }
    pooling = model.semantic_stream.region_pooling
    features["samples"] = [torch.randn(4, p.in_channels, pooling.grid**2) for p in pooling.projections]
    if pooling.pixel_grid:
        features["samples"].append(torch.randn(4, 3, pooling.pixel_grid**2))
    before = model(semantic_features=features).loss_dict
    add_target(model, relations, 3)
    after = model(semantic_features=features).loss_dict
    stream, tables = model.semantic_stream, model.tables()
    e = stream.predict(stream(stream.gather_cached(features), tables)[1][:3], tables)[0]
    expected = before["loss_distill"] + 3 * relations(e, embeds[:3], features["image"][:3])
    torch.testing.assert_close(after["loss_distill"], expected)
    assert after["loss_align"] == before["loss_align"]


def test_the_pool_calibrates_names(model):
    from ablations.beginnings import calibrate, log_share_of

    rows = torch.eye(8)
    pool = PrototypePool(rows[:3], torch.tensor([0, 0, 1]), torch.tensor([-1, -1, 0]), torch.tensor([3, 1, 50]))
    model.set_pool(pool, Vocabulary(["a", "b", "c"], rows[[0, 1, 5]]))
    tables = model.tables()
    tables = tables._replace(scales=tables.scales._replace(name_temperature=1e-3))
    # Three quarters of the captions of coarse prototypes are a's, a quarter b's, none is c's: the least is a tenth.
    torch.testing.assert_close(log_share_of(tables).exp(), torch.tensor([2.25, 0.75, 0.1]))
    tables = model.tables()
    stream, embeds = model.semantic_stream, torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    names, background = stream.name_log_probs(embeds, tables)
    calibrate(model, 0.5)
    for training, strength in ((True, 0.5), (False, 0.5), (False, 0)):
        stream.train(training).strength = strength
        found = torch.cat([part.view(6, -1) for part in stream.name_log_probs(embeds, tables)], 1)
        expected = torch.cat([names, background[:, None]], 1)
        if not training:
            shift = F.pad(strength * log_share_of(tables), (0, 1))
            expected = (expected - shift).log_softmax(-1)
        torch.testing.assert_close(found, expected)


def test_another_number_of_queries_is_taken_from_the_same_detector(set_up):
    whole, half = set_up(), set_up(queries=0.5)
    found = {}
    for comparison in (whole, half):
        model = comparison.model(comparison.pool, {}).eval()
        pixels = comparison.dataset()[0]["pixel_values"][None]
        found[comparison] = model(pixels, min_score=0.0).objectness_logits
    assert [scores.shape[1] for scores in found.values()] == [12, 6]
    assert half.of_features == "-queries-0.5" and whole.of_features == ""
    with pytest.raises(ValueError, match=r"needs 48 queries of rt_detr.*got 20 for images of 64 x 64"):
        set_up(queries=4)


@pytest.mark.slow
def test_a_setting_knows_what_the_command_would(set_up, built):
    full = CocoAnnotations.load(built / "scenes" / "annotations" / "train_full.json")
    plain, captions, names, labels = (set_up(setting=name) for name in ("V-OVD", "C-OVD", "G-OVD", "WS-OVD"))
    assert plain.training_names == captions.training_names == plain.base and len(plain.base) == 12
    assert names.training_names == labels.training_names == [*plain.base, *plain.novel]
    for comparison in (plain, captions, names):
        assert comparison.weak_labels is None and "absent_labels" not in comparison.dataset()[0]["labels"]
    model = names.model(names.pool, {})
    assert model.vocabulary.names == names.training_names and len(names.training_names) == 240
    # Boxes are those of base names all the same.
    item, more = plain.dataset()[0]["labels"], labels.dataset()[0]["labels"]
    assert torch.equal(item["boxes"], more["boxes"]) and torch.equal(item["class_labels"], more["class_labels"])
    shown, _ = read_image_labels(built / "scenes" / "annotations" / "train_full.json")
    image = int(more["image_id"])
    absent = {labels.training_names[place] for place in more["absent_labels"].tolist()}
    assert absent == set(full.names) - set(shown[image]) and shown[image]
    assert [comparison.of_features for comparison in (plain, captions, names, labels)] == ["", "", "-G-OVD", "-WS-OVD"]
    # The pool has the captions of the three training images besides those of regions.
    assert names.pool.count.sum() == plain.pool.count.sum() == labels.pool.count.sum()
    coarse = [pool.count[pool.level == 0].sum().item() for pool in (captions.pool, plain.pool)]
    assert coarse[0] == coarse[1] + 3 * 5 and captions.pool.info["space"].keys() == plain.pool.info["space"].keys()


def test_a_pool_grows_by_what_its_teacher_sees(set_up, monkeypatch):
    from ablations import extension

    comparison = set_up()
    pool, d = comparison.pool, comparison.pool.embedding_dim
    space = {**pool.info["space"], "text_mean": [0.0] * d, "image_mean": [0.0] * d}
    pool = PrototypePool(pool.prototypes, pool.level, pool.parent, pool.count, pool.captions, {"space": space})
    coarse = len(pool) - pool.num_fine
    images = torch.eye(d)[[0, 0, 1, 2]]
    grown = extension.extended(pool, images.numpy())
    assert len(grown) == len(pool) + 3 and grown.num_fine == pool.num_fine  # three things were seen
    more = slice(coarse, coarse + 3)
    assert {int(row.argmax()): int(n) for row, n in zip(grown.prototypes[more], grown.count[more])} == {
        0: 2,
        1: 1,
        2: 1,
    }
    assert (grown.level[more] == 0).all() and (grown.parent[more] == -1).all()
    assert torch.equal(grown.prototypes[:coarse], pool.prototypes[:coarse])
    assert torch.equal(grown.parent[coarse + 3 :], pool.parent[coarse:])
    monkeypatch.setattr(extension, "CERTAIN", 0.0)
    seen = extension.seen_in(comparison, "val")
    assert seen.shape == (2 * 12, d)  # all queries of both images
    model = comparison.model(comparison.pool, {})
    extension.extend_pool(comparison, model)
    assert len(model.prototype_pool) > len(comparison.pool) and model.config.num_fine_prototypes == pool.num_fine


def test_captions_of_an_image_name_two_of_its_objects(built):
    from ablations.setups import captions_of_images

    full = CocoAnnotations.load(built / "scenes" / "annotations" / "train_full.json")
    one = full.select_images({full.images[0]["image_id"]})
    counts = captions_of_images(one)
    rows = full.annotations_by_image.arrays(full.images[0]["image_id"])["category"]
    shown = {full.names[row] for row in rows}
    assert sum(counts.values()) == 5
    for caption in counts:
        said = [part.removeprefix("an ").removeprefix("a ") for part in caption.split(" and ")]
        assert set(said) <= shown and len(set(said)) == min(2, len(shown))


def test_names_are_embedded_with_other_templates(set_up):
    plain, bare, two = set_up(), set_up(templates=("{}",)), set_up(templates=("{}", "a {}"))
    name = plain.names.names[0]
    texts = torch.from_numpy(plain.clip.embed_texts([name, f"a {name}"]))
    torch.testing.assert_close(bare.names[name], texts[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(two.names[name], F.normalize(texts.sum(0), dim=0), atol=1e-5, rtol=0)
    assert bare.names.names == plain.names.names and bare.of_features == ""
    assert torch.equal(bare.model(bare.pool, {}).vocabulary.embeddings, bare.names.select(bare.base).embeddings)


@pytest.mark.slow
def test_setups_have_features_of_their_own(built, tmp_path):
    import ablate

    words = ["run", "--data", str(built / "scenes"), "--built", str(built / "built"), "--work", str(tmp_path / "work")]
    words += ["--model", str(built / "detector"), "--clip", str(built / "clip"), "--base-names", "12"]
    words += ["--vocabulary", str(built / "names"), "--results", str(tmp_path), "--steps", "2", "--seeds", "0"]
    rows = ["g-ovd", "queries-1/2", "prompt-bare", "top-4", "relations-1", "calibrated-1"]
    assert ablate.main([*words, "--rows", *rows]) == 0
    content = json.loads((tmp_path / "scenes-12.json").read_text())
    assert set(content["runs"]) == set(rows) and "AP50_novel" in content["ceiling"]["val"]
    folders = [folder.name.partition("-")[2][12:] for folder in sorted((tmp_path / "work").glob("features-*"))]
    assert folders == ["", "-G-OVD", "-queries-0.5"]
