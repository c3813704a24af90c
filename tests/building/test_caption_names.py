"""Captions as names, without those that say that there is nothing."""

import pytest
import torch
from torch.nn import functional as F

from decodetr.building.caption_names import caption_names, say_nothing
from decodetr.building.clip_detector import NOTHING
from decodetr.modeling_decodetr import PrototypePool
from decodetr.utils.shipped import resolve


def test_captions_of_the_shipped_teachers_that_say_nothing_are_no_names(tmp_path):
    pool = PrototypePool.from_pretrained(resolve("scenes-pool"))
    whole, empty = caption_names(resolve("scenes-pool"), "scenes-clip", "cpu")
    assert empty == ["a photo without an object"] and len(whole) == 187 + 1
    things = [row for row, text in enumerate(pool.captions) if "solid square" in text][:3]
    nothing = [row for row, text in enumerate(pool.captions) if text == "a part of the background"][:1]
    few = torch.tensor(things + nothing)
    some = PrototypePool(pool.prototypes[few], captions=[pool.captions[row] for row in few.tolist()])
    some.save_pretrained(tmp_path / "pool")
    names, empty = caption_names(tmp_path / "pool", "scenes-clip", "cpu")
    assert empty == ["a part of the background"] and all("square" in name for name in names)


def test_a_pool_that_says_nothing_asks_for_names(tmp_path, monkeypatch):
    pool = PrototypePool(torch.eye(66)[:2], captions=["a wall", "nothing"])
    pool.save_pretrained(tmp_path / "pool")
    monkeypatch.setattr("decodetr.building.caption_names.say_nothing", lambda rows, _: torch.ones(len(rows)) > 0)
    with pytest.raises(ValueError, match=r"what there is, got 'a wall', 'nothing'; give --names, or another"):
        caption_names(tmp_path / "pool", "scenes-clip", "cpu")


@pytest.mark.parametrize("common", [0.6, 0.85])
def test_in_a_narrow_cone_things_stay_and_nothing_goes(common):
    """As embeddings of real CLIPs lie: two texts of any kind have a cosine of `common`, paraphrases more."""
    generator = torch.Generator().manual_seed(0)

    def noise(count):
        return F.normalize(torch.randn(count, 512, generator=generator), dim=-1)

    def texts(own):
        return F.normalize(common**0.5 * cone + (1 - common) ** 0.5 * F.normalize(own, dim=-1), dim=-1)

    cone, empty, kinds = noise(1), noise(1), noise(40)
    paraphrase = 1.0  # of what a text says: as much of its own as of the meaning, a cosine of 0.5
    nothing = texts(empty + paraphrase * noise(len(NOTHING)))
    things = texts(kinds.repeat(5, 1) + paraphrase * noise(200))
    alone = texts(noise(30))  # named by no other caption
    bare = texts(kinds[:10] + 0.7 * empty + paraphrase * noise(10))  # things that are a part of something
    none = texts(empty + paraphrase * noise(20))
    rows = torch.cat([things, alone, bare, none])
    found = say_nothing(rows, nothing)
    assert not found[:240].any() and found[240:].float().mean() >= 0.9
