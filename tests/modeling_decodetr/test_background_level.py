"""`background_level`: what a name must resemble to be rather that than nothing; and the margin of the prototypes."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tables_of, tiny_config, tiny_model
from torch.nn import functional as F

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.loss_decodetr import teacher_targets
from decodetr.scenes.measure import QueryScores

LEVEL, MARGIN, TAU = 0.4, 0.05, 0.1


def _unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _softmax(row, names, prototypes, level=LEVEL, margin=MARGIN):
    """Names, then everything else as one, in double precision."""
    row, names, prototypes = (table.double().numpy() for table in (row, names, prototypes))
    over_names = np.exp(names @ row / TAU)
    rest = np.exp((prototypes @ row - margin) / TAU).sum() + np.exp(level / TAU)
    return np.array([*over_names, rest]) / (over_names.sum() + rest)


def test_teacher_by_hand():
    prototypes, names, z = _unit(5, 8), _unit(3, 8, seed=1), _unit(4, 8, seed=2)
    background = torch.tensor([True, False, True, False, True])
    tables = (PrototypePool(prototypes), Vocabulary(list("abc"), names), background, TAU)
    none = torch.full((4,), -1)
    with_level = tables_of(*tables, background_level=LEVEL, background_margin=MARGIN)
    targets = teacher_targets(none, z, with_level, annotation_weight=1.0)
    plain = teacher_targets(none, z, tables_of(*tables, background_margin=MARGIN), annotation_weight=1.0)
    assert torch.equal(targets[0], plain[0])  # nothing is looked up in the entry
    for row in range(4):
        assert np.allclose(targets[1][row], _softmax(z[row], names, prototypes[background]), atol=1e-5)
    assert (targets[1][:, -1] > plain[1][:, -1]).all()


@pytest.mark.parametrize("image_cosine", [1.0, 0.5])
def test_student_by_hand_with_the_pool_and_without(image_cosine):
    """What is compared with names is a text rather than an image: its level is that of images, divided."""
    embeds = _unit(4, 16, seed=3)
    for fields in ({}, {"pool_use": "none", "distill_weight": 0.0}):
        model = tiny_model(name_temperature=TAU, background_level=LEVEL, background_margin=MARGIN, **fields)
        pool = model.prototype_pool
        pool.info["space"] = {"image_cosine": image_cosine}
        model.set_pool(pool)
        stream, vocabulary = model.semantic_stream, model.vocabulary
        with torch.no_grad():
            names, background = stream.name_log_probs(embeds, model.tables())
            predicted = F.normalize(stream.predictor(embeds), dim=-1)
        assert model.tables().background.any() == (not fields)
        for row in range(4):
            around = pool.prototypes[model.tables().background], LEVEL / image_cosine, MARGIN / image_cosine
            expected = _softmax(predicted[row], vocabulary.embeddings, *around)
            assert np.allclose(names[row].exp(), expected[:-1], atol=1e-5)
            assert background[row].exp().item() == pytest.approx(expected[-1], abs=1e-5)


def test_it_is_measured_as_the_model_scores(tmp_path):
    """One name, far from the pool: what is below the entry scores less than half, and it survives saving."""
    model = tiny_model(background_level=LEVEL, background_threshold=1.0).eval()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.background_level == LEVEL
    some = model.vocabulary.select(model.vocabulary.names[:1])
    loaded.set_vocabulary(some)
    with torch.no_grad():
        outputs = loaded(torch.rand(2, 3, 64, 64))
    assert torch.allclose(QueryScores(loaded, outputs).of(some), outputs.logits.sigmoid(), atol=1e-5)
    predicted = F.normalize(loaded.semantic_stream.predictor(outputs.semantic_embeds), dim=-1)
    below = (predicted @ some.embeddings.T < LEVEL)[..., 0]
    assert below.any() and (outputs.logits.sigmoid()[below] < 0.5).all()


@pytest.mark.parametrize(("name", "value", "words"), [
    ("background_level", 1.5, r"a cosine in \[-1, 1\], got 1.5"),
    ("background_threshold", -2, r"a cosine in \[-1, 1\], got -2"),
    ("background_margin", -0.1, r"must lie in \[0, 2\], got -0.1"),
    ("residual_weight", 0, "must be positive, got 0"),
])  # fmt: skip
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ValueError, match=f"{name} {words}|{name} is {words}"):
        tiny_config(**{name: value})
