"""From captions to prototypes (paper 1.5 to 1.7): pure functions of arrays.

Rows are *distinct* captions, n unit embeddings u (n, d) with the number of regions that got each one (`counts`). They
may lie in a file (embedding_file.py): everything but "lloyd" reads them in blocks, or one coarse cluster at a time.

DBSCAN takes no cluster count, so how M2 fine prototypes come about is ours: one eps serves all coarse clusters, chosen
from a fixed grid as the one with the fewest clusters among those that reach the budget. What exceeds it is cut by
count. What DBSCAN finds at every eps is read from one tree (density_tree.py). Equal input gives equal bytes.

The time of a tree grows with the square of its captions. Above 50,000 captions in all, a coarse cluster of more than
16,384 is therefore cut into parts by K-Means first, and no fine cluster spans two parts.
"""

import itertools
import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from decodetr.pool_builder.density_tree import EXACT, LARGEST, density_forest
from decodetr.pool_builder.embedding_file import Chosen, Embeddings

logger = logging.getLogger(__name__)

_SEEN = 5_000_000  # captions that "minibatch" looks at, all passes together, but each of them once
_RUN, _MIXED = 64, 2048  # captions that follow each other in a file, and runs of them that are shuffled together
_TRAINED = 512  # captions a centre that "faiss" looks at
_GRID = 32
_ROWS = 32768  # rows at once


def coarse_clusters(
    embeddings: Embeddings, counts: np.ndarray, num_coarse: int, seed: int, algorithm: str = "auto"
) -> np.ndarray:
    """
    K-Means of paper 1.5, each caption weighted by its count.

    Args:
        embeddings (np.ndarray or EmbeddingFile, (n, d)): unit rows, float32.
        counts (np.ndarray of shape (n,)): integers of at least 1.
        num_coarse (int): M1. With no more distinct embeddings than that, each is a cluster (fewer: a warning).
        seed (int): of the start, the only random thing here.
        algorithm (str): "lloyd" and "minibatch" are scikit-learn's, "faiss" needs `pip install 'decodetr[faiss]'`.
            "auto" is the first for up to 50,000 captions and then the second. "lloyd" holds all captions in memory,
            "faiss" 512 for each cluster. docs/benchmarks.md compares them.

    Returns:
        np.ndarray (n,) int64: cluster of each caption, 0..k-1, none empty.
    """
    if (labels := _few_distinct(embeddings, num_coarse)) is not None:
        return labels
    if algorithm == "auto":
        algorithm = "lloyd" if len(embeddings) <= EXACT else "minibatch"
    labels = {"lloyd": _lloyd, "minibatch": _minibatch, "faiss": _faiss}[algorithm](
        embeddings, counts, num_coarse, seed
    )
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _few_distinct(embeddings, most):
    """Labels by embedding if there are at most `most` distinct ones, in their order as rows, else None."""
    number, labels = {}, np.empty(len(embeddings), dtype=np.int64)
    for start in range(0, len(embeddings), _ROWS):
        block = embeddings[start : start + _ROWS]
        for place, row in enumerate(block, start):
            labels[place] = number.setdefault(row.tobytes(), len(number))
            if len(number) > most:
                return None
    found = np.frombuffer(b"".join(number), dtype=block.dtype).reshape(-1, embeddings.shape[1])
    distinct, order = np.unique(found, axis=0, return_inverse=True)
    if len(distinct) < most:
        logger.warning(
            "the data carries %d distinct captions, M1 asked was %d: every one is a coarse prototype",
            len(distinct), most,
        )  # fmt: skip
    return order.reshape(-1)[labels].astype(np.int64)


def _lloyd(embeddings, counts, num_coarse, seed):
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # threads add up in the order in which they finish
        return KMeans(num_coarse, n_init=1, random_state=seed).fit(embeddings[:], sample_weight=counts).labels_


def _minibatch(embeddings, counts, num_coarse, seed):
    from sklearn.cluster import MiniBatchKMeans

    start, rng = _start(embeddings, counts, num_coarse, seed), np.random.default_rng(seed)
    kmeans = MiniBatchKMeans(num_coarse, init=start, n_init=1, random_state=seed)
    passes = int(np.clip(_SEEN // len(embeddings), 1, 20))
    size = max(1024, 8 * num_coarse)
    batches = itertools.chain.from_iterable(_batches(len(embeddings), size, rng) for _ in range(passes))
    with tqdm(total=passes * len(embeddings), desc="K-Means", unit="captions", unit_scale=True) as bar:
        for rows in batches:
            kmeans.partial_fit(embeddings[rows], sample_weight=counts[rows])
            bar.update(len(rows))
    return _in_blocks(kmeans.predict, embeddings)


def _start(embeddings, counts, num_coarse, seed):
    """(num_coarse, d) initial centres, by k-means++ in a sample."""
    from sklearn.cluster import kmeans_plusplus

    rows = np.random.default_rng(seed).permutation(len(embeddings))[: 10 * num_coarse]
    return kmeans_plusplus(embeddings[rows], num_coarse, sample_weight=counts[rows], random_state=seed)[0]


def _batches(count, size, rng):
    """Arrays of rows, every row once, about `size` of them each. Captions in a file are in alphabetical order, and a
    batch should be like all of them: it is of many short runs, so that reading them costs little."""
    runs = rng.permutation(-(-count // _RUN))
    for some in np.array_split(runs, -(-len(runs) // _MIXED)):
        rows = (some[:, None] * _RUN + np.arange(_RUN)).ravel()
        rows = rng.permutation(rows[rows < count])
        yield from map(np.sort, np.array_split(rows, max(1, len(rows) // size)))


def _in_blocks(predict, embeddings):
    """(n,) what `predict` says of the rows, block by block."""
    starts = tqdm(range(0, len(embeddings), _ROWS), desc="assignment", unit="block")
    return np.concatenate([predict(embeddings[start : start + _ROWS]) for start in starts])


def _faiss(embeddings, counts, num_coarse, seed):
    try:
        import faiss
    except ImportError as error:
        raise ImportError("K-Means by faiss needs it: pip install 'decodetr[faiss]'") from error

    start, most = _start(embeddings, counts, num_coarse, seed), _TRAINED * num_coarse
    rows = slice(None)
    if len(embeddings) > most:
        rows = np.sort(np.random.default_rng(seed).permutation(len(embeddings))[:most])
    seen = embeddings[rows]
    settings = {"niter": 20, "max_points_per_centroid": len(seen), "min_points_per_centroid": 1}
    kmeans = faiss.Kmeans(seen.shape[1], num_coarse, **settings)
    kmeans.train(seen, weights=counts[rows].astype(np.float32), init_centroids=start)
    return _in_blocks(lambda block: kmeans.index.search(block, 1)[1][:, 0], embeddings)


def fine_clusters(
    embeddings: Embeddings,
    counts: np.ndarray,
    coarse_label: np.ndarray,
    budget: int,
    min_samples: int = 2,
    seed: int = 0,
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
        seed (int): of the K-Means that cuts large coarse clusters into parts (above).

    Returns:
        (np.ndarray (n,) int64 fine cluster of each caption or -1, ordered by coarse cluster; float eps, or None).
    """
    if budget == 0:
        return np.full(len(embeddings), -1, dtype=np.int64), None
    parts = _parts(embeddings, counts, coarse_label, seed)
    forest = density_forest(embeddings, counts, parts, min_samples)
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


def _parts(embeddings, counts, coarse_label, seed):
    """(n,) the coarse cluster of each caption, or the part of a large one, numbered in the order of the clusters."""
    large = np.flatnonzero(np.bincount(coarse_label) > LARGEST)
    if len(coarse_label) <= EXACT or not len(large):
        return coarse_label
    logger.info("%d coarse clusters have more than %d captions, and are cut into parts", len(large), LARGEST)
    part = np.zeros(len(coarse_label), dtype=np.int64)
    for cluster in large:
        rows = np.flatnonzero(coarse_label == cluster)
        part[rows] = _cut(embeddings, counts, rows, seed)
    return np.unique(coarse_label * (part.max() + 1) + part, return_inverse=True)[1].reshape(-1)


def _cut(embeddings, counts, rows, seed):
    """(m,) parts of these rows, none above LARGEST, by K-Means. Equal embeddings are cut in their order."""
    parts = -(-2 * len(rows) // LARGEST)
    labels = _minibatch(Chosen(embeddings, rows), counts[rows], parts, seed).astype(np.int64)
    labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if labels.max() == 0:
        return np.arange(len(rows)) // LARGEST
    for label, size in enumerate(np.bincount(labels)):
        if size > LARGEST:
            inside = np.flatnonzero(labels == label)
            more = _cut(embeddings, counts, rows[inside], seed)
            labels[inside] = np.where(more == 0, label, labels.max() + more)
    return labels


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
    embeddings: Embeddings, counts: np.ndarray, labels: np.ndarray
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
    for cluster in np.flatnonzero((sums == 0).all(1)):  # opposite captions have no mean; the most frequent one stands
        some = rows[labels[rows] == cluster]
        sums[cluster] = embeddings[some[counts[some].argmax()]]
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32), total


def representatives(
    embeddings: Embeddings,
    counts: np.ndarray,
    captions: list[str] | pa.Array,
    labels: np.ndarray,
    prototypes: np.ndarray,
) -> list[str]:
    """
    The caption of each cluster that is closest to its prototype. Of equally close ones (to 1e-6 in cosine) that with
    the larger count, then the first in the alphabet.

    Args:
        captions: n texts, as a list or in Arrow.

    Returns:
        list[str], one for each row of `prototypes` (k, d).
    """
    captions = captions if isinstance(captions, pa.Array) else pa.array(captions, pa.large_string())
    rows = np.flatnonzero(labels >= 0)
    cosine = np.zeros(len(rows))
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        near = prototypes[labels[some]].astype(np.float64)
        cosine[start : start + len(some)] = np.einsum("nd,nd->n", embeddings[some].astype(np.float64), near)
    alphabet = np.empty(len(captions), dtype=np.int64)
    alphabet[pc.sort_indices(captions).to_numpy()] = np.arange(len(captions))
    order = np.lexsort((alphabet[rows], -counts[rows], -np.round(cosine, 6), labels[rows]))
    _, first = np.unique(labels[rows][order], return_index=True)
    return captions.take(pa.array(rows[order][first])).to_pylist()
