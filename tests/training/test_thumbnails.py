"""Whether a run gives its semantic stream thumbnails of regions, which it finds out where nobody says."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_models import tiny_model
from helpers.trainings import make_parts

from decodetr import DeCoDetrImageProcessor
from decodetr.training.options.options import TrainOptions
from decodetr.training.start import thumbnails
from decodetr.training.start.thumbnails import SIDE, choose_thumbnails, thumbnail_gain


@pytest.fixture
def data(scenes):
    dataset = make_parts(scenes)[1]
    return SimpleNamespace(coco=dataset.coco, regions=dataset.targets.regions)


def _options(tmp_path, **more):
    tiny_model().save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    return TrainOptions(data="d", model=str(tmp_path / "model"), reset_semantics=True, **more)


def _training(streams="semantic"):
    return SimpleNamespace(streams=streams, device=torch.device("cpu"), process_index=0)


@pytest.mark.parametrize("gain, chosen", [(thumbnails.GAIN, [f"region_pixels={SIDE}"]), (0.04, [])])
def test_thumbnails_are_chosen_where_they_tell_more(data, tmp_path, monkeypatch, caplog, gain, chosen):
    monkeypatch.setattr(thumbnails, "thumbnail_gain", lambda *given: (0.5, gain))
    start, before = _options(tmp_path), torch.get_rng_state()
    options = choose_thumbnails(start, _training(), data)
    assert options.set == chosen
    assert torch.equal(torch.get_rng_state(), before), "what is chosen starts like what is said"
    assert f"a cosine of 0.50, and {0.5 + gain:.2f} with a thumbnail" in caplog.text


def test_what_was_said_or_cannot_learn_is_not_asked(data, tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "thumbnail_gain", lambda *given: pytest.fail("asked"))
    options = _options(tmp_path)
    for said in ("region_pixels=0", "region_pixels=8", "semantic_inputs=query"):
        assert choose_thumbnails(replace(options, set=[said]), _training(), data).set == [said]
    assert choose_thumbnails(options, _training("localization"), data) is options
    assert choose_thumbnails(replace(options, reset_semantics=False), _training(), data).set == []
    assert choose_thumbnails(options, _training(), SimpleNamespace(coco=data.coco, regions=None)) is options


def test_a_view_that_only_pixels_tell_is_guessed_from_them_alone():
    """Regions whose embedding is that of a pattern in the thumbnail, which queries and maps do not see."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(4, (400,), generator=generator)
    learned = torch.arange(400) < 280
    target = torch.nn.functional.one_hot(kind, 4).float() - 0.25
    target = torch.nn.functional.normalize(target, dim=-1)
    pixels = torch.randn(4, 27, generator=generator)[kind] + 0.1 * torch.randn(400, 27, generator=generator)
    blind, seeing = (
        thumbnails._distances(part, learned) for part in (torch.rand(400, 9, generator=generator), pixels)
    )
    assert thumbnails._guessed([blind, blind], target, learned) < 0.2
    assert thumbnails._guessed([blind, blind, seeing], target, learned) > 0.9


def test_the_gain_is_the_same_each_time_and_unknown_with_few_regions(data, monkeypatch):
    model = tiny_model(embedding_dim=data.regions.embedding_dim, region_pixels=SIDE, region_iou_threshold=0.05).eval()
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    monkeypatch.setattr(thumbnails, "_FEWEST", 2)
    first = thumbnail_gain(model, processor, data.coco, data.regions)
    assert first == thumbnail_gain(model, processor, data.coco, data.regions)
    assert -1 <= first[0] <= 1 and -1 <= first[0] + first[1] <= 1
    monkeypatch.setattr(thumbnails, "_FEWEST", 10_000)
    assert thumbnail_gain(model, processor, data.coco, data.regions) is None
