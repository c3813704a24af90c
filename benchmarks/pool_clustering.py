"""Clustering a pool of the size of LVIS and beyond: time, memory and inertia of each K-Means, of the clusters inside.

    python benchmarks/pool_clustering.py                          # 100 k to 1.27 M captions, M1 = 1203, M2 = 4800
    python benchmarks/pool_clustering.py --sizes 20000 --methods lloyd faiss
    python benchmarks/pool_clustering.py --sizes 10000000 --methods minibatch sample --folder DISK    # 10.3 GB of disk

Captions are unit vectors of 512 dimensions in float16, in a file: 20,000 concepts in 600 families, their sizes falling
as in a list of words, in a cone as CLIP's texts lie in one. They are drawn in blocks, and read in blocks by everything
but `lloyd`, `plain` and the sample of `sample`. Every method runs in a separate process, so that its peak memory
is measured alone. Processes follow one another. `plain` is the same work as one would write it with scikit-learn:
KMeans on all threads, DBSCAN in each cluster at the eps that ours chose. `sample` is K-Means to its end, by
scikit-learn's KMeans, over 100,000 captions in memory, and nothing else: its inertia is what a fit of a sample gives
to all captions. The table also has the arithmetic: the operations that no method of this kind can do without, at the
speed at which this machine multiplies matrices. Inertia is the mean over 200,000 captions at equal distances in the
file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

METHODS = ("minibatch", "faiss", "lloyd", "plain", "sample")
FAMILIES, CONCEPTS, BLOCK = 600, 20_000, 65_536
SAMPLE, SCORED = 100_000, 200_000  # captions that `sample` fits, and of which the inertia is the mean


def write_captions(file, n, dim=512, seed=0):
    """n unit vectors (n, dim), float16, into a .npy file."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def normal(rows):
        return rng.standard_normal((rows, dim), dtype=np.float32) / np.float32(dim**0.5)

    families = normal(FAMILIES)
    concepts = 0.8 * families[rng.integers(0, FAMILIES, CONCEPTS)] + 0.6 * normal(CONCEPTS)
    concepts = 0.9 * normal(1) + 0.7 * concepts
    share = 1 / np.arange(1, CONCEPTS + 1) ** 0.8
    captions = np.lib.format.open_memmap(file, "w+", np.float16, (n, dim))
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        rows = normal(size)
        rows *= 0.35
        rows += concepts[rng.choice(CONCEPTS, size, p=share / share.sum())]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        captions[start : start + BLOCK] = rows
    captions.flush()


def run_one(args):
    """One method in this process: a dict of seconds, peak memory and quality."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from decodetr.pool_builder.clusters import cluster_prototypes, coarse_clusters, fine_clusters, representatives
    from decodetr.pool_builder.embedding_file import EmbeddingFile
    from decodetr.speed.machine import peak_gb

    stored = np.load(args.captions, mmap_mode="r")
    file = open(args.captions, "rb", buffering=0)
    embeddings = EmbeddingFile(file, stored.shape, stored.dtype, stored.offset)
    n = len(embeddings)
    scored = np.arange(0, n, max(1, n // SCORED))
    if args.one == "sample":
        return _fit_sample(embeddings, args.coarse, scored)
    if args.one == "plain":
        embeddings = embeddings[:]
    counts, seconds, started = np.ones(n, dtype=np.int64), {}, time.perf_counter()
    if args.one == "plain":
        from sklearn.cluster import KMeans

        coarse = KMeans(args.coarse, n_init=1, random_state=0).fit(embeddings).labels_.astype(np.int64)
    else:
        coarse = coarse_clusters(embeddings, counts, args.coarse, 0, args.one)
    seconds["coarse"], peaks = time.perf_counter() - started, {"coarse": peak_gb()}
    sys.stderr.write(f"\ncoarse clusters: {seconds['coarse']:.0f} s, peak {peaks['coarse']:.2f} GB\n")
    started = time.perf_counter()
    if args.one == "plain":
        fine, eps = _plain_dbscan(embeddings, coarse, args.eps), args.eps
    else:
        fine, eps = fine_clusters(embeddings, counts, coarse, args.fine)
    seconds["fine"], peaks["fine"] = time.perf_counter() - started, peak_gb()
    sys.stderr.write(f"\nfine clusters: {seconds['fine']:.0f} s, peak {peaks['fine']:.2f} GB\n")
    started = time.perf_counter()
    prototypes, _ = cluster_prototypes(embeddings, counts, coarse)
    if args.one != "plain":
        numbers = pc.utf8_lpad(pa.array(np.arange(n)).cast(pa.large_string()), 8, "0")
        said = pa.scalar("a thing that somebody spoke of", pa.large_string())
        captions = pc.binary_join_element_wise(said, numbers, pa.scalar(" ", pa.large_string()))
        for labels in (coarse, fine):
            representatives(embeddings, counts, captions, labels, cluster_prototypes(embeddings, counts, labels)[0])
    seconds["prototypes"] = time.perf_counter() - started
    sizes = np.bincount(coarse)
    return {
        "seconds": seconds,
        "peak_gb": peak_gb(),
        "peaks_gb": peaks,
        "inertia": _inertia(embeddings[scored], prototypes, coarse[scored]),
        "coarse": int(coarse.max()) + 1,
        "fine": int(fine.max()) + 1,
        "eps": eps,
        "largest": int(sizes.max()),
        "pairs": float((sizes.astype(float) ** 2).sum()),
    }


def _fit_sample(embeddings, num_coarse, scored):
    import numpy as np
    from sklearn.cluster import KMeans

    from decodetr.pool_builder.clusters import cluster_prototypes
    from decodetr.speed.machine import peak_gb

    started = time.perf_counter()
    sample = embeddings[np.sort(np.random.default_rng(0).permutation(len(embeddings))[:SAMPLE])]
    kmeans = KMeans(num_coarse, n_init=1, random_state=0).fit(sample)
    seconds = {"coarse": time.perf_counter() - started, "fine": 0.0, "prototypes": 0.0}
    prototypes, _ = cluster_prototypes(sample, np.ones(len(sample), dtype=np.int64), kmeans.labels_)
    rows = embeddings[scored]
    sizes = np.bincount(kmeans.labels_)
    return {
        "seconds": seconds,
        "peak_gb": peak_gb(),
        "inertia": _inertia(rows, prototypes, kmeans.predict(rows)),
        "coarse": int(kmeans.labels_.max()) + 1,
        "fine": 0,
        "eps": None,
        "largest": int(sizes.max()),
        "pairs": 0.0,
    }


def _inertia(rows, prototypes, labels):
    """Mean squared distance of unit rows from the prototype of their cluster."""
    import numpy as np

    return float((2 - 2 * np.einsum("nd,nd->n", rows, prototypes[labels])).mean())


def _plain_dbscan(embeddings, coarse, eps):
    import numpy as np
    from sklearn.cluster import DBSCAN

    fine, offset = np.full(len(coarse), -1), 0
    for cluster in range(coarse.max() + 1):
        rows = np.flatnonzero(coarse == cluster)
        found = DBSCAN(eps=eps, min_samples=2, algorithm="brute").fit(embeddings[rows]).labels_
        fine[rows] = np.where(found >= 0, found + offset, -1)
        offset += found.max() + 1
    return fine


def gemm_rate(dtype):
    """Operations a second of a product of the kind that assigns captions to clusters."""
    import numpy as np

    one, other = np.ones((8192, 512), dtype), np.ones((512, 1203), dtype)
    one @ other
    started = time.perf_counter()
    for _ in range(5):
        one @ other
    return 5 * 2 * 8192 * 512 * 1203 / (time.perf_counter() - started)


def parser():
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--sizes", type=int, nargs="+", default=[100_000, 400_000, 1_270_000], help="numbers of captions")
    add(
        "--methods", nargs="+", choices=METHODS, default=["minibatch"], help="what is run; plain is scikit-learn alone"
    )
    add("--coarse", type=int, default=1203, help="M1")
    add("--fine", type=int, default=4800, help="M2")
    add("--dim", type=int, default=512, help="dimensions of an embedding")
    add("--folder", help="where the file of captions is written (default: the system's folder for such files)")
    add("--output", help="write all numbers to this JSON file")
    add("--one", choices=METHODS, help=argparse.SUPPRESS)
    add("--captions", help=argparse.SUPPRESS)
    add("--eps", type=float, help=argparse.SUPPRESS)
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    if args.one:
        sys.stdout.write(json.dumps(run_one(args)) + "\n")
        return 0
    import numpy as np
    from harness import say, table

    from decodetr.speed.machine import environment

    machine, results = environment("cpu", coarse=args.coarse, fine=args.fine, dim=args.dim), {}
    rates = {"float32": gemm_rate(np.float32), "float64": gemm_rate(np.float64)}
    say(
        table(
            ["setting", "value"], [*machine.items(), *((f"{k}, GFLOP/s", f"{v / 1e9:.0f}") for k, v in rates.items())]
        )
    )
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for n in args.sizes:
            captions = Path(folder) / "captions.npy"
            write_captions(captions, n, args.dim)
            for method in args.methods:
                words = [sys.executable, __file__, "--one", method, "--captions", str(captions)]
                words += ["--coarse", str(args.coarse), "--fine", str(args.fine)]
                if method == "plain":
                    chosen = [found["eps"] for key, found in results.items() if key.startswith(f"{n} ")]
                    words += ["--eps", str(chosen[0] if chosen else 0.4)]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                found = results[f"{n} {method}"] = json.loads(done.stdout.splitlines()[-1])
                seconds = found["seconds"]
                floor = 2 * n * args.dim * args.coarse / rates["float32"], args.dim * found["pairs"] / rates["float64"]
                cells = [*seconds.values(), sum(seconds.values())]
                rows.append(
                    [f"{n:,} {method}", *(f"{cell:.0f}" for cell in cells), f"{found['peak_gb']:.1f}"]
                    + [f"{found['inertia']:.4f}", f"{found['coarse']} / {found['fine']}", f"{found['largest']:,}"]
                    + [f"{floor[0]:.0f}", f"{floor[1]:.0f}", f"{n * args.dim * 2 / 2**30:.2f}"]
                )
                say(f"{rows[-1]}")
    head = [
        "captions",
        "K-Means, s",
        "clusters inside, s",
        "prototypes, s",
        "all, s",
        "peak, GB",
        "inertia",
        "M1 / M2",
    ]
    head += ["largest cluster", "floor: one assignment, s", "floor: all pairs inside, s", "data, GB"]
    say(table(head, rows))
    if args.output:
        document = {"environment": machine, "gemm": rates, "results": results}
        write_json(args.output, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
