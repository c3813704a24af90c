"""What DBSCAN finds at every eps, from one tree: the minimum spanning tree of the mutual reachability distances.

The core distance of a caption is the least eps at which its neighbourhood has `min_samples`. Two captions reach each
other at the largest of their core distances and the distance between them. At any eps, DBSCAN's clusters of core
captions are the parts that are left of this tree without its longer edges (Campello, Moulavi and Sander 2013, the
basis of HDBSCAN), so that 33 eps cost no more than one.

Coarse clusters follow one another, so that memory is that of the largest one. The distances of up to 4,096 captions
are one matrix in float64 (128 MB). Larger clusters are done row by row, slowly, if there are up to 50,000 captions in
all, else they are one matrix in float32 (1 GB for 16,384, the most that clusters.py leaves in one).
"""

import numpy as np
from tqdm.auto import tqdm

from decodetr.pool_builder.embedding_file import Embeddings

EXACT = 50_000  # captions in all, up to which every distance is in float64
LARGEST = 16_384  # captions whose distances are one matrix in float32
_MATRIX = 4096  # captions whose distances are one matrix in float64
_BLOCK = 1024  # rows of distances at once where they are not one matrix
# Squared distances below these are roundings of equal rows. Stored in float16, rows are off by 8e-8.
_SAME, _SAME_FLOAT32 = 1e-12, 5e-7


class DensityForest:
    """
    The trees of all coarse clusters. Made by `density_forest`.

    Attributes: edges (e, 2) int32, two captions by their places in their coarse cluster, the clusters one after
    another, and heights (e,), the least eps of each edge. core (n,), core distances.
    """

    def __init__(self, embeddings: Embeddings, members: list[np.ndarray], min_samples: int) -> None:
        count = sum(map(len, members))
        self.embeddings, self.members, self._has_border = embeddings, members, min_samples > 2
        self.edges = np.empty((count - len(members), 2), dtype=np.int32)
        self.heights, self.core = np.empty(len(self.edges)), np.empty(count)

    def count(self, eps: float) -> int:
        """Number of DBSCAN's clusters. An edge within eps joins two core captions, and a tree has no circles."""
        return int((self.core <= eps).sum() - (self.heights <= eps).sum())

    def labels(self, eps: float) -> np.ndarray:
        """(n,) int64: DBSCAN's cluster of each caption, in the order of the coarse clusters and of their captions, or
        -1 for noise. A caption that is not core itself belongs to the nearest core caption within eps."""
        labels, offset, end = np.full(len(self.core), -1, dtype=np.int64), 0, 0
        for members in self.members:
            start, end = end, end + len(members) - 1
            inside = self.core[members] <= eps
            core = members[inside]
            part = _components(len(members), self.edges[start:end][self.heights[start:end] <= eps])
            _, first, number = np.unique(part[inside], return_index=True, return_inverse=True)
            labels[core] = offset + np.argsort(np.argsort(first))[number]
            offset += len(first)
            if self._has_border:
                self._join_border(labels, core, members[~inside], eps)
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


def _components(count, edges):
    """(count,) number of the part of each caption of a coarse cluster."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), dtype=bool), (edges[:, 0], edges[:, 1])), (count, count))
    return connected_components(graph, directed=False)[1]


def density_forest(embeddings: Embeddings, counts: np.ndarray, group: np.ndarray, min_samples: int) -> DensityForest:
    """
    Args:
        embeddings (n, d): unit rows, an array or a file. counts (n,): regions of each caption, at least 1.
        group (n,): coarse cluster, 0..k-1. Captions of two never share a cluster.
        min_samples (int): least count in the neighbourhood of a core caption, its own included.

    Returns:
        DensityForest.
    """
    forest, end = DensityForest(embeddings, _members(group), min_samples), 0
    for rows in tqdm(forest.members, desc="fine clusters", unit="coarse"):
        start, end = end, end + len(rows) - 1
        points, core = _unit(embeddings[rows]), np.where(counts[rows] >= min_samples, 0.0, np.inf)
        if min_samples > 2:  # up to 2, the nearest caption makes a caption core, and the tree has it
            core = _core_distances(points, counts[rows], min_samples)
        make = _tree if len(rows) <= _MATRIX else _grown_tree if len(group) <= EXACT else _wide_tree
        edges, heights = make(points, core if min_samples > 2 else np.zeros(len(rows)))
        if min_samples == 2:
            for ends in edges.T:
                np.minimum.at(core, ends, heights)
        forest.edges[start:end], forest.heights[start:end], forest.core[rows] = edges, heights, core
    return forest


def _members(group):
    """Rows of each coarse cluster, ascending."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _distances(rows, others):
    """Euclidean distances of unit rows, in their precision."""
    squared = 2 - 2 * (rows @ others.T)
    squared[squared < (_SAME if squared.dtype == np.float64 else _SAME_FLOAT32)] = 0
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


def _wide_tree(points, core):
    """The same from a matrix in float32, by Prim's algorithm."""
    n, points = len(points), points.astype(np.float32)
    reach = np.empty((n, n), dtype=np.float32)
    for start in range(0, n, _BLOCK):  # a half of it, and its mirror image
        some = slice(start, min(start + _BLOCK, n))
        reach[some, : some.stop] = _reach(points[some], points[: some.stop], core[some], core[: some.stop])
        reach[:start, some] = reach[some, :start].T
    edges, heights = _grow(n, lambda row: reach[row], np.float32)
    # Nothing is reached before it is core, by a rounding neither.
    return edges, np.maximum(heights.astype(np.float64), core[edges].max(1, initial=0))


def _grown_tree(points, core):
    """The same by Prim's algorithm with memory for a few rows, whatever n is."""
    return _grow(
        len(points), lambda row: _reach(points[row : row + 1], points, core[row : row + 1], core)[0], np.float64
    )


def _reach(rows, others, core, other_core):
    """Mutual reachability distances (n, m)."""
    reach = _distances(rows, others)
    np.maximum(reach, core[:, None], out=reach)
    return np.maximum(reach, other_core, out=reach)


def _grow(n, reach_of, dtype):
    """Edges and heights of a tree from `reach_of(row)`, the distances of a row to all."""
    outside, near, closer = np.ones(n, dtype=bool), np.full(n, np.inf, dtype=dtype), np.empty(n, dtype=bool)
    parent, edges, heights = np.zeros(n, dtype=np.int64), np.empty((n - 1, 2), dtype=np.int64), np.empty(n - 1, dtype)
    row = 0
    for i in range(n - 1):
        outside[row], near[row] = False, np.inf
        reach = reach_of(row)
        np.less(reach, near, out=closer)
        closer &= outside
        np.copyto(near, reach, where=closer)
        np.copyto(parent, row, where=closer)
        row = int(near.argmin())
        if not outside[row]:  # those that are left are never reached
            row = int(outside.argmax())
        edges[i], heights[i] = (parent[row], row), near[row]
    return edges, heights
