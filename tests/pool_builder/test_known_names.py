"""Names that CLIP does not know do not decide on the temperatures of those that it knows."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.clip_like import clip_images, clip_texts
from helpers.pool_builds import build_command
from helpers.pool_data import write_data
from helpers.tiny_teachers import write_tiny_clip
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.inference.names import embed_names
from decodetr.pool_builder import selection
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.known_names import doubt_names, known_names
from decodetr.pool_builder.selection import measure_space
from decodetr.pool_builder.space import space_without_names
from decodetr.pool_builder.stages import embedding_array, name_prompt

NAMES = 60


def _regions(each, seed=1):
    """(space, images, labels, names): a clip-like space, and so many regions of every name."""
    names, labels = clip_texts(NAMES), np.repeat(np.arange(NAMES), each)
    images = clip_images(names[labels], seed)
    space = space_without_names(images.numpy(), names[labels].numpy(), names.numpy())
    return space, images.numpy(), labels, names.numpy()


def _meaningless(names, share):
    """(which, names (K, d)): so many of them have the texts of other things."""
    which = torch.rand(len(names), generator=torch.Generator().manual_seed(3)).numpy() < share
    return which, np.where(which[:, None], clip_texts(len(names), seed=9).numpy(), names)


@pytest.mark.parametrize("each", [2, 20])
@pytest.mark.parametrize("share", [0.15, 0.3, 1.0])
def test_meaningless_names_are_found(share, each):
    space, images, labels, names = _regions(each)
    which, names = _meaningless(names, share)
    known = known_names(space, images, labels, names)
    assert (known & which).sum() <= max(0.2 * which.sum(), 1) and (~known & ~which).sum() <= 0.05 * NAMES


@pytest.mark.parametrize("each", [2, 20])
def test_names_that_clip_knows_are_all_kept(each):
    for seed in range(5):
        assert known_names(*_regions(each, seed)).all()


def test_near_synonyms_and_weak_names_are_kept():
    """Pairs of names with nearly the same text, and a name whose regions are half of other things."""
    space, _, labels, names = _regions(10)
    names[1::2] = F.normalize(torch.from_numpy(names[::2] + 0.1 * names[1::2]), dim=-1).numpy()
    images = clip_images(torch.from_numpy(names[labels])).numpy()
    images[:5] = clip_images(clip_texts(5, seed=4)).numpy()
    assert known_names(space, images, labels, names).all()


def test_a_single_name_is_compared_with_regions_that_have_none():
    """Without it nobody would say that a part code alone means nothing."""
    space, images, labels, names = _regions(10)
    mine, rest = images[labels == 0], images[labels > 0]
    right, other = names[:1], F.normalize(torch.from_numpy(names[7:8]) - torch.from_numpy(names[:1]), dim=-1).numpy()
    alone = np.zeros(len(mine), dtype=np.int64)
    assert known_names(space, mine, alone, right, rest=rest).all()
    assert not known_names(space, mine, alone, other, rest=rest).any()
    assert known_names(space, mine, alone, other).all()  # nothing to compare it with


def test_a_name_is_measured_by_the_text_that_its_vocabulary_has(tmp_path):
    clip = ClipEmbedder(write_tiny_clip(tmp_path / "clip"))
    made = embed_names(["salt_and_pepper"], tmp_path / "clip", device="cpu", underscores_to_spaces=True)
    (measured,) = clip.embed_texts([name_prompt("salt_and_pepper")])
    assert name_prompt("salt_and_pepper") == "a photo of a salt and pepper."
    assert measured == pytest.approx(made.embeddings[0].numpy(), abs=1e-6)


class _Stage:
    """A finished stage of one shard, as columns."""

    count = 1

    def __init__(self, **columns):
        self.columns = columns

    def read(self, shard, names):
        found = {name: self.columns[name] for name in names}
        return pa.table({name: embedding_array(rows) if rows.ndim > 1 else rows for name, rows in found.items()})


def _stages(share):
    """(regions, texts, pool, which names are meaningless, names, right embeddings of them)."""
    _, images, labels, right = _regions(5)
    which, embeds = _meaningless(right, share)
    names = np.array([f"name {i:02}" for i in range(NAMES)], dtype=object)
    said = right[labels]
    regions = _Stage(kept=np.ones(len(labels), bool), name=names[labels], image_embed=images, text_embed=said)
    prompts = np.array([name_prompt(name) for name in names], dtype=object)
    pool = PrototypePool(torch.from_numpy(right), level=torch.zeros(NAMES, dtype=torch.int64))
    return regions, _Stage(caption=prompts, text_embed=embeds), pool, which, names, right


def test_a_few_unknown_names_leave_the_temperatures_as_they_are():
    good = measure_space(*_stages(0.0)[:3])
    regions, texts, pool, which, names, right = _stages(0.15)
    mixed = measure_space(regions, texts, pool)
    assert "unknown_names" not in good and doubt_names(good) is None
    assert set(mixed["unknown_names"]) == set(names[which])
    assert mixed["asked"]["by"] == "annotations" and mixed["asked"]["names"] == NAMES - which.sum()
    assert mixed["name_temperature"] == pytest.approx(good["name_temperature"], rel=0.2)
    assert f"not know {which.sum()} of the annotated names ('{names[which][0]}'" in doubt_names(mixed)
    assert "chosen from the other names" in doubt_names(mixed)
    vocabulary = Vocabulary(list(names), torch.from_numpy(right))
    mended = measure_space(regions, texts, pool, vocabulary=vocabulary)
    assert "unknown_names" not in mended
    assert mended["name_temperature"] == pytest.approx(good["name_temperature"], rel=1e-2)


def test_where_most_names_are_unknown_captions_stand_in():
    regions, texts, pool, *_ = _stages(1.0)
    space = measure_space(regions, texts, pool)
    alone = measure_space(regions, texts, pool, among=["nothing"])
    assert space["asked"]["by"] == "captions" and len(space["unknown_names"]) > 0.9 * NAMES
    assert space["name_temperature"] == alone["name_temperature"] < 0.3
    assert "captions_right" not in space and "chosen from captions" in doubt_names(space)


def test_the_check_is_made_of_one_annotated_name_too():
    regions, texts, pool, _, names, right = _stages(0.0)
    regions.columns["name"] = np.array([""] * 40 + [names[0]] * 260, dtype=object)
    regions.columns["image_embed"] = clip_images(torch.from_numpy(right[[0] * 40 + [1] * 260])).numpy()
    space = measure_space(regions, texts, pool)
    assert space["unknown_names"] == [names[0]], "the nameless regions are more like its text than its own are"
    assert space["asked"]["by"] == "captions" and "not know 1 of the annotated names" in doubt_names(space)


def test_a_vocabulary_says_what_names_mean(models, tmp_path, monkeypatch, caplog):
    """The command takes it, if it is of the pool's CLIP, and asks by its texts."""
    monkeypatch.setattr(selection, "FEWEST", 2)
    asked, none = [], np.zeros(2, bool)
    monkeypatch.setattr(selection, "known_names", lambda *given, rest: asked.append(given[-1]) or none)
    build = build_command(write_data(tmp_path / "data"), models, tmp_path / "out")
    assert main(build) == 0 and "CLIP does not know" in caplog.text
    space = PrototypePool.from_pretrained(tmp_path / "out" / "pool").info["space"]
    name = space["unknown_names"][1]
    (tmp_path / "names.json").write_text(json.dumps({name: "a small animal that says miaow"}))
    words = ["vocabulary", "build", "--names-file", str(tmp_path / "names.json"), "--output", str(tmp_path / "names")]
    assert main([*words, "--clip", str(models / "clip")]) == 0
    told = Vocabulary.from_pretrained(tmp_path / "names")[name].numpy()
    cluster = ["pool", "cluster", "--output", str(tmp_path / "out"), "--num-coarse", "5", "--num-fine", "3"]
    for command in (cluster, build):
        assert main([*command, "--vocabulary", str(tmp_path / "names")]) == 0
        assert np.array_equal(asked[-1][1], told) and not np.allclose(asked[0][1], told)
        assert np.array_equal(np.delete(asked[0], 1, 0), np.delete(asked[-1], 1, 0))
    other = Vocabulary([name], torch.from_numpy(told)[None], {"encoder": "another", "encoder_fingerprint": "1"})
    other.save_pretrained(tmp_path / "other")
    caplog.clear()
    assert main([*cluster, "--vocabulary", str(tmp_path / "other")]) != 0
