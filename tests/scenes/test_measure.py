"""`decodetr scenes measure`: values that are known beforehand."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_model
from torch.nn import functional as F

from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.processing import CocoAnnotations
from decodetr.scenes import measure as module
from decodetr.scenes.measure import measure, measured_table, teacher_ceiling
from decodetr.scenes.world import NAMES, SceneSettings
from decodetr.scenes.write import write_scenes

NOVEL = [name.name for name in NAMES if name.novel]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(data folder, annotations, vocabulary of orthogonal-ish codes)."""
    folder = tmp_path_factory.mktemp("world") / "data"
    write_scenes(folder, SceneSettings(train=1, val=10, test=1, image_size=64, seed=3))
    codes = F.normalize(torch.randn(len(NAMES), 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    return folder, CocoAnnotations.load(folder / "annotations/val.json"), Vocabulary([n.name for n in NAMES], codes)


def _truth(coco, vocabulary, shown):
    """Outputs of a model that finds every object and gives it the embedding of `shown(name)`; the rest is nothing."""
    n = 12
    boxes = torch.full((len(coco.images), n, 4), 0.01)
    objectness, embeds = torch.full(boxes.shape[:2], -20.0), torch.zeros(*boxes.shape[:2], 16)
    for i, image in enumerate(coco.images):
        for q, row in enumerate(coco.annotations_by_image.get(image["image_id"], ())):
            x, y, w, h = row["bbox"]
            boxes[i, q] = torch.tensor([x + w / 2, y + h / 2, w, h]) / image["width"]
            objectness[i, q] = 20.0
            name = shown(coco.names[row["category"]])
            embeds[i, q] = vocabulary.embeddings[vocabulary.names.index(name)]
    return {"pred_boxes": boxes, "objectness_logits": objectness, "semantic_embeds": embeds}


@pytest.fixture
def model():
    """A tiny model whose predictor passes r_n on, with sharp names."""
    model = tiny_model(name_temperature=0.005, num_coarse_prototypes=len(NAMES), num_fine_prototypes=0).eval()
    with torch.no_grad():
        model.semantic_stream.predictor.weight.copy_(torch.eye(16))
        model.semantic_stream.predictor.bias.zero_()
    return model


def test_a_perfect_model_scores_100_without_false_alarms(world, model, monkeypatch):
    _, coco, vocabulary = world
    model.set_pool(PrototypePool(vocabulary.embeddings))
    before = model.vocabulary.names
    monkeypatch.setattr(module, "_outputs", lambda *_: _truth(coco, vocabulary, lambda name: name))
    result = measure(model, None, coco, vocabulary, NOVEL, progress=False)
    assert result["AP50, all"] == result["AP50_novel, all"] == result["AP50_base, all"] == pytest.approx(100)
    assert result["AP50, 1"] == result["AP50, 12"] == pytest.approx(100)
    assert result["AP50_never_boxed, all"] == pytest.approx(100)
    assert result["absent, all"] == result["absent, 12"] == result["absent, 1"] == 0
    assert model.vocabulary.names == before
    # Without a prototype of any other name, everything that is found passes for the only name that there is.
    far = F.normalize(-vocabulary.embeddings.sum(0), dim=0).expand(len(NAMES), 16)
    model.set_pool(PrototypePool(far))
    result = measure(model, None, coco, vocabulary, NOVEL, progress=False)
    assert result["absent, all"] == 0 and result["absent, 1"] > 50


def test_names_taken_for_others_are_alarms_and_cost_ap(world, model, monkeypatch):
    _, coco, vocabulary = world
    wrong = {a: b for a, b in zip(vocabulary.names, [*vocabulary.names[1:], vocabulary.names[0]])}
    monkeypatch.setattr(module, "_outputs", lambda *_: _truth(coco, vocabulary, wrong.get))
    result = measure(model, None, coco, vocabulary, NOVEL, progress=False)
    objects = {
        (i, coco.names[row["category"]]) for i in coco.annotations_by_image for row in coco.annotations_by_image[i]
    }
    alarms = {(i, wrong[name]) for i, name in objects} - objects
    pairs = len(coco.images) * len(vocabulary) - len(objects)
    assert result["absent, all"] == pytest.approx(100 * len(alarms) / pairs, rel=1e-5)
    assert result["AP50, all"] < 20


def test_scores_are_those_of_the_model(world, model):
    _, coco, vocabulary = world
    pixels = torch.rand(2, 3, 64, 64)
    for names in (vocabulary.names, vocabulary.names[:12], vocabulary.names[5:6]):
        some = vocabulary.select(names)
        model.set_vocabulary(some)
        with torch.no_grad():
            outputs = model(pixels)
        assert torch.allclose(module.QueryScores(model, outputs).of(some), outputs.logits.sigmoid(), atol=1e-5)


class _Oracle:
    """A CLIP that takes a crop for the one that it resembles most, of those that it was told beforehand."""

    size = 8

    def __init__(self, embeds_of_crop):
        self.embeds_of_crop = embeds_of_crop
        self.model = type("M", (), {"logit_scale": torch.tensor(100.0).log()})()

    def embed_images(self, crops):
        known = np.array([np.frombuffer(crop, np.uint8) for crop in self.embeds_of_crop], dtype=float)
        shown = np.array([np.asarray(crop).reshape(-1) for crop in crops], dtype=float)
        nearest = np.abs(shown[:, None] - known).sum(-1).argmin(1)
        return np.stack(list(self.embeds_of_crop.values()))[nearest]


def test_the_shape_that_is_never_boxed_has_its_own_figure(world, model, monkeypatch):
    """Crescents, and nothing else, get another name."""
    _, coco, vocabulary = world
    model.set_pool(PrototypePool(vocabulary.embeddings))

    def shown(name):
        return name.replace("crescent", "circle")

    monkeypatch.setattr(module, "_outputs", lambda *_: _truth(coco, vocabulary, shown))
    result = measure(model, None, coco, vocabulary, NOVEL, progress=False)
    assert result["AP50_never_boxed, all"] == 0 and 0 < result["AP50_novel, all"] < 100


def test_ceiling_is_100_for_an_oracle_and_counts_only_found_boxes(world, model, monkeypatch):
    from decodetr.annotations.coco import read_image
    from decodetr.pool_builder.crops import crop_region

    _, coco, vocabulary = world
    embeds = {}
    for image in coco.images:
        for row in coco.annotations_by_image.get(image["image_id"], ()):
            x, y, w, h = row["bbox"]
            crop = crop_region(read_image(image["path"]), (x, y, x + w, y + h), 8)
            index = vocabulary.names.index(coco.names[row["category"]])
            embeds[crop.tobytes()] = vocabulary.embeddings[index].numpy()
    truth = _truth(coco, vocabulary, lambda name: name)
    monkeypatch.setattr(module, "_outputs", lambda *_: truth)
    result = teacher_ceiling(model, None, coco, vocabulary, NOVEL, _Oracle(embeds), progress=False)
    assert result["AP50"] == pytest.approx(100) and result["recall_novel"] == result["recall_base"] == 100
    assert result["AP50, own boxes"] == result["AP50_novel, own boxes"] == pytest.approx(100)
    truth["pred_boxes"][:5] = 0.01  # the localization stream finds nothing in half of the images
    result = teacher_ceiling(model, None, coco, vocabulary, NOVEL, _Oracle(embeds), progress=False)
    assert 20 < result["AP50"] < 80 and 20 < result["recall_base"] < 80
    assert 20 < result["AP50, own boxes"] < 80
    result = teacher_ceiling(model, None, coco, vocabulary, [], _Oracle(embeds), progress=False)
    assert np.isnan(result["recall_novel"]) and result["recall_base"] > 20


def test_table_and_command(world, model, tmp_path, monkeypatch, capsys):
    from helpers.tiny_teachers import write_tiny_clip

    from decodetr.cli import main

    folder, _, vocabulary = world
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    model.set_vocabulary(vocabulary)
    model.save_pretrained(tmp_path / "model")
    clip = write_tiny_clip(tmp_path / "clip", dim=16)
    words = ["scenes", "measure", str(folder), "--model", str(tmp_path / "model"), "--clip", str(clip)]
    assert main([*words, "--output", str(tmp_path / "m.json")]) == 0
    report = json.loads((tmp_path / "m.json").read_text())
    assert capsys.readouterr().out == measured_table(report["measured"], report["ceiling"])
    reached = ["AP50", "AP50_novel", "AP50_base", "AP50_never_boxed"]
    reached += [f"{key}, own boxes" for key in reached]
    assert set(report["ceiling"]) == {*reached, "recall_novel", "recall_base"}
    # A folder that an earlier version measured has the teacher on annotated boxes alone.
    earlier = {key: value for key, value in report["ceiling"].items() if "own boxes" not in key}
    assert measured_table(report["measured"], earlier).count("the teacher itself") == 1
