"""K-Means, fine clusters, prototypes and their captions (paper 1.5 to 1.7) against values computed by hand."""

import logging
import sys

import numpy as np
import pytest

from decodetr.pool_builder.clusters import cluster_prototypes, coarse_clusters, fine_clusters, representatives


def _directions(*degrees):
    """Unit vectors (n, 2)."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def _chord(degrees):
    return 2 * np.sin(np.deg2rad(degrees) / 2)


def _counts(*values):
    return np.array(values, dtype=np.int64)


def test_coarse_clusters_and_weighted_centroids():
    embeddings, counts = _directions(0, 90, 10, 100), _counts(3, 1, 1, 1)
    labels = coarse_clusters(embeddings, counts, 2, seed=0)
    assert labels[0] == labels[2] != labels[1] == labels[3] and set(labels) == {0, 1}
    prototypes, total = cluster_prototypes(embeddings, counts, labels)
    mean = 3 * embeddings[0] + embeddings[2]
    assert prototypes[labels[0]] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert prototypes[labels[1]] == pytest.approx(_directions(95)[0], abs=1e-6)
    assert total[labels[0]] == 4 and total[labels[1]] == 2 and prototypes.dtype == np.float32


def test_opposite_captions_have_the_most_frequent_one_as_their_prototype():
    embeddings = np.array([[1, 0], [-1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    prototypes, total = cluster_prototypes(embeddings, _counts(3, 1, 2, 1), np.array([0, 0, 0, 1]))
    assert prototypes.tolist() == [[1, 0], [0, 1]] and total.tolist() == [6, 1]


def test_coarse_clusters_follow_the_counts():
    """With a count of 1000 on 0 and 20 degrees, joining these would cost 60, joining all others 4."""
    embeddings = _directions(0, 20, 100, 120)
    a, b, c, d = coarse_clusters(embeddings, _counts(1, 1, 1, 1), 2, seed=0)
    assert a == b != c == d
    a, b, c, d = coarse_clusters(embeddings, _counts(1000, 1000, 1, 1), 2, seed=0)
    assert a != b == c == d


def _inertia(embeddings, counts, labels):
    prototypes, _ = cluster_prototypes(embeddings, counts, labels)
    return (counts * (1 - (embeddings * prototypes[labels]).sum(1))).sum() / counts.sum()


@pytest.mark.parametrize("algorithm", ["minibatch", "faiss"])
def test_other_kmeans_are_nearly_as_good_and_repeat(algorithm):
    if algorithm == "faiss":
        pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 16))
    embeddings = centres[rng.integers(0, 30, 3000)] + 0.4 * rng.normal(size=(3000, 16))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    counts = rng.integers(1, 4, 3000)
    exact = coarse_clusters(embeddings, counts, 30, seed=0, algorithm="lloyd")
    labels = coarse_clusters(embeddings, counts, 30, seed=0, algorithm=algorithm)
    assert np.array_equal(labels, coarse_clusters(embeddings, counts, 30, seed=0, algorithm=algorithm))
    assert labels.min() == 0 and 25 <= labels.max() < 30
    assert _inertia(embeddings, counts, labels) < 1.15 * _inertia(embeddings, counts, exact)
    spread = _inertia(embeddings, counts, rng.integers(0, 30, 3000))
    assert spread > 2 * _inertia(embeddings, counts, labels)


def test_faiss_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'decodetr\[faiss\]'"):
        coarse_clusters(_directions(0, 50, 90), _counts(1, 1, 1), 2, seed=0, algorithm="faiss")


def test_fewer_captions_than_coarse_clusters(caplog):
    embeddings = _directions(0, 50, 0, 90)  # two captions share an embedding
    with caplog.at_level(logging.WARNING):
        labels = coarse_clusters(embeddings, _counts(1, 1, 1, 1), 7, seed=0)
    assert labels[0] == labels[2] and sorted(set(labels.tolist())) == [0, 1, 2]
    assert "3 distinct captions, M1 asked was 7" in caplog.text


def test_fine_clusters_meet_the_budget(caplog):
    """One coarse cluster: 0 and 1 degrees, 20 and 21, 50 with count 1, 60 with count 2. Single linkage joins at 1, 1,
    10, 19 and 29 degrees, after which there are 3, 3, 2 and 1 clusters; before, only the caption of count 2 is one."""
    embeddings, counts = _directions(0, 1, 20, 21, 50, 60), _counts(1, 1, 1, 1, 1, 2)
    coarse = np.zeros(6, dtype=np.int64)
    expected = {1: ([0] * 6, 29), 2: ([0, 0, 0, 0, 1, 1], 19), 3: ([0, 0, 1, 1, 2, 2], 10)}
    for budget, (labels, degrees) in expected.items():
        found, eps = fine_clusters(embeddings, counts, coarse, budget)
        assert found.tolist() == labels and eps == pytest.approx(_chord(degrees), abs=1e-6)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        found, eps = fine_clusters(embeddings, counts, coarse, 5)
    assert found.tolist() == expected[3][0] and eps == pytest.approx(_chord(10), abs=1e-6)
    assert "the data carries 3 fine clusters, M2 asked was 5" in caplog.text
    found, eps = fine_clusters(embeddings, counts, coarse, 0)
    assert (found == -1).all() and eps is None


def test_fine_clusters_stay_inside_coarse_ones_and_are_cut_by_count():
    embeddings = _directions(0, 1, 50, 51, 100, 101)
    coarse = _counts(0, 0, 1, 1, 2, 2)
    found, eps = fine_clusters(embeddings, _counts(2, 2, 3, 2, 2, 4), coarse, 3)
    assert found.tolist() == [0, 0, 1, 1, 2, 2] and eps == pytest.approx(_chord(1), abs=1e-6)
    found, _ = fine_clusters(embeddings, _counts(2, 2, 3, 2, 2, 4), coarse, 2)
    assert found.tolist() == [-1, -1, 0, 0, 1, 1]
    found, _ = fine_clusters(embeddings, _counts(2, 2, 2, 2, 2, 2), coarse, 2)  # equal counts: the first ones stay
    assert found.tolist() == [0, 0, 1, 1, -1, -1]
    found, eps = fine_clusters(embeddings, _counts(2, 2, 3, 2, 2, 4), coarse, 6)
    assert found.tolist() == [0, 1, 2, 3, 4, 5] and eps < _chord(0.9)
    found, _ = fine_clusters(_directions(0, 1), _counts(1, 1), _counts(0, 1), 2)  # close, but of two coarse clusters
    assert found.tolist() == [-1, -1]


def test_a_lone_caption_is_its_own_fine_cluster_if_it_counts():
    found, eps = fine_clusters(_directions(0, 90, 180), _counts(2, 1, 5), _counts(0, 1, 2), 2)
    assert found.tolist() == [0, -1, 1] and eps > 0
    found, _ = fine_clusters(_directions(0, 90, 180), _counts(2, 1, 5), _counts(0, 1, 2), 1, min_samples=5)
    assert found.tolist() == [-1, -1, 0]


def test_representatives_and_ties():
    embeddings, labels = _directions(0, 10, 90, 88, 92, 45), _counts(0, 0, 1, 1, 1, -1)
    counts = _counts(1, 1, 1, 1, 1, 9)
    prototypes, _ = cluster_prototypes(embeddings, counts, labels)
    captions = ["zebra", "ant", "c", "a", "b", "noise"]
    assert representatives(embeddings, counts, captions, labels, prototypes) == ["ant", "c"]  # 0 and 10: the alphabet
    assert representatives(embeddings, _counts(2, 1, 1, 1, 1, 9), captions, labels, prototypes)[0] == "zebra"


def test_clusters_are_the_same_every_time():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(300, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    counts = rng.integers(1, 5, 300)
    first, second = (coarse_clusters(embeddings, counts, 20, seed=3) for _ in range(2))
    assert np.array_equal(first, second) and first.max() == 19
    fine, eps = fine_clusters(embeddings, counts, first, 60)
    assert fine.max() + 1 == 60 and (np.bincount(fine[fine >= 0]) > 0).all()
    for label in range(60):
        assert len(set(first[fine == label])) == 1
    again = fine_clusters(embeddings, counts, first, 60)
    assert np.array_equal(fine, again[0]) and eps == again[1]
