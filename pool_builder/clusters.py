"""From captions to prototypes (PAPER.md 1.5 to 1.7): pure functions of numpy arrays.

Rows are *distinct* captions, n unit embeddings u (n, d) with the number of regions that got each one (`counts`).

DBSCAN takes no cluster count, so how M2 fine prototypes come about is ours: one eps serves all coarse clusters, chosen
from a fixed grid as the one with the fewest clusters among those that reach the budget; what exceeds it is cut by
count. Distances are float64 and one thread does K-Means: equal input gives equal bytes.
"""

import logging

import numpy as np
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

_GRID = 32


def coarse_clusters(embeddings, counts, num_coarse, seed):
    """
    K-Means of PAPER.md 1.5, each caption weighted by its count.

    Args:
        embeddings (np.ndarray of shape (n, d)): unit rows.
        counts (np.ndarray of shape (n,)): integers of at least 1.
        num_coarse (int): M1. With no more distinct embeddings than that, each is a cluster (fewer: a warning).
        seed (int): of the k-means++ start, the only random thing here.

    Returns:
        np.ndarray (n,) int64: cluster of each caption, 0..k-1, none empty.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    distinct, labels = np.unique(embeddings, axis=0, return_inverse=True)
    if len(distinct) <= num_coarse:
        if len(distinct) < num_coarse:
            logger.warning(
                "the data carries %d distinct captions, M1 asked was %d: every one is a coarse prototype",
                len(distinct), num_coarse,
            )  # fmt: skip
        return labels.reshape(-1).astype(np.int64)
    with threadpool_limits(limits=1):  # threads add up in the order in which they finish
        kmeans = KMeans(num_coarse, n_init=1, random_state=seed).fit(embeddings, sample_weight=counts)
    return np.unique(kmeans.labels_, return_inverse=True)[1].reshape(-1).astype(np.int64)


def fine_clusters(embeddings, counts, coarse_label, budget, min_samples=2):
    """
    DBSCAN of PAPER.md 1.6 inside every coarse cluster, euclidean on unit vectors, at most `budget` clusters in all.

    The grid of eps has 32 quantiles of the distances at which single linkage joins captions of a coarse cluster (up to
    min_samples 2 the clusters change at no other eps), and half the smallest one, where nothing is joined. Of the eps
    with at least `budget` clusters the one with the fewest is taken and its clusters of the largest count are kept;
    if none has, the one with most clusters, with a warning. Ties go to the larger eps: fewer captions are left out.

    Args:
        embeddings (n, d), counts (n,): as in [`coarse_clusters`].
        coarse_label (np.ndarray of shape (n,)): 0..k-1.
        budget (int): M2; 0 makes no fine clusters.
        min_samples (int): least count in the eps-neighbourhood of a core caption, its own included.

    Returns:
        (np.ndarray (n,) int64 fine cluster of each caption or -1, ordered by coarse cluster; float eps, or None).
    """
    from sklearn.cluster import DBSCAN

    if budget == 0:
        return np.full(len(embeddings), -1, dtype=np.int64), None
    members = [np.flatnonzero(coarse_label == cluster) for cluster in range(coarse_label.max() + 1)]
    grid = _eps_grid(embeddings, members)
    labels = np.full((len(grid), len(embeddings)), -1, dtype=np.int64)
    totals = np.zeros(len(grid), dtype=np.int64)
    for rows in tqdm(members, desc="fine clusters", unit="coarse"):
        distances = _distances(embeddings[rows], square=True)
        for i, eps in enumerate(grid):
            dbscan = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed")
            found = dbscan.fit(distances, sample_weight=counts[rows]).labels_
            labels[i, rows] = np.where(found >= 0, found + totals[i], -1)
            totals[i] += found.max() + 1
    enough = totals >= budget
    if enough.any():
        best = totals[enough].min()
    else:
        best = totals.max()
        logger.warning("the data carries %d fine clusters, M2 asked was %d", best, budget)
    chosen = np.flatnonzero(totals == best)[-1]
    return _largest(labels[chosen], counts, budget), float(grid[chosen])


def cluster_prototypes(embeddings, counts, labels):
    """
    The centroid of every cluster at unit length: unit( sum of count * u over its captions ).

    Returns:
        (np.ndarray (k, d) float32, np.ndarray (k,) int64 summed counts); captions with label -1 have no part.
    """
    rows = np.flatnonzero(labels >= 0)
    size = labels.max(initial=-1) + 1
    sums = np.zeros((size, embeddings.shape[1]))
    np.add.at(sums, labels[rows], embeddings[rows].astype(np.float64) * counts[rows, None])
    total = np.zeros(size, dtype=np.int64)
    np.add.at(total, labels[rows], counts[rows])
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32), total


def representatives(embeddings, counts, captions, labels, prototypes):
    """
    The caption of each cluster that is closest to its prototype; of equally close ones (to 1e-6 in cosine) that with
    the larger count, then the first in the alphabet.

    Returns:
        list[str], one for each row of `prototypes` (k, d).
    """
    best = {}
    for row in np.flatnonzero(labels >= 0).tolist():
        label = int(labels[row])
        cosine = embeddings[row].astype(np.float64) @ prototypes[label].astype(np.float64)
        candidate = (-round(float(cosine), 6), -int(counts[row]), captions[row])
        best[label] = min(best.get(label, candidate), candidate)
    return [best[label][2] for label in range(len(prototypes))]


def _distances(embeddings, square):
    from scipy.spatial.distance import pdist, squareform

    condensed = pdist(embeddings.astype(np.float64))
    return squareform(condensed) if square else condensed


def _eps_grid(embeddings, members):
    """(at most 33,) ascending, positive."""
    from scipy.cluster.hierarchy import linkage

    heights = [np.zeros(0)]
    for rows in members:
        if len(rows) > 1:
            heights.append(linkage(_distances(embeddings[rows], square=False), "single")[:, 2])
    heights = np.concatenate(heights)
    heights = heights[heights > 0]
    if not len(heights):
        return np.ones(1)  # one embedding in each coarse cluster: any eps gives the same
    quantiles = np.quantile(heights, np.linspace(0, 1, _GRID), method="inverted_cdf")
    return np.unique(np.append(quantiles, heights.min() / 2))


def _largest(labels, counts, budget):
    """Labels with only the `budget` clusters of the largest count, renumbered in their order; the rest is -1."""
    rows = labels >= 0
    sizes = np.bincount(labels[rows], weights=counts[rows])
    kept = np.sort(np.argsort(-sizes, kind="stable")[:budget])
    new_label = np.full(len(sizes) + 1, -1, dtype=np.int64)  # the last entry is that of -1
    new_label[kept] = np.arange(len(kept))
    return new_label[labels]
