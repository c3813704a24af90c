"""Peers are given what their processors would make, at the sizes that were published."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForZeroShotObjectDetection

from decodetr.speed import catalog
from decodetr.speed.peers import CachedOmDetTurbo, GroundingDino, OmDetTurbo, _config, best_pairs, peers_of

CPU = torch.device("cpu")
PICTURES = [Image.new("RGB", (128, 96), (200, 30, 60))]


def _peers(name):
    with torch.inference_mode():
        return peers_of(name, None, CPU, torch.float32)


def _watch(monkeypatch, module):
    """What a module is called with from now on."""
    seen = []
    real = module.forward

    def forward(*args, **kwargs):
        seen.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "forward", forward)
    return seen


@pytest.mark.parametrize("name", catalog.PEERS)
def test_a_peer_has_as_many_parameters_as_were_published(name):
    with torch.device("meta"):
        model = AutoModelForZeroShotObjectDetection.from_config(_config(name, None))
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    assert millions == pytest.approx(catalog.PEERS[name].published, rel=0.006)


@pytest.mark.parametrize("count, passes", [(1, 1), (80, 1), (1203, 15), (10000, 120)])
def test_prompts_of_grounding_dino_hold_256_tokens(count, passes):
    module = nn.Linear(1, 1)
    module.config = SimpleNamespace(max_text_len=256, text_config=SimpleNamespace(vocab_size=30522))
    peer = GroundingDino("", "peer", module, None)
    peer.set_names(count, batch_size=2)
    assert len(peer.texts) == passes
    lengths = [text["input_ids"].shape for text in peer.texts]
    assert all(images == 2 and length <= 256 for images, length in lengths)
    stops = [int((text["input_ids"][0] == 1012).sum()) for text in peer.texts]
    assert sum(stops) == count  # a full stop after each name
    if count == 80:
        assert lengths == [(2, 2 + 80 * 2 + 80)]
    ids = peer.texts[0]["input_ids"][0].tolist()
    assert ids[0] == 101 and ids[-1] == 102
    # The weights of a name are the mean of its tokens, which stand where the spans say.
    weights, first = peer.spans[-1]
    assert first == count - stops[-1] and torch.allclose(weights.sum(0), torch.ones(stops[-1]))
    covered = [ids for ids, weight in zip(peer.texts[-1]["input_ids"][0].tolist(), weights.sum(1)) if weight > 0]
    assert not {101, 102, 1012} & set(covered)


def test_best_pairs_are_those_of_the_highest_scores():
    scores = torch.tensor([[[0.1, 0.9], [0.8, 0.2]]])
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2]]])
    (found,) = best_pairs(scores, boxes, [(100, 200)])
    assert found["scores"].tolist() == pytest.approx([0.9, 0.8, 0.2, 0.1])
    assert found["labels"].tolist() == [1, 0, 1, 0]
    assert found["boxes"][0].tolist() == [0, 0, 200, 100]
    assert found["boxes"][1].tolist() == pytest.approx([0, 40, 100, 60])


def test_grounding_dino_is_called_once_a_prompt_and_keeps_the_best_of_all(tiny, monkeypatch):
    (peer,) = _peers("grounding-dino")
    with torch.inference_mode():
        peer.set_names(20, 1)
        seen = _watch(monkeypatch, peer.module)
        (found,) = peer.detect(PICTURES)
        assert len(seen) == len(peer.texts) == 3  # of 24 tokens each
        assert all(call["pixel_values"].shape == (1, 3, 96, 128) and "pixel_mask" in call for call in seen)
        assert found["scores"] == sorted(found["scores"], reverse=True) and len(found["scores"]) == 100
        assert set(found["labels"]) <= set(range(20)) and max(found["labels"]) > 7
        singles = []
        for text, span in zip(peer.texts, peer.spans):
            peer.texts, peer.spans = [text], [span]
            singles += peer.detect(PICTURES)[0]["scores"]
    assert found["scores"] == pytest.approx(sorted(singles, reverse=True)[:100])


def test_owlv2_with_and_without_embedded_names_finds_the_same(tiny, monkeypatch):
    plain, embedded = _peers("owlv2")
    with torch.inference_mode():
        for peer in (plain, embedded):
            peer.set_names(5, 2)
        encoded = _watch(monkeypatch, plain.module.owlv2.text_model)
        embedded.once_for_names()
        assert len(encoded) == 1
        expected = plain.detect(PICTURES * 2)
        assert len(encoded) == 2 and encoded[1]["input_ids"].shape == (10, 77)  # five names for each picture
        found = embedded.detect(PICTURES * 2)
        assert len(encoded) == 2
    for one, other in zip(found, expected):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert sorted(one["labels"]) == sorted(other["labels"])
    # The picture is padded to a square below: boxes reach down to its longer side.
    assert max(box[3] for box in found[0]["boxes"]) > 96


def test_omdet_turbo_embeds_its_names_in_every_call_or_once(tiny, monkeypatch):
    off, on = _peers("omdet-turbo")
    assert type(off) is OmDetTurbo and type(on) is CachedOmDetTurbo
    with torch.inference_mode():
        encoded = []
        backbone = off.module.language_backbone
        real = backbone.forward
        monkeypatch.setattr(
            backbone, "forward", lambda ids, **words: (encoded.append(len(ids)), real(ids, **words))[1]
        )
        on.set_names(120, 1)
        on.once_for_names()
        assert encoded == [120, 1]  # names, and the task that lists them
        cached = on.detect(PICTURES)
        assert encoded == [120, 1]  # though the library's own cache has room for 100
        off.set_names(120, 1)
        assert off.detect(PICTURES) == cached and encoded == [120, 1] * 2
        off.detect(PICTURES)
        assert encoded == [120, 1] * 3
        text = off.texts[0]
    assert text["classes_input_ids"].shape == (120, 77) and text["tasks_input_ids"].shape == (1, 77)
    assert text["classes_structure"].tolist() == [120]
    ids = text["classes_input_ids"]
    assert (ids[:, 0] == 512).all() and (ids.max(dim=1).values == 513).all()  # a start, and an end that is the largest
