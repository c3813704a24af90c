"""The whole of PAPER.md 1: regions of the training images to a regions data set and a prototype pool.

Regions are captioned and embedded by `datasets.Dataset.map`; then every distinct caption is embedded once, regions
whose caption agrees with the picture are kept, and their captions clustered. The paper clusters T as it is; ours
clusters distinct captions weighted by their counts, which has the same K-Means objective.
"""

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch

from decodetr.modeling_decodetr import PrototypePool
from decodetr.pool_builder.clusters import cluster_prototypes, coarse_clusters, fine_clusters, representatives
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.proposals import propose
from decodetr.processing.coco import read_annotated
from decodetr.processing.regions import write_regions

_CHUNK = 1024  # regions whose embeddings are in memory at once


def build_pool(coco, embedder, captioner, output, settings, detector=None, image_processor=None):
    """
    Write OUT/regions/ (all regions; `kept` says which passed the filter) and OUT/pool/.

    Args:
        coco (CocoAnnotations): training annotations of base names only.
        embedder (ClipEmbedder), captioner (Captioner): the teachers.
        output: the folder OUT; made if missing. Regions and pool that are there already are replaced.
        settings (PoolSettings).
        detector (DeCoDetrForObjectDetection, optional), image_processor: propose regions beside annotated boxes.

    Returns:
        PrototypePool, coarse prototypes first. `info` has provenance, settings and the numbers of regions, of kept
        ones and of distinct captions among them; it holds no dates and no places of files, so that equal input gives
        equal files.

    Raises:
        FileNotFoundError: an image is missing. ValueError: an image is damaged; no region at all, or none is kept.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    limits = {name: getattr(settings, name) for name in ("min_objectness", "nms_iou", "max_proposals", "batch_size")}
    rows = list(propose(coco, detector, image_processor, **limits))
    if not rows:
        raise ValueError(
            f"{coco.file}: expected regions in its {len(coco)} images, got none: no annotated box of the "
            f"{len(coco.names)} names and no proposal; give --detector, lower --min-objectness or check --names-split"
        )
    info = {
        **embedder.info,
        **captioner.info,
        **asdict(settings),
        "annotated_names": coco.names,
        "proposer": None if detector is None else detector.config.name_or_path,
        "proposer_training_info": None if detector is None else detector.config.training_info,
        "source_fingerprint": _fingerprint(rows),
    }
    info = {name: _without_place(value) for name, value in info.items()}
    with TemporaryDirectory(prefix=".building-", dir=output, ignore_cleanup_errors=True) as cache:
        regions = _describe(rows, coco, embedder, captioner, settings.batch_size, cache, info)
        captions = sorted(set(regions["caption"]))
        text_embeds = embedder.embed_texts(captions, progress=True)
        row_of = {caption: row for row, caption in enumerate(captions)}
        text_rows = np.array([row_of[caption] for caption in regions["caption"]])
        scores = _clip_scores(regions, text_rows, text_embeds)
        spoken = np.array([bool(caption) for caption in captions])[text_rows]
        kept = (scores > settings.delta) & spoken
        _check_kept(kept, scores, spoken, settings.delta)
        counts = np.bincount(text_rows[kept], minlength=len(captions))
        used = np.flatnonzero(counts)
        info.update(regions=len(rows), kept=int(kept.sum()), distinct_captions=len(used))
        pool = cluster_captions(text_embeds[used], counts[used], [captions[row] for row in used], settings, info)
        write_regions(output / "regions", _region_rows(regions, text_rows, text_embeds, scores, kept), overwrite=True)
    pool.save_pretrained(output / "pool")
    return pool


def _describe(rows, coco, embedder, captioner, batch_size, cache, info):
    """A `datasets.Dataset` of the rows with caption and image_embed, in a file under `cache`."""
    entries = {entry["image_id"]: entry for entry in coco.images}
    picture = lru_cache(maxsize=1)(lambda image_id: read_annotated(entries[image_id]))  # rows come image by image

    def describe(batch):
        places = list(zip(batch["image_id"], batch["box"]))
        crops = {
            size: [crop_region(picture(image_id), box, size) for image_id, box in places]
            for size in {captioner.size, embedder.size}
        }
        return {
            "caption": captioner.caption(crops[captioner.size]),
            "image_embed": embedder.embed_images(crops[embedder.size]),
        }

    columns = {name: [row[name] for row in rows] for name in ("image_id", "file_name", "box", "proposal_score")}
    return datasets.Dataset.from_dict(columns).map(
        describe,
        batched=True,
        batch_size=batch_size,
        load_from_cache_file=False,
        cache_file_name=str(Path(cache) / "described.arrow"),
        new_fingerprint=hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()[:32],
        desc="captions and embeddings",
    )


def _chunks(regions, text_rows, text_embeds):
    """(first row, chunk of columns with arrays of embeddings), chunk by chunk."""
    for start in range(0, len(regions), _CHUNK):
        chunk = regions[start : start + _CHUNK]
        chunk["image_embed"] = np.asarray(chunk["image_embed"], dtype=np.float32)
        chunk["text_embed"] = text_embeds[text_rows[start : start + _CHUNK]]
        yield start, chunk


def _clip_scores(regions, text_rows, text_embeds):
    """(n,) float32 cos(v, u) of every region."""
    chunks = _chunks(regions, text_rows, text_embeds)
    return np.concatenate([(chunk["image_embed"] * chunk["text_embed"]).sum(axis=1) for _, chunk in chunks])


def _region_rows(regions, text_rows, text_embeds, scores, kept):
    for start, chunk in _chunks(regions, text_rows, text_embeds):
        for row, values in enumerate(zip(*chunk.values()), start):
            yield {**dict(zip(chunk, values)), "clip_score": scores[row], "kept": kept[row]}


def _check_kept(kept, scores, spoken, delta):
    if not kept.any():
        low, middle, high = np.quantile(scores, [0, 0.5, 1])
        raise ValueError(
            f"expected regions with cos(image, caption) above {delta}, got none of {len(scores)}: minimum {low:.3f}, "
            f"median {middle:.3f}, maximum {high:.3f}, {int((~spoken).sum())} without a caption; lower --delta"
        )


def cluster_captions(embeddings, counts, captions, settings, info):
    """PAPER.md 1.5 to 1.7: the pool of n distinct captions.

    Args:
        embeddings (n, d): unit rows. counts (n,): regions of each caption. captions: n strings.
        settings (PoolSettings). info (dict): the pool's provenance.

    Returns:
        PrototypePool, coarse prototypes first; its info has `eps` of DBSCAN too.
    """
    coarse = coarse_clusters(embeddings, counts, settings.num_coarse, settings.seed)
    fine, eps = fine_clusters(embeddings, counts, coarse, settings.num_fine, settings.min_samples)
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
        info={**info, "eps": eps},
    )


def _fingerprint(rows):
    """SHA-256 of image_id, box and proposal_score of all regions."""
    digest = hashlib.sha256()
    digest.update(np.array([row["image_id"] for row in rows], dtype="<i8").tobytes())
    digest.update(np.array([[*row["box"], row["proposal_score"]] for row in rows], dtype="<f4").tobytes())
    return digest.hexdigest()


def _without_place(value):
    """Names of local folders without the folders above them, also inside a dict; anything else as it is."""
    if isinstance(value, dict):
        return {key: _without_place(item) for key, item in value.items()}
    if isinstance(value, str) and value and (Path(value).is_absolute() or Path(value).is_dir()):
        return Path(value).resolve().name
    return value
