"""From captions to prototypes (paper 1.5 to 1.7): pure functions of numpy arrays.

Rows are *distinct* captions, n unit embeddings u (n, d) with the number of regions that got each one (`counts`).

DBSCAN takes no cluster count, so how M2 fine prototypes come about is ours: one eps serves all coarse clusters, chosen
from a fixed grid as the one with the fewest clusters among those that reach the budget. What exceeds it is cut by
count. What DBSCAN finds at every eps is read from one tree (density_tree.py). Equal input gives equal bytes.
"""

import logging

import numpy as np

from decodetr.pool_builder.density_tree import density_forest

logger = logging.getLogger(__name__)

_EXACT = 50_000  # captions up to which "auto" is "lloyd"
_SEEN = 5_000_000  # captions that "minibatch" looks at, all passes together
_GRID = 32
_ROWS = 65536  # rows in float64 at once


def coarse_clusters(
    embeddings: np.ndarray, counts: np.ndarray, num_coarse: int, seed: int, algorithm: str = "auto"
) -> np.ndarray:
    """
    K-Means of paper 1.5, each caption weighted by its count.

    Args:
        embeddings (np.ndarray of shape (n, d)): unit rows, float32.
        counts (np.ndarray of shape (n,)): integers of at least 1.
        num_coarse (int): M1. With no more distinct embeddings than that, each is a cluster (fewer: a warning).
        seed (int): of the start, the only random thing here.
        algorithm (str): "lloyd" and "minibatch" are scikit-learn's, "faiss" needs `pip install 'decodetr[faiss]'`.
            "auto" is the first for up to 50,000 captions and then the second. docs/benchmarks.md compares them.

    Returns:
        np.ndarray (n,) int64: cluster of each caption, 0..k-1, none empty.
    """
    if (labels := _few_distinct(embeddings, num_coarse)) is not None:
        return labels
    if algorithm == "auto":
        algorithm = "lloyd" if len(embeddings) <= _EXACT else "minibatch"
    labels = {"lloyd": _lloyd, "minibatch": _minibatch, "faiss": _faiss}[algorithm](
        embeddings, counts, num_coarse, seed
    )
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _few_distinct(embeddings, most):
    """Labels by embedding if there are at most `most` distinct ones, in their order as rows, else None."""
    seen = set()
    for row in embeddings:
        seen.add(row.tobytes())
        if len(seen) > most:
            return None
    distinct, labels = np.unique(embeddings, axis=0, return_inverse=True)
    if len(distinct) < most:
        logger.warning(
            "the data carries %d distinct captions, M1 asked was %d: every one is a coarse prototype",
            len(distinct), most,
        )  # fmt: skip
    return labels.reshape(-1).astype(np.int64)


def _lloyd(embeddings, counts, num_coarse, seed):
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # threads add up in the order in which they finish
        return KMeans(num_coarse, n_init=1, random_state=seed).fit(embeddings, sample_weight=counts).labels_


def _minibatch(embeddings, counts, num_coarse, seed):
    from sklearn.cluster import MiniBatchKMeans

    passes = int(np.clip(_SEEN // len(embeddings), 3, 20))
    settings = {"batch_size": max(1024, 8 * num_coarse), "max_iter": passes, "max_no_improvement": None}
    kmeans = MiniBatchKMeans(num_coarse, n_init=1, random_state=seed, **settings)
    return kmeans.fit(embeddings, sample_weight=counts).labels_


def _faiss(embeddings, counts, num_coarse, seed):
    try:
        import faiss
    except ImportError as error:
        raise ImportError("K-Means by faiss needs it: pip install 'decodetr[faiss]'") from error
    from sklearn.cluster import kmeans_plusplus

    rows = np.random.default_rng(seed).permutation(len(embeddings))[: 10 * num_coarse]
    start, _ = kmeans_plusplus(embeddings[rows], num_coarse, sample_weight=counts[rows], random_state=seed)
    settings = {"niter": 20, "max_points_per_centroid": len(embeddings), "min_points_per_centroid": 1}
    kmeans = faiss.Kmeans(embeddings.shape[1], num_coarse, **settings)
    kmeans.train(embeddings, weights=counts.astype(np.float32), init_centroids=start)
    return kmeans.index.search(embeddings, 1)[1][:, 0]


def fine_clusters(
    embeddings: np.ndarray, counts: np.ndarray, coarse_label: np.ndarray, budget: int, min_samples: int = 2
) -> tuple[np.ndarray, float | None]:
    """
    DBSCAN of paper 1.6 inside every coarse cluster, euclidean on unit vectors, at most `budget` clusters in all.

    The grid of eps has 32 quantiles of the distances at which clusters of a coarse cluster join (DBSCAN's clusters
    change at no other eps, but for captions that become core), and half the smallest one, where nothing is joined. Of
    the eps with at least `budget` clusters the one with the fewest is taken and its clusters of the largest count are
    kept. If none has, the one with most clusters, with a warning. Ties go to the larger eps: fewer captions are left
    out.

    Args:
        embeddings (n, d), counts (n,): as in [`coarse_clusters`].
        coarse_label (np.ndarray of shape (n,)): 0..k-1.
        budget (int): M2. 0 makes no fine clusters.
        min_samples (int): least count in the eps-neighbourhood of a core caption, its own included.

    Returns:
        (np.ndarray (n,) int64 fine cluster of each caption or -1, ordered by coarse cluster; float eps, or None).
    """
    if budget == 0:
        return np.full(len(embeddings), -1, dtype=np.int64), None
    forest = density_forest(embeddings, counts, coarse_label, min_samples)
    grid = _eps_grid(forest.heights)
    totals = np.array([forest.count(eps) for eps in grid])
    enough = totals >= budget
    if enough.any():
        best = totals[enough].min()
    else:
        best = totals.max()
        logger.warning("the data carries %d fine clusters, M2 asked was %d", best, budget)
    eps = grid[np.flatnonzero(totals == best)[-1]]
    return _largest(forest.labels(eps), counts, budget), float(eps)


def _eps_grid(heights):
    """(at most 33,) ascending, positive."""
    heights = heights[(heights > 0) & np.isfinite(heights)]
    if not len(heights):
        return np.ones(1)  # one embedding in each coarse cluster: any eps gives the same
    quantiles = np.quantile(heights, np.linspace(0, 1, _GRID), method="inverted_cdf")
    return np.unique(np.append(quantiles, heights.min() / 2))


def _largest(labels, counts, budget):
    """Labels with only the `budget` clusters of the largest count, renumbered in their order. The rest is -1."""
    rows = labels >= 0
    sizes = np.bincount(labels[rows], weights=counts[rows])
    kept = np.sort(np.argsort(-sizes, kind="stable")[:budget])
    new_label = np.full(len(sizes) + 1, -1, dtype=np.int64)  # the last entry is that of -1
    new_label[kept] = np.arange(len(kept))
    return new_label[labels]


def cluster_prototypes(
    embeddings: np.ndarray, counts: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The centroid of every cluster at unit length: unit( sum of count * u over its captions ).

    Returns:
        (np.ndarray (k, d) float32, np.ndarray (k,) int64 summed counts). Captions with label -1 have no part.
    """
    from scipy.sparse import csr_array

    rows = np.flatnonzero(labels >= 0)
    size = labels.max(initial=-1) + 1
    sums = np.zeros((size, embeddings.shape[1]))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        weights = csr_array((counts[some].astype(np.float64), (labels[some], np.arange(len(some)))), (size, len(some)))
        sums += weights @ embeddings[some].astype(np.float64)
    total = np.bincount(labels[rows], weights=counts[rows], minlength=size).astype(np.int64)
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32), total


def representatives(
    embeddings: np.ndarray, counts: np.ndarray, captions: list[str], labels: np.ndarray, prototypes: np.ndarray
) -> list[str]:
    """
    The caption of each cluster that is closest to its prototype. Of equally close ones (to 1e-6 in cosine) that with
    the larger count, then the first in the alphabet.

    Returns:
        list[str], one for each row of `prototypes` (k, d).
    """
    rows = np.flatnonzero(labels >= 0)
    cosine = np.zeros(len(rows))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        near = prototypes[labels[some]].astype(np.float64)
        cosine[start : start + len(some)] = np.einsum("nd,nd->n", embeddings[some].astype(np.float64), near)
    alphabet = np.empty(len(captions), dtype=np.int64)
    alphabet[sorted(range(len(captions)), key=captions.__getitem__)] = np.arange(len(captions))
    order = np.lexsort((alphabet[rows], -counts[rows], -np.round(cosine, 6), labels[rows]))
    _, first = np.unique(labels[rows][order], return_index=True)
    return [captions[row] for row in rows[order][first]]
