"""Which prototypes are background, after every swap of names or pool and every momentum step."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import NAMES, tiny_model

from decodetr import PrototypePool, Vocabulary


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _background(prototypes, names, threshold):
    """Brute force: a prototype is background if its cosine to every name is below the threshold."""
    marks = []
    for row in prototypes.double().numpy():
        cosines = [row @ name / np.linalg.norm(row) / np.linalg.norm(name) for name in names.double().numpy()]
        marks.append(max(cosines) < threshold)
    return marks


def _model(**fields):
    return tiny_model(semantic_inputs="query", background_threshold=0.3, **fields).eval()


def test_background_is_recomputed_after_every_swap():
    model = _model()
    for seed, count in enumerate([1, 2, 40]):
        model.set_vocabulary(Vocabulary([str(i) for i in range(count)], _randn(count, 16, seed=seed)))
        expected = _background(model.prototype_pool.prototypes, model.vocabulary.embeddings, 0.3)
        assert model.semantic_stream.background.tolist() == expected
    for seed, count in enumerate([3, 2000]):
        model.set_pool(PrototypePool(_randn(count, 16, seed=seed) * 2))
        expected = _background(model.prototype_pool.prototypes, model.vocabulary.embeddings, 0.3)
        assert model.semantic_stream.background.tolist() == expected
    pool, vocabulary = PrototypePool(_randn(60, 16, seed=9)), Vocabulary(list("abcd"), _randn(4, 16, seed=10))
    model.set_pool(pool, vocabulary)
    assert model.semantic_stream.background.tolist() == _background(pool.prototypes, vocabulary.embeddings, 0.3)
    assert 10 < sum(model.semantic_stream.background.tolist()) < 50


def test_a_swapped_in_pool_is_a_copy():
    model, pool = _model(pool_update="stable", pool_momentum=0.5), PrototypePool(torch.eye(16)[:4])
    model.set_pool(pool)
    model.update_prototypes(_randn(4, 16), torch.ones(4))
    assert torch.equal(pool.prototypes, torch.eye(16)[:4])
    assert not torch.equal(model.prototype_pool.prototypes, pool.prototypes)


@pytest.mark.parametrize("mode", ["stable", "literal"])
def test_background_is_recomputed_after_a_momentum_step(mode):
    model = _model(pool_update=mode, pool_momentum=0.5)
    names = torch.eye(16)[:3]
    model.set_pool(PrototypePool(torch.eye(16)[8:12]))
    model.set_vocabulary(Vocabulary(NAMES, names))
    assert model.semantic_stream.background.all()
    # Texts near name 0 pull prototype 2 towards it; the other prototypes get nothing.
    sums, mass = torch.zeros(4, 16), torch.tensor([0.0, 0, 5, 0])
    sums[2] = 5 * names[0]
    model.update_prototypes(sums, mass)
    expected = _background(model.prototype_pool.prototypes, names, 0.3)
    assert model.semantic_stream.background.tolist() == expected == [True, True, False, True]


def test_a_frozen_pool_does_not_move():
    model = _model(pool_update="frozen")
    before = model.prototype_pool.prototypes.clone()
    model.update_prototypes(_randn(12, 16), torch.ones(12))
    assert torch.equal(model.prototype_pool.prototypes, before)


def test_momentum_step_uses_the_configured_temperature_and_gamma():
    assert _model(pool_temperature=0.02, teacher_temperature=0.05).update_temperature == 0.02
    literal = _model(pool_temperature=0.02, teacher_temperature=0.05, pool_update="literal", pool_momentum=0.8)
    assert literal.update_temperature == 0.05
    before, embeddings = literal.prototype_pool.prototypes.clone(), _randn(6, 16)
    sums, mass = literal.prototype_pool.assignment_sums(embeddings, literal.update_temperature)
    literal.update_prototypes(sums, mass)
    by_hand = PrototypePool(before.clone())
    by_hand.update(sums, mass, 0.8, literal=True)
    assert torch.equal(literal.prototype_pool.prototypes, by_hand.prototypes)
