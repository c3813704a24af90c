"""Which prototypes are background, after every swap of names or pool and every momentum step."""

import numpy as np
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
        assert model.tables().background.tolist() == expected
    for seed, count in enumerate([3, 2000]):
        model.set_pool(PrototypePool(_randn(count, 16, seed=seed) * 2))
        expected = _background(model.prototype_pool.prototypes, model.vocabulary.embeddings, 0.3)
        assert model.tables().background.tolist() == expected
    pool, vocabulary = PrototypePool(_randn(60, 16, seed=9)), Vocabulary(list("abcd"), _randn(4, 16, seed=10))
    model.set_pool(pool, vocabulary)
    assert model.tables().background.tolist() == _background(pool.prototypes, vocabulary.embeddings, 0.3)
    assert 10 < sum(model.tables().background.tolist()) < 50


def test_a_swapped_in_pool_is_a_copy():
    model, pool = _model(pool_update="literal", pool_momentum=0.5), PrototypePool(torch.eye(16)[:4])
    model.set_pool(pool)
    model.update_prototypes(_randn(4, 16))
    assert torch.equal(pool.prototypes, torch.eye(16)[:4])
    assert not torch.equal(model.prototype_pool.prototypes, pool.prototypes)


def test_background_is_recomputed_after_a_momentum_step():
    model = _model(pool_update="literal", pool_momentum=0.5)
    names = torch.eye(16)[:3]
    model.set_pool(PrototypePool(torch.eye(16)[8:12]))
    model.set_vocabulary(Vocabulary(NAMES, names))
    assert model.tables().background.all()
    # Texts near name 0 pull prototype 2 towards it; the other prototypes get nothing.
    sums = torch.zeros(4, 16)
    sums[2] = 5 * names[0]
    model.update_prototypes(sums)
    expected = _background(model.prototype_pool.prototypes, names, 0.3)
    assert model.tables().background.tolist() == expected == [True, True, False, True]


def test_a_frozen_pool_does_not_move():
    model = _model(pool_update="frozen")
    before = model.prototype_pool.prototypes.clone()
    model.update_prototypes(_randn(12, 16))
    assert torch.equal(model.prototype_pool.prototypes, before)


def test_momentum_step_uses_the_configured_gamma():
    model = _model(pool_update="literal", pool_momentum=0.8)
    before = model.prototype_pool.prototypes.clone()
    sums = model.prototype_pool.assignment_sums(_randn(6, 16), 0.05)
    model.update_prototypes(sums)
    by_hand = PrototypePool(before.clone())
    by_hand.update(sums, 0.8)
    assert torch.equal(model.prototype_pool.prototypes, by_hand.prototypes)
