"""Temperatures and background for the names of a run, where nothing but captions chose those of its pool.

A pool without annotated boxes takes its captions for names. Several of them say the same thing, so that they compete
with each other, and with the names that they describe: CLIP then gives most things to the background. Once names are
known, captions say which region has which name, and the scales are chosen from these regions as they are from
annotated ones.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import centred
from decodetr.pool_builder.space import choose_scales
from decodetr.processing.regions import captioned_regions

_MOST = 20_000  # regions that are read
_FEWEST = 20  # regions with a name below which nothing is chosen
_FEWEST_SAID = 5  # captions that have all words of their nearest name, which say how near a caption of a name is
_SURE = 0.25  # quantile of their cosines from which a caption is taken for one of its nearest name


def fit_space(pool: PrototypePool, vocabulary: Vocabulary, regions: str | Path) -> PrototypePool | None:
    """The pool with scales for these names.

    Args:
        pool (PrototypePool): with `info["space"]`. vocabulary (Vocabulary): K training names.
        regions: folder of the pool's regions, with their captions.

    Returns:
        PrototypePool, a new one. None where the scales stay: boxes chose them, or captions do not speak of at least
        two of the names.
    """
    space = pool.info.get("space") or {}
    if space.get("asked", {}).get("by") != "captions" or len(vocabulary) < 2:
        return None
    found = captioned_regions(regions, _MOST)
    names = vocabulary.embeddings.cpu().numpy()
    rows, labels = named_by_captions(found, vocabulary.names, names, space["text_mean"])
    known, labels = np.unique(labels, return_inverse=True)
    if len(rows) < _FEWEST or len(known) < 2:
        return None
    prototypes = pool.prototypes.cpu().numpy()
    scales = choose_scales(space, prototypes, found["image_embeds"][rows], labels, names[known])
    scales["asked"] = {**scales["asked"], "by": "names in captions"}
    info = {**pool.info, "space": {**space, **scales}}
    return PrototypePool(pool.prototypes, pool.level, pool.parent, pool.count, pool.captions, info)


def named_by_captions(
    found: dict[str, Any], names: list[str], embeds: np.ndarray, text_mean: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Regions whose caption speaks of a name: (their rows (R',), the names (R',) as places in `names`).

    Args:
        found (dict): of [`captioned_regions`], R regions. names (list of K). embeds (K, d): unit rows of them.
        text_mean (d): of the space.
    """
    if not len(found["captions"]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    mean = torch.tensor(text_mean)
    texts, targets = (centred(torch.from_numpy(rows), mean) for rows in (found["text_embeds"], embeds))
    cosines, nearest = (texts @ targets.T).max(1)
    cosines, nearest = cosines.numpy(), nearest.numpy()
    words = [_words(name) for name in names]
    said = np.array([words[name] <= _words(caption) for name, caption in zip(nearest, found["captions"])])
    sample = cosines[said] if said.sum() >= _FEWEST_SAID else cosines
    rows = np.flatnonzero(cosines >= np.quantile(sample, _SURE) - 1e-4)  # equal captions stay together
    return rows, nearest[rows]


def _words(text):
    return set(re.findall(r"[^\W_]+", text.lower()))  # names such as traffic_cone have two
