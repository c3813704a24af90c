"""One tree instead of DBSCAN at every eps, against scikit-learn's DBSCAN."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from decodetr.pool_builder import density_tree
from decodetr.pool_builder.density_tree import density_forest


def _data(n=240, groups=5, seed=0):
    """Clumps on the sphere, some points twice."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(24, 6))
    points = centres[rng.integers(0, 24, n)] + rng.normal(scale=rng.uniform(0.02, 0.3, n)[:, None], size=(n, 6))
    points[::17] = points[1::17][: len(points[::17])]
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return points, rng.integers(1, 4, n), rng.integers(0, groups, n)


def _dbscan(points, counts, group, eps, min_samples):
    """scikit-learn's labels, group by group, and which points are core."""
    labels, core, offset = np.full(len(points), -1), np.zeros(len(points), dtype=bool), 0
    for number in range(group.max() + 1):
        rows = np.flatnonzero(group == number)
        found = DBSCAN(eps=eps, min_samples=min_samples).fit(
            points[rows].astype(np.float64), sample_weight=counts[rows]
        )
        labels[rows] = np.where(found.labels_ >= 0, found.labels_ + offset, -1)
        core[rows[found.core_sample_indices_]] = True
        offset += found.labels_.max() + 1
    return labels, core


@pytest.mark.parametrize("min_samples", [1, 2, 3, 6])
# All by matrices; the larger groups row by row; the larger groups by matrices in float32.
@pytest.mark.parametrize("matrix, exact", [(4096, 50_000), (20, 50_000), (20, 0)])
def test_every_eps_gives_what_dbscan_gives(monkeypatch, min_samples, matrix, exact):
    monkeypatch.setattr(density_tree, "_MATRIX", matrix)
    monkeypatch.setattr(density_tree, "EXACT", exact)
    monkeypatch.setattr(density_tree, "_BLOCK", 32)
    points, counts, group = _data()
    forest = density_forest(points, counts, group, min_samples)
    sizes = set()
    for eps in (0.01, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0):
        expected, core = _dbscan(points, counts, group, eps, min_samples)
        labels = forest.labels(eps)
        assert np.array_equal(forest.core <= eps, core)
        assert np.array_equal(labels[core], expected[core])
        assert np.array_equal(labels >= 0, expected >= 0)  # at an edge, DBSCAN takes the first cluster that comes
        for row in np.flatnonzero(~core & (labels >= 0)):
            near = np.flatnonzero(core & (group == group[row]))
            assert labels[row] == labels[near[np.linalg.norm(points[near] - points[row], axis=1).argmin()]]
        assert forest.count(eps) == expected.max() + 1
        sizes.add(forest.count(eps))
    assert len(sizes) > 4


def test_equal_points_are_at_distance_zero_and_lone_ones_have_no_edge():
    points = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
    forest = density_forest(points, np.ones(4, dtype=np.int64), np.array([0, 0, 1, 2]), 2)
    assert forest.heights.tolist() == [0] and forest.edges.tolist() == [[0, 1]]
    assert forest.core.tolist() == [0, 0, np.inf, np.inf] and forest.labels(5.0).tolist() == [0, 0, -1, -1]
    forest = density_forest(points, np.full(4, 2), np.array([0, 0, 1, 2]), 5)  # nobody can ever be core
    assert forest.labels(5.0).tolist() == [-1] * 4 and forest.count(5.0) == 0
