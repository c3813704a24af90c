"""What DBSCAN finds at every eps, from one tree: the minimum spanning tree of the mutual reachability distances.

The core distance of a caption is the least eps at which its neighbourhood has `min_samples`. Two captions reach each
other at the largest of their core distances and the distance between them. At any eps, DBSCAN's clusters of core
captions are the parts that are left of this tree without its longer edges (Campello, Moulavi and Sander 2013, the
basis of HDBSCAN), so that 33 eps cost no more than one.

Memory: the distances of up to 4,096 captions are one matrix (128 MB). Larger coarse clusters are done row by row.
"""

import numpy as np
from tqdm.auto import tqdm

_MATRIX = 4096  # captions
_BLOCK = 1024  # rows of distances at once where they are not one matrix
_SAME = 1e-12  # squared distances below this are roundings of equal rows


class DensityForest:
    """
    The trees of all coarse clusters. Made by `density_forest`.

    Attributes: edges (e, 2) and heights (e,), the least eps of each edge. core (n,), core distances.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        group: np.ndarray,
        edges: np.ndarray,
        heights: np.ndarray,
        core: np.ndarray,
        has_border: bool,
    ) -> None:
        self.embeddings, self.group, self.edges, self.heights, self.core = embeddings, group, edges, heights, core
        self._has_border = has_border

    def count(self, eps: float) -> int:
        """Number of DBSCAN's clusters."""
        return len(np.unique(self._parts(eps)[self.core <= eps]))

    def labels(self, eps: float) -> np.ndarray:
        """(n,) int64: DBSCAN's cluster of each caption, in the order of the coarse clusters and of their captions, or
        -1 for noise. A caption that is not core itself belongs to the nearest core caption within eps."""
        part, core = self._parts(eps), self.core <= eps
        rows = np.flatnonzero(core)
        rows = rows[np.argsort(self.group[rows], kind="stable")]
        _, first, number = np.unique(part[rows], return_index=True, return_inverse=True)
        labels = np.full(len(core), -1, dtype=np.int64)
        labels[rows] = np.argsort(np.argsort(first))[number]
        if self._has_border:
            for members in _members(self.group):
                self._join_border(labels, members[core[members]], members[~core[members]], eps)
        return labels

    def _join_border(self, labels, inner, outer, eps):
        if not len(inner):
            return
        points = _unit(self.embeddings[inner])
        for start in range(0, len(outer), _BLOCK):
            some = outer[start : start + _BLOCK]
            distance = _distances(_unit(self.embeddings[some]), points)
            nearest = distance.argmin(1)
            within = distance[np.arange(len(some)), nearest] <= eps
            labels[some[within]] = labels[inner[nearest[within]]]

    def _parts(self, eps):
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        edges = self.edges[self.heights <= eps]
        graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), (len(self.core),) * 2)
        return connected_components(graph, directed=False)[1]


def density_forest(embeddings: np.ndarray, counts: np.ndarray, group: np.ndarray, min_samples: int) -> DensityForest:
    """
    Args:
        embeddings (n, d): unit rows. counts (n,): regions of each caption, at least 1.
        group (n,): coarse cluster, 0..k-1. Captions of two never share a cluster.
        min_samples (int): least count in the neighbourhood of a core caption, its own included.

    Returns:
        DensityForest.
    """
    core = np.where(counts >= min_samples, 0.0, np.inf)
    trees, lengths = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for rows in tqdm(_members(group), desc="fine clusters", unit="coarse"):
        points = _unit(embeddings[rows])
        if min_samples > 2:  # up to 2, the nearest caption makes a caption core, and the tree has it
            core[rows] = _core_distances(points, counts[rows], min_samples)
        tree, length = (_tree if len(rows) <= _MATRIX else _grown_tree)(
            points, core[rows] if min_samples > 2 else np.zeros(len(rows))
        )
        trees.append(rows[tree])
        lengths.append(length)
    edges, heights = np.concatenate(trees), np.concatenate(lengths)
    if min_samples == 2:
        for end in edges.T:
            np.minimum.at(core, end, heights)
    return DensityForest(embeddings, group, edges, heights, core, has_border=min_samples > 2)


def _members(group):
    """Rows of each coarse cluster, ascending."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _distances(rows, others):
    """Euclidean distances of unit rows, float64."""
    squared = 2 - 2 * (rows @ others.T)
    squared[squared < _SAME] = 0
    return np.sqrt(squared, out=squared)


def _core_distances(points, counts, min_samples):
    core, most = np.empty(len(points)), min(min_samples, len(points))
    for start in range(0, len(points), _BLOCK):
        distance = _distances(points[start : start + _BLOCK], points)
        nearest = np.argpartition(distance, most - 1, axis=1)[:, :most]
        near = np.take_along_axis(distance, nearest, 1)
        order = np.argsort(near, axis=1, kind="stable")
        near, total = np.take_along_axis(near, order, 1), counts[np.take_along_axis(nearest, order, 1)].cumsum(1)
        enough = total >= min_samples
        found = near[np.arange(len(near)), enough.argmax(1)]
        core[start : start + _BLOCK] = np.where(enough.any(1), found, np.inf)
    return np.where(counts >= min_samples, 0.0, core)


def _tree(points, core):
    """Edges (n - 1, 2) and heights (n - 1,) of the tree, by scipy's single linkage over the matrix of distances."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    n = len(points)
    if n == 1:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    reach = _distances(points, points)
    np.maximum(reach, core[:, None], out=reach)
    np.maximum(reach, core, out=reach)
    np.fill_diagonal(reach, 0)
    finite = np.isfinite(reach)
    reach[~finite] = 4.0  # farther than any two unit vectors. Never within an eps
    merged = linkage(squareform(reach, checks=False), "single")
    leaf = np.arange(2 * n - 1)  # one caption of each node
    for i, one in enumerate(merged[:, 0].astype(np.int64).tolist()):
        leaf[n + i] = leaf[one]
    heights = np.where(merged[:, 2] >= 4.0, np.inf, merged[:, 2])
    return leaf[merged[:, :2].astype(np.int64)], heights


def _grown_tree(points, core):
    """The same by Prim's algorithm: memory for a few rows, whatever n is."""
    n = len(points)
    outside, near = np.ones(n, dtype=bool), np.full(n, np.inf)
    parent, edges, heights, row = np.zeros(n, dtype=np.int64), np.empty((n - 1, 2), dtype=np.int64), np.empty(n - 1), 0
    for i in range(n - 1):
        outside[row] = False
        reach = np.maximum(np.maximum(_distances(points[row : row + 1], points)[0], core), core[row])
        closer = outside & (reach < near)
        near[closer], parent[closer] = reach[closer], row
        candidates = np.flatnonzero(outside)
        row = candidates[near[candidates].argmin()]
        edges[i], heights[i] = (parent[row], row), near[row]
    return edges, heights
