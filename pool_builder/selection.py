"""The last two stages, light ones that one process does: which regions are kept (paper 1.4), and the clusters of
their captions (paper 1.5 to 1.7), from which the pool is made."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from decodetr.cards.renewal import pool_card
from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.pool_builder.caption_accuracy import caption_accuracy, doubt
from decodetr.pool_builder.caption_table import CaptionTable, TextTable, embeddings_of
from decodetr.pool_builder.clusters import cluster_prototypes, coarse_clusters, fine_clusters, representatives
from decodetr.pool_builder.delta import SAMPLE, choose_delta, other_scores
from decodetr.pool_builder.embedding_file import Embeddings
from decodetr.pool_builder.image_captions import open_image_captions
from decodetr.pool_builder.known_names import doubt_names, known_names
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import CONTENTS, StageFolder
from decodetr.pool_builder.space import FEWEST, choose_scales, doubt_lookup, space_without_names
from decodetr.pool_builder.stages import name_prompt, open_stage
from decodetr.processing.embedding_columns import embedding_array, embedding_rows
from decodetr.utils.files import committed, replacing, write_text

logger = logging.getLogger(__name__)

REPORT = "report.json"
_MEASURED = 200_000  # regions that the teacher's space is measured on, and as many annotated ones
ENCODER = ("encoder", "encoder_fingerprint")
REGIONS = "regions"  # the filter's output is the regions data set of docs/data.md, and its files have that name


def filter_regions(output: Path, settings: PoolSettings, overwrite: bool = False) -> dict[str, Any]:
    """OUTPUT/regions: all regions, `kept` where cos(image, caption) is above delta, or among the best share.

    Args:
        output (Path): OUTPUT. settings (PoolSettings): delta, or keep_share instead of it. Without either, delta is
            chosen by [`choose_delta`].

    Returns:
        dict: totals. Counts: kept, and why the others are not: empty_caption, no_embedding, low_score. The stage's
        identity has the `delta` that was used and, if it was chosen, the figures `delta_chosen`. Also writes
        scores.png, the distribution of the scores with the cut.

    Raises:
        ValueError: no region is kept, or captions fit their regions no better than others. The message gives the
            distribution of the scores.
    """
    before = open_stage(output, "embeddings")
    texts = TextTable.read(open_stage(output, "texts"), scratch=output)
    said, silent = texts.rows_of(before), texts.rows(pa.array([""], pa.large_string()))[0]
    scored, sample, ends = [], [], [0]
    step = -(-before.totals["rows"] // SAMPLE)
    for shard in range(before.count):
        images = embedding_rows(before.read(shard, ["image_embed"])["image_embed"]).astype(np.float32)
        first, last = ends[-1], ends[-1] + len(images)
        scored.append((images * texts.embeddings.stored(said[first:last]).astype(np.float32)).sum(1))
        sample.append(images[-first % step :: step])
        ends.append(last)
    scores, spoken = np.concatenate(scored), said != silent
    finite = np.isfinite(scores)
    scores[~finite] = -1.0
    usable = spoken & finite
    cut, chosen = settings.delta, None
    if settings.keep_share is not None and usable.any():
        cut = float(np.quantile(scores[usable], 1 - settings.keep_share, method="inverted_cdf"))
    elif cut is None:
        rows, some = np.unique(said[::step], return_inverse=True)
        others = other_scores(np.concatenate(sample), texts.embeddings.stored(rows), some, spoken[::step])
        cut, chosen = choose_delta(scores[usable], others)
    kept = usable & ((scores > cut) if settings.keep_share is None else (scores >= cut))
    if not kept.any():
        low, middle, high = np.quantile(scores, [0, 0.5, 1])
        raise ValueError(
            f"expected regions with cos(image, caption) above {cut}, got none of {len(scores)}: minimum {low:.3f}, "
            f"median {middle:.3f}, maximum {high:.3f}, {int((~spoken).sum())} without a caption; lower --delta"
        )
    identity = {"input": before.digest, "delta": cut, "keep_share": settings.keep_share, "delta_chosen": chosen}
    identity |= {key: before.identity[key] for key in ENCODER}  # regions are used without the other stages
    folder = StageFolder(output / REGIONS, REGIONS, identity, before.count, overwrite=overwrite)
    for shard in folder.pending():
        rows = slice(ends[shard], ends[shard + 1])
        counts = {
            "kept": int(kept[rows].sum()),
            "empty_caption": int((~spoken[rows]).sum()),
            "no_embedding": int((spoken[rows] & ~finite[rows]).sum()),
            "low_score": int((usable[rows] & ~kept[rows]).sum()),
        }
        table = before.read(shard)
        table = table.append_column("text_embed", embedding_array(texts.embeddings.stored(said[rows])))
        table = table.append_column("clip_score", pa.array(scores[rows]))
        folder.write(shard, table.append_column("kept", pa.array(kept[rows])), counts)
    totals = folder.finish()
    draw_scores(scores[usable], cut, totals["counts"], output / REGIONS / "scores.png")
    return totals


def chosen_delta(output: Path) -> tuple[float, dict[str, float]] | None:
    """(delta of OUTPUT/regions, the figures by which it was chosen), or None where it was given."""
    identity = StageFolder.open(output / REGIONS, REGIONS).identity
    return (identity["delta"], identity["delta_chosen"]) if identity["delta_chosen"] else None


def draw_scores(scores: np.ndarray, cut: float, counts: dict[str, int], file: str | Path) -> None:
    """A histogram of the scores that regions with caption and embedding have, and where it is cut."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.hist(scores, bins=80, color="#2f5d8c")
    axes.axvline(cut, color="#d1495b", label=f"cut at {cut:.3f}: {counts['kept']:,} kept, {counts['low_score']:,} not")
    axes.set(xlabel="cos(image, caption)", ylabel="regions")
    axes.legend(frameon=False)
    with replacing(file) as partial:
        figure.savefig(partial, dpi=100)


def cluster_regions(
    output: Path,
    settings: PoolSettings,
    overwrite: bool = False,
    image_captions: bool = False,
    vocabulary: Vocabulary | None = None,
) -> PrototypePool:
    """OUTPUT/clusters, the distinct captions of kept regions with their two clusters, and OUTPUT/pool.

    Args:
        image_captions (bool): the captions of OUTPUT/image_texts join those of regions.
        vocabulary (Vocabulary, *optional*): what stands for annotated names, see [`measure_space`].

    Returns:
        PrototypePool, coarse prototypes first. `info` has provenance, settings and the numbers of regions, of kept
        ones and of distinct captions among them. It holds no dates, no places of files and nothing of shards, so that
        equal input gives equal files.
    """
    before = open_stage(output, REGIONS)
    names = ("num_coarse", "kmeans", "num_fine", "min_samples", "seed")
    identity = {"input": before.digest, **settings.of(*names)}
    joined = open_image_captions(output, open_stage(output, "texts")) if image_captions else None
    if joined is not None:
        identity["image_captions"] = joined.digest
    folder = StageFolder(output / "clusters", "clusters", identity, 1, overwrite=overwrite)
    if folder.pending():
        captions = CaptionTable.gather(before, joined, scratch=output)
        coarse, fine, eps = cluster(captions.embeddings, captions.counts, settings)
        counts = {"coarse": int(coarse.max()) + 1, "fine": int(fine.max()) + 1}
        folder.write_blocks(0, captions.blocks(coarse, fine, eps), counts)
    else:
        captions = CaptionTable.read(folder, scratch=output)
    folder.finish()
    table = folder.read(0, ["coarse", "fine"])
    coarse, fine = (table[name].to_numpy() for name in ("coarse", "fine"))
    eps = table.schema.metadata[b"eps"].decode()
    info = {**provenance(output), **settings.of(*names), "eps": None if eps == "None" else float(eps)}
    info |= {
        "regions": before.totals["rows"],
        "kept": before.totals["counts"]["kept"],
        "distinct_captions": len(captions.captions),
        **({"image_captions": joined.totals["rows"]} if joined is not None else {}),
    }
    pool = pool_of_clusters(captions.embeddings, captions.captions, captions.counts, coarse, fine, info)
    pool.info["space"] = measure_space(before, open_stage(output, "texts"), pool, vocabulary=vocabulary)
    space = pool.info["space"]
    for doubted in (doubt_names(space), doubt(space), doubt_lookup(space, len(pool.prototypes))):
        if doubted is not None:
            logger.warning("%s", doubted)
    (output / REPORT).unlink(missing_ok=True)  # that of another pool
    with committed(output / "pool") as staging:
        pool.save_pretrained(staging)
        write_text(staging / "README.md", pool_card(pool, "Prototype pool", "pool"))
    return pool


def measure_space(
    regions: StageFolder,
    texts: StageFolder,
    pool: PrototypePool,
    among: Iterable[str] | None = None,
    vocabulary: Vocabulary | None = None,
) -> dict[str, Any]:
    """The teacher's space as the regions show it, for `pool.info["space"]` (space.py).

    Args:
        regions, texts: finished [`StageFolder`]s. pool (PrototypePool): its `info` has `logit_scale` and `logit_bias`.
        among: only these names may choose. Default: all that are annotated.
        vocabulary (Vocabulary, *optional*): of the pool's encoder. It says what stands for the names that it has.

    Returns:
        dict. Its `asked` says what the temperatures were chosen by: the numbers of names and of their annotated
        regions, or of coarse prototypes, where fewer than two names that CLIP knows or too few regions of them are
        annotated. `unknown_names` are those that it does not know.
    """
    coarse = pool.prototypes[pool.level == 0].numpy()
    given = {name: pool.info.get(name) for name in ("logit_scale", "logit_bias")}
    sample = _sampled(regions, ["kept", "image_embed", "text_embed"], lambda table: np.ones(len(table), dtype=bool))
    kept = np.concatenate([table["kept"].to_numpy() for table in sample])
    images, captions = (_float_rows(sample, column)[kept] for column in ("image_embed", "text_embed"))
    space = space_without_names(images, captions, coarse, **given)
    allowed = None if among is None else pa.array(sorted(among), pa.string())
    annotated = _sampled(regions, ["name", "image_embed", "text_embed"], lambda table: _named(table["name"], allowed))
    named, said = (_float_rows(annotated, column) for column in ("image_embed", "text_embed"))
    finite = np.isfinite(named).all(1)
    named, said = named[finite], said[finite]
    names = np.concatenate([table["name"].to_numpy() for table in annotated])[finite]
    names, labels = np.unique(names.astype(str), return_inverse=True)
    if len(labels) >= FEWEST:
        embeds = _name_embeddings(texts, names, vocabulary)
        known = known_names(space, named, labels, embeds, rest=_nameless(regions) if len(names) == 1 else None)
        if not known.all():
            space["unknown_names"] = names[~known].tolist()
        rows = known[labels]
        if known.sum() > 1 and rows.sum() >= max(FEWEST, len(labels) / 2):
            embeds, labels = embeds[known], np.unique(labels[rows], return_inverse=True)[1]
            space |= caption_accuracy(said[rows], named[rows], labels, embeds)
            return space | _by("annotations", choose_scales(space, pool.prototypes, named[rows], labels, embeds))
    if len(coarse) < 2:
        return space
    labels = (captions @ coarse.T).argmax(1)
    return space | _by("captions", choose_scales(space, pool.prototypes, images, labels, coarse))


def _name_embeddings(texts, names, vocabulary):
    """(K, d) of annotated names: of the vocabulary where it has them, else of the stage's texts."""
    found = embeddings_of(texts, [name_prompt(name) for name in names])
    for row, name in enumerate(names):
        if vocabulary is not None and name in vocabulary:
            found[row] = vocabulary[name].numpy()
    return found


def _sampled(regions, columns, choose):
    """Tables of the regions for which `choose(table)` says so, [`_MEASURED`] at most: every so many of them."""
    chosen = sum(int(choose(regions.read(shard, columns[:1])).sum()) for shard in range(regions.count))
    step, first, tables = max(1, -(-chosen // _MEASURED)), 0, []
    for shard in range(regions.count):
        table = regions.read(shard, columns)
        rows = np.flatnonzero(choose(table))
        tables.append(table.take(rows[-first % step :: step]))
        first += len(rows)
    return tables


def _nameless(regions):
    """Image embeddings of regions without a name, (R, d)."""
    rows = _float_rows(
        _sampled(regions, ["name", "image_embed"], lambda table: ~_named(table["name"], None)), "image_embed"
    )
    return rows[np.isfinite(rows).all(1)]


def _named(names, allowed):
    """Which regions are annotated, by an allowed name if there are such."""
    chosen = pc.not_equal(names, "") if allowed is None else pc.is_in(names, value_set=allowed)
    return chosen.to_numpy()


def _float_rows(tables, column):
    return np.concatenate([embedding_rows(table[column]).astype(np.float32) for table in tables])


def _by(what, scales):
    """Scales that say what they were chosen by. Captions stand in for names badly: several say the same, and so
    compete."""
    return {**scales, "asked": {**scales["asked"], "by": what}}


def provenance(output: Path) -> dict[str, Any]:
    """What the manifests of the stages say about models and settings, without what concerns shards and files."""
    info = {}
    for stage in ("proposals", "captions", "embeddings", REGIONS):
        info |= StageFolder.open(output / stage, stage).identity
    for name in ("stage", "format_version", "input", "images", CONTENTS, "boxes", "shard_groups", "batch_size"):
        info.pop(name, None)
    return info


def cluster(
    embeddings: Embeddings, counts: np.ndarray, settings: PoolSettings
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """(coarse labels (n,), fine labels (n,) or -1, eps) of n distinct captions: paper 1.5 and 1.6."""
    coarse = coarse_clusters(embeddings, counts, settings.num_coarse, settings.seed, settings.kmeans)
    fine, eps = fine_clusters(embeddings, counts, coarse, settings.num_fine, settings.min_samples, settings.seed)
    return coarse, fine, eps


def pool_of_clusters(
    embeddings: Embeddings,
    captions: list[str] | pa.Array,
    counts: np.ndarray,
    coarse: np.ndarray,
    fine: np.ndarray,
    info: dict[str, Any],
) -> PrototypePool:
    """paper 1.7: the pool of clustered captions.

    Args:
        embeddings (n, d): unit rows, an array or a file. captions: n strings, a list or Arrow.
        counts (n,): regions of each caption.
        coarse (n,), fine (n,): labels. A caption in no fine cluster has -1.
        info (dict): the pool's provenance.

    Returns:
        PrototypePool, coarse prototypes first.
    """
    parents = np.zeros(fine.max() + 1, dtype=np.int64)
    parents[fine[fine >= 0]] = coarse[fine >= 0]
    levels = []
    for labels in (coarse, fine):
        prototypes, count = cluster_prototypes(embeddings, counts, labels)
        levels.append((prototypes, count, representatives(embeddings, counts, captions, labels, prototypes)))
    (prototypes, count, spoken), (fine_prototypes, fine_count, fine_spoken) = levels
    sizes = [len(prototypes), len(fine_prototypes)]
    return PrototypePool(
        torch.from_numpy(np.concatenate([prototypes, fine_prototypes])),
        level=torch.repeat_interleave(torch.arange(2), torch.tensor(sizes)),
        parent=torch.from_numpy(np.concatenate([np.full(sizes[0], -1), parents])),
        count=torch.from_numpy(np.concatenate([count, fine_count])),
        captions=spoken + fine_spoken,
        info=info,
    )
