"""A pool without boxes had its captions for names. A run chooses its temperatures again, for the names that it has."""

import numpy as np
import pytest
import torch
from helpers.clip_like import DIM, clip_images, clip_texts
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.pool_builder.space import choose_scales, describe, doubt_lookup, space_without_names
from decodetr.processing.regions import write_regions
from decodetr.training.start.space_fit import _said_twice, fit_space, named_by_captions

NAMES, EACH, WAYS = 20, 12, 4  # things, regions of each, and ways in which captions say it


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(pool, vocabulary, folder of regions): captions say each of 20 names in four ways, near to each other."""
    names = clip_texts(NAMES)
    generator = torch.Generator().manual_seed(5)
    aside = torch.randn(NAMES, WAYS, DIM, generator=generator) * (torch.arange(DIM) > 0) * 0.012
    said = F.normalize(names[:, None] + aside, dim=-1).flatten(0, 1)
    thing = torch.arange(NAMES).repeat_interleave(EACH)
    way = torch.arange(NAMES * EACH) % WAYS
    texts, images = said[thing * WAYS + way], clip_images(names[thing])
    space = space_without_names(images.numpy(), texts.numpy(), said.numpy(), logit_scale=100.0)
    labels = (texts @ said.T).argmax(1)
    space |= choose_scales(space, said, images, labels, said)
    space["asked"] = {**space["asked"], "by": "captions"}
    pool = PrototypePool(said, captions=[f"caption {i}" for i in range(len(said))], info={"space": space})
    folder = tmp_path_factory.mktemp("space") / "regions"
    words = ["a thing {} of ours", "thing {}", "some {} here", "that one"]  # only two ways have the name's words
    captions = [words[w].format(f"kind{t}") for t, w in zip(thing.tolist(), way.tolist())]
    write_regions(
        folder,
        {
            "image_id": np.arange(len(thing)),
            "file_name": ["x.jpg"] * len(thing),
            "box": np.tile([0.0, 0, 8, 8], (len(thing), 1)),
            "proposal_score": np.ones(len(thing)),
            "caption": captions,
            "image_embed": images.numpy(),
            "text_embed": texts.numpy(),
            "clip_score": (images * texts).sum(-1).numpy(),
            "kept": np.arange(len(thing)) % 5 > 0,
        },
        shard_size=100,
        embedding_dtype="float32",
    )
    return pool, Vocabulary([f"thing kind{i}" for i in range(NAMES)], names), folder


def test_captions_say_which_region_has_which_name(made):
    pool, vocabulary, _ = made
    found = {
        "captions": [
            "a thing kind0",
            "KIND1 thing!",
            "thing kind2",
            "a thing kind3",
            "thing kind4",
            "that one",
            "sky",
        ],
        "text_embeds": np.concatenate([vocabulary.embeddings[:6].numpy(), clip_texts(3, seed=9)[:1].numpy()]),
    }
    names, mean = vocabulary.embeddings.numpy(), pool.info["space"]["text_mean"]
    rows, labels = named_by_captions(found, vocabulary.names, names, mean)
    assert rows.tolist() == labels.tolist() == [0, 1, 2, 3, 4, 5], "in whatever words, but not the sky"
    nothing = {"captions": [], "text_embeds": np.zeros((0, DIM), np.float32)}
    assert [part.tolist() for part in named_by_captions(nothing, vocabulary.names, names, mean)] == [[], []]


def test_a_name_with_underscores_is_said_by_its_words(made):
    pool, vocabulary, _ = made
    near = clip_texts(NAMES)[:6]
    away = F.normalize(near + clip_texts(6, seed=9) * 0.5, dim=-1)
    found = {
        "captions": ["a traffic cone"] * 6 + ["who knows"] * 6,
        "text_embeds": torch.cat([near, away]).numpy(),
    }
    names = [f"traffic_cone{'s' * (n > 5)}" for n in range(NAMES)]
    rows, _ = named_by_captions(found, names, vocabulary.embeddings.numpy(), pool.info["space"]["text_mean"])
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_names_get_their_share_back_from_captions_that_say_the_same(made):
    pool, vocabulary, folder = made
    fitted = fit_space(pool, vocabulary, folder)
    before, after = pool.info["space"], fitted.info["space"]
    assert after["asked"]["by"] == "names in captions" and after["asked"]["names"] == NAMES
    assert after["right_name"] > before["right_name"] + 0.2, "several captions say what one name says"
    assert torch.equal(fitted.prototypes, pool.prototypes) and fitted.captions == pool.captions
    assert all(after[key] == before[key] for key in ("text_mean", "image_mean", "logit_scale"))
    assert pool.info["space"]["asked"]["by"] == "captions", "the pool that was given stays as it is"


def test_what_boxes_chose_stays_and_captions_of_other_things_choose_nothing(made):
    pool, vocabulary, folder = made
    space = pool.info["space"]
    annotated = {**space, "asked": {**space["asked"], "by": "annotations"}}
    for info in ({"space": annotated}, {"space": {**space, "asked": {"names": 3, "regions": 60}}}, {}):
        assert fit_space(PrototypePool(pool.prototypes, info=info), vocabulary, folder) is None


def test_one_name_is_chosen_for_beside_what_the_other_captions_speak_of(made):
    pool, vocabulary, folder = made
    fitted = fit_space(pool, vocabulary.select(vocabulary.names[:1]), folder)
    before, after = pool.info["space"], fitted.info["space"]
    assert after["asked"]["by"] == "names in captions"
    assert 2 <= after["asked"]["names"] <= NAMES + 1, "each of the other things once, in whatever words"
    assert after["right_name"] > before["right_name"]
    others = after["asked"]["groups"]
    assert others == after["asked"]["names"] - 1
    assert f"regions of 1 name and {others} groups of other captions" in describe(after)


def test_names_that_no_caption_speaks_of_choose_nothing(made):
    """Groups of captions alone are no training names."""
    pool, _, folder = made
    far = Vocabulary(["SKU-00412", "SKU-00413"], -pool.prototypes[:2])
    assert fit_space(pool, far, folder) is None


def test_what_temperatures_were_chosen_from_is_said(made):
    space = made[0].info["space"]
    assert f"chosen from {NAMES * EACH} regions, {NAMES * WAYS} captions in the place of names" in describe(space)
    assert doubt_lookup(space, NAMES * WAYS) is None
    wide = {**space, "looked_up": 39.6, "teacher_temperature": 4.0}
    assert "a lookup takes 40 of the 40 prototypes (temperature 4)" in doubt_lookup(wide, 40)
    assert doubt_lookup(wide, 100) is None


def test_how_near_texts_of_one_thing_are_is_read_off_captions_that_say_it_twice():
    texts = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    captions = ["red cup", "a red cup here", "dog", "cup"]
    assert _said_twice(captions, texts).tolist() == pytest.approx([0.8, 0.6, 0.96]), "and cup in red cup, twice"
    assert _said_twice(["red cup", "dog"], texts).tolist() == [1.0]
