"""The teacher's space: how it is measured, what follows from it, and that it works for cosines like a real CLIP's.

The embeddings below have the shape of CLIP ViT-B/32: mean cosine of two texts 0.75, an image 0.27 to its right text
and 0.19 +- 0.025 to others, everything else of an image orthogonal to all texts.
"""

import math

import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import DEFAULTS, as_images, centred, look_up, mean_cosine, scales_of
from decodetr.modeling_decodetr.loss_decodetr import teacher_targets
from decodetr.modeling_decodetr.semantic_stream import SemanticStream
from decodetr.pool_builder.space import (
    choose_scales,
    describe,
    effective_number,
    lookup_temperature,
    space_without_names,
)

D = 96


def _particular(rows, seed):
    """What is particular about so many texts: unit rows of D dimensions, whose spectrum falls."""
    spectrum = torch.arange(1, D + 1).float() ** -0.3
    return F.normalize(torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)) * spectrum, dim=-1)


def _texts(particular):
    """Texts (n, D + 2) of mean cosine 0.75."""
    one = torch.ones(len(particular), 1)
    return torch.cat([0.5 * particular, 0.75**0.5 * one, 0 * one], 1)


def _images(particular, seed):
    """Images (n, D + 2) of things that are so particular, with other content."""
    n = len(particular)
    other = _particular(n, seed)
    # 0.19 from the common part, 0.08 from half of the particular one, and as much noise as other texts spread.
    content = 0.16 * particular + 0.025 / 0.5 * other * math.sqrt(D) / 2
    rest = (1 - content.square().sum(-1) - 0.0481).clamp(min=0).sqrt()
    return torch.cat([content, torch.full((n, 1), 0.2194), rest[:, None]], 1)


@pytest.fixture(scope="module")
def clip():
    """(space, pool, names) of a world of 30 names and 300 captions, ten of them in other words for a name."""
    names, captions = _particular(30, 0), _particular(300, 1)
    captions[:10] = F.normalize(names[:10] + 0.3 * captions[:10], dim=-1)
    pool = PrototypePool(_texts(captions))
    labels = torch.arange(20).repeat_interleave(20)
    regions = _images(captions.repeat(2, 1), 3)
    space = space_without_names(regions, _texts(captions.repeat(2, 1)), pool.prototypes, logit_scale=100.0)
    space |= choose_scales(space, pool.prototypes, _images(names[labels], 4), labels, _texts(names[:20]))
    return space, PrototypePool(pool.prototypes, info={"space": space}), names


def _tables(pool, names, **fields):
    model = tiny_model(embedding_dim=D + 2, **fields)
    model.set_pool(pool, Vocabulary([str(i) for i in range(len(names))], _texts(names)))
    return model, model.tables()


def test_what_was_measured_is_what_went_in(clip):
    space, pool, _ = clip
    assert space["text_cosine"] == pytest.approx(0.75, abs=0.01)
    assert space["text_cosine"] == pytest.approx(mean_cosine(pool.prototypes), abs=1e-5)
    assert space["matched_cosine"] == pytest.approx(0.27, abs=0.01)
    assert space["mismatched_cosine"] == pytest.approx(0.19, abs=0.01)
    assert 0.01 < space["mismatched_spread"] < 0.04
    assert torch.allclose(torch.tensor(space["text_mean"]), pool.prototypes.mean(0), atol=1e-6)
    assert 30 < space["effective_rank"] < D
    assert "0.27" in describe(space) and "400 regions of 20 names" in describe(space)


def test_the_teacher_names_what_has_a_name_and_nothing_else(clip):
    """Names that no annotated region had too, with defaults untouched; the paper's tau does neither."""
    _, pool, names = clip
    labels = torch.arange(30).repeat_interleave(10)
    named, nameless = _images(names[labels], 5), _images(_particular(200, 6), 7)
    own = (named @ _texts(names).T * 100).softmax(-1)[torch.arange(300), labels].mean()
    shares = {}
    paper = dict.fromkeys((name for name in DEFAULTS if name.endswith("temperature")), 0.07)
    for case, fields in (("chosen", {}), ("paper", {"centred": False, "background_level": -1, **paper})):
        _, tables = _tables(pool, names, **fields)
        taught = teacher_targets(torch.full((300,), -1), named, tables, annotation_weight=1.0)
        none = teacher_targets(torch.full((200,), -1), nameless, tables, annotation_weight=1.0)
        right = taught[1][torch.arange(300), labels].mean()
        number = torch.special.entr(taught[0]).sum(-1).exp().median()
        shares[case] = right / own, none[1][:, -1].mean(), number
    assert shares["chosen"][0] > 0.8 and shares["chosen"][1] > 0.8 and 4 < shares["chosen"][2] < 30
    assert shares["paper"][0] < 0.05 and shares["paper"][2] > 150


def test_a_student_that_is_the_names_text_scores_high(clip):
    _, pool, names = clip
    model, tables = _tables(pool, names)
    scores, background = model.semantic_stream.name_log_probs(tables.names, tables)
    assert scores.diagonal().exp().min() > 0.9 and background.exp().max() < 0.1


def test_centring_is_by_hand(clip):
    space, pool, names = clip
    _, tables = _tables(pool, names)
    mean = pool.prototypes.double().mean(0)
    for row in (0, 7):
        by_hand = _texts(names)[row].double() - mean
        assert torch.allclose(tables.names[row].double(), by_hand / by_hand.norm(), atol=1e-5)
    assert torch.allclose(tables.lengths.double(), (pool.prototypes.double() - mean).norm(dim=-1), atol=1e-5)
    assert torch.allclose(tables.image_mean, torch.tensor(space["image_mean"]))
    assert torch.equal(centred(torch.ones(1, 4) * 3, torch.zeros(4)), torch.full((1, 4), 0.5))


def test_what_the_config_says_overrules_the_space(clip):
    space, _, _ = clip
    model = tiny_model(name_temperature=0.3, background_level=-1)
    scales = scales_of(model.config, space)
    assert (scales.name_temperature, scales.background_level) == (0.3, -1)
    assert scales.teacher_temperature == space["teacher_temperature"]
    assert scales_of(model.config, None).teacher_temperature == DEFAULTS["teacher_temperature"] == 0.07
    level, margin = scales_of(tiny_model().config, space).of_texts()
    assert level == pytest.approx(space["background_level"] / space["image_cosine"])
    assert margin == pytest.approx(space["background_margin"] / space["image_cosine"])


def test_the_space_travels_with_the_model(clip, tmp_path):
    model, tables = _tables(clip[1], clip[2])
    batch = tiny_batch()["pixel_values"]
    before = model.eval()(batch).logits
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(batch).logits, before) and loaded.tables().scales == tables.scales
    assert torch.equal(loaded.tables().names, tables.names)
    pool = PrototypePool.from_pretrained(_saved(clip[1], tmp_path / "pool"))
    assert pool.info["space"] == clip[0]


def _saved(pool, folder):
    pool.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "space", [{"text_mean": [0.0] * 3}, {"name_temperature": 0}, {"background_level": math.inf}, 3]
)
def test_a_space_that_is_none_is_refused(space):
    with pytest.raises(ValueError, match="space"):
        PrototypePool(torch.eye(4), info={"space": space})


@pytest.mark.parametrize("wanted", [2, 5, 40])
def test_a_lookup_takes_as_many_prototypes_as_wanted(wanted):
    tau, number = lookup_temperature(_particular(200, 0), _particular(400, 1), wanted)
    assert number == pytest.approx(wanted, rel=0.05)
    assert effective_number(_particular(200, 0) @ _particular(400, 1).T / tau) == pytest.approx(number)
    assert lookup_temperature(_particular(50, 0), _particular(8, 1))[1] == pytest.approx(2, rel=0.05)  # a quarter


def test_captions_that_say_the_same_are_not_told_apart():
    """Ten captions for each thing: five of them would be a part of one thing."""
    images, things = _particular(200, 0), _particular(400, 1)
    tau, _ = lookup_temperature(images, things)
    said = F.normalize(things + 0.1 * _particular(4000, 2).view(10, 400, -1), dim=-1).flatten(0, 1)
    sharp, number = lookup_temperature(images, said)
    assert number == pytest.approx(5, rel=0.05) and sharp < tau / 4
    bounded, number = lookup_temperature(images, said, lowest=tau)
    assert bounded == tau and number == pytest.approx(50, rel=0.1)
    assert lookup_temperature(images, things, lowest=tau / 2)[0] == tau  # no bound where it is less sharp anyway


def test_a_teacher_says_of_a_models_own_embeddings_what_the_model_says(clip):
    """Where images have a third of a text's cosines, and lie elsewhere."""
    model, tables = _tables(clip[1], clip[2])
    embeds = F.normalize(tables.names[torch.arange(60) % 30] + 0.7 * _texts(_particular(60, 8)), dim=-1)
    with torch.no_grad():
        names, background = model.semantic_stream.name_log_probs(embeds, tables)  # its predictor is the identity
        own = torch.cat([names, background[:, None]], -1).exp()
    images = as_images(embeds, tables)
    assert torch.allclose(images.norm(dim=-1), torch.ones(60))
    taught = teacher_targets(torch.full((60,), -1), images, tables, annotation_weight=1.0)
    assert tables.scales.image_cosine < 0.8 and torch.allclose(taught[1], own, atol=0.03)
    assert torch.allclose(taught[0], look_up(embeds, tables)[0].exp(), atol=0.03)


def test_the_effective_number_by_hand():
    even = torch.zeros(3, 8)
    assert effective_number(even) == pytest.approx(8)
    half = torch.tensor([[0.5, 0.5, 0, 0]]).log()
    assert effective_number(half) == pytest.approx(2)


def test_an_mlp_as_long_as_it_likes_cannot_drown_a_bounded_lookup(clip):
    model, tables = _tables(clip[1], clip[2])
    stream: SemanticStream = model.semantic_stream
    inputs = torch.randn(5, stream.input_projection[0].normalized_shape[0])
    with torch.no_grad():
        stream.residual[-1].weight.mul_(1000)
        _, embeds = stream(inputs, tables)
    assert embeds.norm(dim=-1).max() <= 1.5 + 1e-5 and embeds.norm(dim=-1).min() >= 0.5 - 1e-5
