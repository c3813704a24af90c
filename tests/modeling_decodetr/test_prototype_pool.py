"""PrototypePool: lookup and momentum against formulas written out in numpy (paper 2.3, 3.4 and 3.5)."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tables_of

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import look_up


def _unit_rows(rows, dim, seed=0):
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _soft_assignment(embeddings, prototypes, temperature):
    """D_ij of paper 3.4, one number at a time, in double precision."""
    e, a = embeddings.double().numpy(), prototypes.double().numpy()
    rows = []
    for i in range(len(e)):
        powers = np.array([np.exp(_cosine(e[i], a[j]) / temperature) for j in range(len(a))])
        rows.append(powers / powers.sum())
    return np.array(rows)


# Lookup


def _lookup(pool, queries, temperature):
    names = Vocabulary(["name"], torch.ones(1, pool.embedding_dim))
    return look_up(queries, tables_of(pool, names, temperature=temperature))


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_lookup_is_a_softmax_of_cosines_and_a_weighted_sum(temperature):
    prototypes = (
        _unit_rows(7, 6) * torch.tensor([1.0, 1, 1, 1, 1, 0.5, 2])[:, None]
    )  # length must not matter for cosines
    queries = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)) * 4
    log_weights, looked_up = _lookup(PrototypePool(prototypes), queries, temperature)
    expected = _soft_assignment(queries, prototypes, temperature)
    assert np.allclose(log_weights.exp().numpy(), expected, atol=1e-5)
    # Only log-probabilities that matter: below e^-30 float32 cosines carry no information about the ratio.
    assert np.allclose(log_weights.numpy(), np.log(expected), rtol=1e-4, atol=1e-4)
    by_hand = sum(expected[:, j : j + 1] * prototypes[j].double().numpy() for j in range(7))
    assert np.allclose(looked_up.numpy(), by_hand, atol=1e-5)


def test_lookup_keeps_leading_shape_and_answers_half_precision_in_float32():
    pool = PrototypePool(_unit_rows(7, 6))
    queries = torch.randn(2, 3, 6)
    log_weights, looked_up = _lookup(pool, queries, 0.07)
    assert log_weights.shape == (2, 3, 7) and looked_up.shape == (2, 3, 6)
    flat = _lookup(pool, queries.reshape(6, 6), 0.07)[0]
    assert torch.allclose(log_weights.reshape(6, 7), flat, atol=1e-6)
    half = _lookup(pool, queries.half(), 0.07)
    assert half[0].dtype == half[1].dtype == torch.float32
    assert torch.equal(half[0], _lookup(pool, queries.half().float(), 0.07)[0])


def test_assignments_are_float32_inside_autocast():
    """A cosine rounded to bfloat16 is off by 0.004, which a temperature of 0.01 makes 0.4 in the logits."""
    pool, embeddings = PrototypePool(_unit_rows(50, 16)), _unit_rows(20, 16, seed=1)
    exact, exact_sums = _lookup(pool, embeddings, 0.01), pool.assignment_sums(embeddings, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        inside, inside_sums = _lookup(pool, embeddings, 0.01), pool.assignment_sums(embeddings, 0.01)
    for a, b in zip((*exact, exact_sums), (*inside, inside_sums)):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_nearest_prototype_takes_all_when_cold():
    pool = PrototypePool(torch.eye(4))
    log_weights, looked_up = _lookup(pool, torch.tensor([[0.1, 0.0, 0.9, 0.2]]), 0.001)
    assert log_weights.argmax() == 2 and torch.allclose(looked_up, torch.eye(4)[2:3], atol=1e-6)


# Momentum


def test_assignment_sums_by_hand():
    pool, embeddings = PrototypePool(_unit_rows(6, 5)), _unit_rows(9, 5, seed=1)
    sums = pool.assignment_sums(embeddings, 0.07)
    weights = _soft_assignment(embeddings, pool.prototypes, 0.07)
    expected = np.zeros((6, 5))
    for i in range(9):
        for j in range(6):
            expected[j] += weights[i, j] * embeddings[i].double().numpy()
    assert np.allclose(sums.numpy(), expected, atol=1e-5)


def test_assignment_sums_of_micro_batches_add_up():
    pool, embeddings = PrototypePool(_unit_rows(6, 5)), _unit_rows(9, 5, seed=1)
    whole = pool.assignment_sums(embeddings, 0.07)
    for sizes in ([4, 5], [1, 0, 8], [9]):
        parts = [pool.assignment_sums(part, 0.07) for part in embeddings.split(sizes)]
        assert torch.allclose(sum(parts), whole, atol=1e-5)


def test_no_embeddings_give_zero_sums():
    sums = PrototypePool(_unit_rows(6, 5)).assignment_sums(torch.zeros(0, 5), 0.01)
    assert sums.shape == (6, 5) and not sums.any()


def test_momentum_one_changes_nothing_and_zero_replaces():
    pool, sums = PrototypePool(torch.eye(3)), _unit_rows(3, 3, seed=1)
    pool.update(sums * 5, momentum=1.0)
    assert torch.equal(pool.prototypes, torch.eye(3))
    pool.update(sums * 5, momentum=0.0)
    assert torch.allclose(pool.prototypes, torch.nn.functional.layer_norm(sums * 5, (3,)), atol=1e-6)


def test_the_update_is_the_paper_by_hand():
    pool, embeddings = PrototypePool(_unit_rows(4, 6)), _unit_rows(9, 6, seed=1)
    before = pool.prototypes.double().numpy().copy()
    pool.update(pool.assignment_sums(embeddings, 0.07), momentum=0.99)
    weights = _soft_assignment(embeddings, torch.tensor(before), 0.07)
    for j in range(4):
        total = sum(weights[i, j] * embeddings[i].double().numpy() for i in range(9))
        mean = total.sum() / 6
        variance = ((total - mean) ** 2).sum() / 6
        normed = (total - mean) / np.sqrt(variance + 1e-5)
        assert np.allclose(pool.prototypes[j].numpy(), 0.99 * before[j] + 0.01 * normed, atol=1e-6)


def _cone(rows, dim, generator, cosine=0.59):
    """Embeddings as CLIP's are: unit vectors in a cone, any two of them with about this cosine."""
    noise = torch.randn(rows, dim, generator=generator) / dim**0.5
    noise[:, 0] = 0
    return torch.nn.functional.normalize(cosine**0.5 * torch.eye(dim)[:1] + (1 - cosine) ** 0.5 * noise, dim=-1)


def _captions_of(concepts, rows, generator, cosine=0.92):
    """Embeddings that repeat the concepts with variations, as captions of regions do."""
    chosen = concepts[torch.randint(len(concepts), (rows,), generator=generator)]
    noise = torch.nn.functional.normalize(torch.randn(chosen.shape, generator=generator), dim=-1)
    return torch.nn.functional.normalize(cosine * chosen + (1 - cosine**2) ** 0.5 * noise, dim=-1)


def test_the_paper_s_rule_collapses_a_cone():
    """Why a pool is frozen by default."""
    generator = torch.Generator().manual_seed(0)
    concepts = _cone(100, 256, generator)
    pool = PrototypePool(concepts)
    before = pool.mean_cosine()
    for _ in range(100):
        pool.update(pool.assignment_sums(_captions_of(concepts, 64, generator), 0.07), 0.99)
    assert before == pytest.approx(0.59, abs=0.03) and pool.mean_cosine() > 0.99


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_mean_cosine_by_brute_force(scale):
    prototypes = _unit_rows(13, 5) * scale
    rows = prototypes.double().numpy()
    pairs = [_cosine(rows[i], rows[j]) for i in range(13) for j in range(13) if i != j]
    assert PrototypePool(prototypes).mean_cosine() == pytest.approx(np.mean(pairs), abs=1e-6)


def test_mean_cosine_of_extremes():
    assert PrototypePool(torch.eye(6)).mean_cosine() == pytest.approx(0, abs=1e-7)
    assert PrototypePool(torch.ones(6, 4) / 2).mean_cosine() == pytest.approx(1, abs=1e-6)
    assert np.isnan(PrototypePool(torch.eye(6)[:1]).mean_cosine())


# Table


def test_the_caller_keeps_their_tensors():
    """A momentum step writes in place, so a pool must not share memory with what it was made from."""
    prototypes, sums = torch.eye(3), _unit_rows(3, 3)
    pool = PrototypePool(prototypes)
    other = PrototypePool(pool.prototypes)
    other.update(sums, momentum=0.5)
    assert torch.equal(prototypes, torch.eye(3)) and torch.equal(pool.prototypes, torch.eye(3))
    assert not torch.equal(other.prototypes, torch.eye(3))


def test_half_precision_leaves_the_table_alone():
    for convert in (
        lambda pool: pool.half(),
        lambda pool: pool.bfloat16(),
        lambda pool: pool.double(),
        lambda pool: pool.to(torch.float16),
        lambda pool: pool.to("cpu", torch.bfloat16),
        lambda pool: torch.nn.Sequential(pool, torch.nn.Linear(2, 2)).half()[0],
    ):
        pool = PrototypePool.random(2, 3, 8)
        exact = {name: buffer.clone() for name, buffer in pool.named_buffers()}
        converted = convert(pool)
        for name, buffer in converted.named_buffers():
            assert buffer.dtype == exact[name].dtype and torch.equal(buffer, exact[name]), name


def test_random_pool_has_the_asked_levels():
    pool = PrototypePool.random(3, 7, 16, generator=torch.Generator().manual_seed(0))
    assert len(pool) == 10 and pool.embedding_dim == 16
    assert pool.level.tolist() == [0] * 3 + [1] * 7
    assert pool.parent.tolist() == [-1, -1, -1, 0, 1, 2, 0, 1, 2, 0]
    assert torch.allclose(pool.prototypes.norm(dim=-1), torch.ones(10), atol=1e-6)
    assert len(PrototypePool.random(0, 4, 8)) == 4


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"prototypes": torch.randn(4)}, "must be a non-empty float tensor"),
        ({"prototypes": torch.zeros(0, 8)}, "must be a non-empty float tensor"),
        ({"prototypes": torch.ones(4, 8, dtype=torch.int64)}, "must be a non-empty float tensor, |float tensor"),
        ({"prototypes": torch.tensor([[1.0, 0], [0, float("inf")]])}, "first in row 1"),
        ({"level": torch.tensor([0, 0, 1])}, r"level must be int64 of shape \(4,\)"),
        ({"level": torch.tensor([0.0, 0, 0, 0])}, "level must be int64"),
        ({"level": torch.tensor([0, 0, 0, 2])}, "0 .coarse, parent -1. or 1"),
        ({"parent": torch.tensor([0, -1, -1, -1])}, "coarse, parent -1"),
        ({"level": torch.tensor([0, 0, 1, 1]), "parent": torch.tensor([-1, -1, 0, 2])}, "row of a coarse one"),
        ({"level": torch.tensor([0, 0, 1, 1]), "parent": torch.tensor([-1, -1, 0, 4])}, "row of a coarse one"),
        ({"level": torch.tensor([0, 0, 1, 1]), "parent": torch.tensor([-1, -1, 0, -1])}, "row of a coarse one"),
        ({"count": torch.ones(5, dtype=torch.int64)}, "count must be int64"),
        ({"captions": ["one", "two"]}, r"one entry per prototype \(4\), got 2"),
        ({"captions": "four"}, "captions"),
    ],
)
def test_pool_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        PrototypePool(**{"prototypes": torch.eye(4), **fields})
