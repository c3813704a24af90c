"""Other pools of the same regions: fewer or worse captions, other numbers of prototypes, prototypes that say nothing.

What a run of `pool build` decides (captions, how many of them, M1 and M2) is decided here again from its regions, so
that detector, crops and captioner need not run.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from decodetr import PrototypePool
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.selection import cluster, pool_of_clusters
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.space import random_pool
from decodetr.processing import RegionTable
from decodetr.scenes.captions import mentioned_name

_SMALL = {"a", "an", "the", "of", "with", "in", "and", "on", "it", "is", "to"}  # words that say nothing of a thing
_ASKED = 400  # images whose regions say how wide a lookup in random prototypes is


@dataclass(frozen=True)
class PoolChange:
    """
    What another pool of the same regions differs in.

    Args:
        random (bool): prototypes that say nothing, in the same space.
        coarse, fine: times M1 and M2 of the pool that was built.
        levels (int): 1 for one level of coarse prototypes, as many as both had.
        share: of the kept regions, at random: the captioner saw no other.
        best: share of all regions, those whose crop and caption agree best: another delta.
        lost: share of the words of a caption, but for small ones, that are left out at random: a worse captioner.
    """

    random: bool = False
    coarse: float = 1
    fine: float = 1
    levels: int = 2
    share: float = 1
    best: float | None = None
    lost: float = 0

    def __post_init__(self) -> None:
        for name, low in (("share", 0), ("lost", -1e-9), ("best", 0), ("coarse", 0), ("fine", -1e-9)):
            value = getattr(self, name)
            if value is not None and not low < value <= (1 if name in ("share", "lost", "best") else np.inf):
                raise ValueError(f"{name} of a pool is out of its range: {value}")
        if self.levels not in (1, 2):
            raise ValueError(f"levels of a pool must be 1 or 2, got {self.levels}")


def changed_pool(built: Path, clip: ClipEmbedder, pool: PrototypePool, change: PoolChange) -> PrototypePool:
    """
    The pool with a change. Without one, `pool` itself.

    Args:
        built: output of `decodetr pool build`. clip: of the pool. pool: that it built, with a space.

    Returns:
        PrototypePool whose `info["space"]` is still that of `pool`.
    """
    if change == PoolChange():
        return pool
    if change == PoolChange(random=True):
        regions = RegionTable.load(built / "regions")
        ids = regions.image_ids[:_ASKED]
        return random_pool(pool, np.concatenate([regions.get(image)["image_embeds"] for image in ids]))
    captions = _captions(built / "regions", change)
    coarse, fine = len(pool) - pool.num_fine, pool.num_fine
    sizes = [max(1, round(coarse * change.coarse)), round(fine * change.fine)]
    if change.levels == 1:
        sizes = [sum(sizes), 0]
    return caption_pool(Counter(captions), clip, pool, *sizes)


def _captions(folder, change):
    """Captions of the regions that a change leaves, with the words that it leaves."""
    tables = [pq.read_table(shard, columns=["caption", "kept", "clip_score"]) for shard in _shards(folder)]
    captions = np.array([caption for table in tables for caption in table["caption"].to_pylist()], dtype=object)
    kept = np.concatenate([table["kept"].to_numpy() for table in tables])
    if change.best is not None:
        scores = np.concatenate([table["clip_score"].to_numpy() for table in tables])
        kept = scores >= np.quantile(scores[np.isfinite(scores)], 1 - change.best)
    rng, captions = np.random.default_rng(0), captions[kept]
    if change.share < 1:
        captions = captions[np.sort(rng.permutation(len(captions))[: max(1, round(change.share * len(captions)))])]
    return [thinned(caption, change.lost, rng) for caption in captions] if change.lost else captions.tolist()


def thinned(caption: str, lost: float, rng: np.random.Generator) -> str:
    """A caption without a share of its words, at random. Small words stay; "something" stands where nothing else is
    left."""
    words = caption.split()
    kept = [word for word in words if word.lower() in _SMALL or rng.random() >= lost]
    return " ".join(kept if any(word.lower() not in _SMALL for word in kept) else ["something"])


def caption_pool(
    counts: Counter[str], clip: ClipEmbedder, pool: PrototypePool, num_coarse: int, num_fine: int
) -> PrototypePool:
    """The pool of captions {text: regions that have it}, clustered as `pool` was, into other numbers of prototypes.
    Its provenance is that of `pool`."""
    settings = PoolSettings(
        num_coarse=num_coarse, num_fine=num_fine, min_samples=pool.info["min_samples"], seed=pool.info["seed"]
    )
    captions = sorted(counts)
    weights = np.array([counts[caption] for caption in captions])
    embeddings = clip.embed_texts(captions)
    coarse, fine, eps = cluster(embeddings, weights, settings)
    info = pool.info | {"num_coarse": num_coarse, "num_fine": num_fine, "eps": eps}
    return pool_of_clusters(embeddings, captions, weights, coarse, fine, info)


def kept_captions(regions_folder: str | Path) -> Counter[str]:
    """{caption: kept regions that have it}."""
    counts: Counter[str] = Counter()
    for shard in _shards(Path(regions_folder)):
        rows = pq.read_table(shard, columns=["caption", "kept"]).to_pylist()
        counts.update(row["caption"] for row in rows if row["kept"])
    return counts


def silent_pool(
    regions_folder: str | Path,
    clip: ClipEmbedder,
    pool: PrototypePool,
    novel_names: list[str],
    say: Callable[[str], None],
) -> PrototypePool:
    """The pool of the same regions without the captions that mention a novel name, in whatever words. `say`: is told
    how many captions that leaves."""
    counts = kept_captions(regions_folder)
    silent = Counter({caption: n for caption, n in counts.items() if not mentions(caption, novel_names)})
    say(f"captions without novel names: {len(silent)} of {len(counts)} distinct ones")
    return caption_pool(silent, clip, pool, pool.info["num_coarse"], pool.info["num_fine"])


def check_same_regions(regions_folder: str | Path, other: str | Path) -> None:
    """
    Raises:
        ValueError: the two folders have other boxes or images.
    """
    places = ["image_id", "box"]
    tables = [
        [pq.read_table(shard, columns=places) for shard in _shards(Path(one))] for one in (regions_folder, other)
    ]
    one, two = (pa.concat_tables(shards) if shards else None for shards in tables)
    if one is None or two is None or not one.equals(two):
        raise ValueError(f"{other} has not the regions of {regions_folder}: build it of the same detector and images")


def _places(folder):
    tables = [pq.read_table(shard, columns=["image_id", "box"]) for shard in _shards(folder)]
    if not tables:
        raise ValueError(f"{folder} has no regions: expected those of `decodetr pool build`")
    return pa.concat_tables(tables)


def _shards(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("*.parquet"))


def mentions(caption: str, names: list[str]) -> bool:
    """Whether a caption has all words of one of the names in it, or is a paraphrase of one of the drawn world."""
    drawn, words = mentioned_name(caption), set(re.findall(r"[\w'-]+", caption.lower()))
    return (drawn is not None and drawn.name in names) or any(set(name.lower().split()) <= words for name in names)
