"""Captions are held against the names of annotated regions."""

import numpy as np
import pytest
from helpers.pool_builds import build_command, read_regions
from helpers.pool_data import write_data

from decodetr import PrototypePool
from decodetr.cli import main
from decodetr.pool_builder import selection
from decodetr.pool_builder.caption_accuracy import caption_accuracy, doubt
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.stages import name_prompt


def test_every_name_counts_the_same_and_what_is_not_finite_is_wrong():
    names = np.eye(3)
    labels = np.array([0, 0, 0, 0, 1, 2])
    images = names[labels]
    captions = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0.9, 0.1], [np.nan] * 3])
    found = caption_accuracy(captions, images, labels, names)
    assert found == {"captions_right": pytest.approx((0.5 + 1 + 0) / 3), "images_right": 1.0}


@pytest.mark.parametrize(
    "names, captions, images, doubted",
    [
        (100, 0.05, 0.64, True),
        (100, 0.5, 0.64, False),
        (2, 0.6, 0.95, True),
        (2, 0.8, 0.95, False),
    ],
)
def test_captions_that_gain_less_than_half_of_what_clip_gains_are_doubted(names, captions, images, doubted):
    said = doubt({"asked": {"names": names, "regions": 1000}, "captions_right": captions, "images_right": images})
    assert (said is not None) == doubted
    if doubted:
        assert f"captions name {captions:.0%} of the annotated regions, CLIP's look at them {images:.0%}" in said
    assert doubt({"asked": {"names": names}}) is None


@pytest.mark.parametrize(
    "names, images, guessed", [(4, 0.2, True), (4, 0.27, True), (4, 0.29, False), (200, 0.02, False)]
)
def test_a_clip_that_guesses_is_doubted(names, images, guessed):
    said = doubt({"asked": {"names": names, "regions": 1000}, "captions_right": images, "images_right": images})
    assert (said is not None) == guessed
    assert not guessed or f"names {images:.0%} of them, as guessing would" in said


def test_a_build_says_how_often_captions_name_what_is_annotated(models, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(selection, "FEWEST", 2)
    monkeypatch.setattr(selection, "known_names", lambda *given, rest: np.ones(2, bool))
    assert main(build_command(write_data(tmp_path / "data"), models, tmp_path / "out")) == 0
    rows = [row for row in read_regions(tmp_path / "out") if row["name"]]
    known = sorted({row["name"] for row in rows})
    texts = ClipEmbedder(models / "clip").embed_texts([name_prompt(name) for name in known])
    space = PrototypePool.from_pretrained(tmp_path / "out" / "pool").info["space"]
    for what, column in (("captions_right", "text_embed"), ("images_right", "image_embed")):
        hits = {name: [] for name in known}
        for row in rows:
            hits[row["name"]].append(known[int(np.argmax(texts @ np.array(row[column], np.float32)))] == row["name"])
        assert space[what] == pytest.approx(np.mean([np.mean(hit) for hit in hits.values()]), abs=1e-6)
    assert doubt(space) is not None and doubt(space) in caplog.text  # a CLIP of random weights
