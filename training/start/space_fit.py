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
_FEWEST = 8  # regions with a name below which those of other things are asked too
_COARSE = 0.3  # centred cosine from which captions of other things are one group then
_DISTINCT = 1000  # captions that are compared with each other
_FEWEST_SAID = 5  # captions that have all words of their nearest name, which say how near a caption of a name is
_SURE = 0.25  # quantile of their cosines from which a caption is taken for one of its nearest name


def fit_space(pool: PrototypePool, vocabulary: Vocabulary, regions: str | Path) -> PrototypePool | None:
    """The pool with scales for these names.

    Args:
        pool (PrototypePool): with `info["space"]`. vocabulary (Vocabulary): K training names.
        regions: folder of the pool's regions, with their captions.

    Returns:
        PrototypePool, a new one. None where the scales stay: boxes chose them, or captions speak of too few things, or
        of none of the names.
    """
    space = pool.info.get("space") or {}
    if space.get("asked", {}).get("by") != "captions":
        return None
    found = captioned_regions(regions, _MOST)
    names = vocabulary.embeddings.cpu().numpy()
    rows, labels = named_by_captions(found, vocabulary.names, names, space["text_mean"])
    known, labels = np.unique(labels, return_inverse=True)
    if len(rows) < _FEWEST or len(known) < 2:  # other things join, in a few coarse groups
        others = Vocabulary.from_pool(pool, _COARSE)
        texts = [*vocabulary.names, *others.names]
        names = np.concatenate([names, others.embeddings.cpu().numpy()])
        rows, labels = named_by_captions(found, texts, names, space["text_mean"])
        known, labels = np.unique(labels, return_inverse=True)
    groups = int((known >= len(vocabulary.names)).sum())
    if len(rows) < _FEWEST or len(known) < 2 or groups == len(known):
        return None
    prototypes = pool.prototypes.cpu().numpy()
    scales = choose_scales(space, prototypes, found["image_embeds"][rows], labels, names[known])
    scales["asked"] = {**scales["asked"], "by": "names in captions", "groups": groups}
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
    sample = cosines[said] if said.sum() >= _FEWEST_SAID else _said_twice(found["captions"], texts)
    rows = np.flatnonzero(cosines >= np.quantile(sample, _SURE) - 1e-4)  # equal captions stay together
    return rows, nearest[rows]


def _said_twice(captions, texts):
    """Centred cosines of captions that have all words of another one: how near texts of one thing are. 1 where there
    are none."""
    first = {caption: row for row, caption in reversed(list(enumerate(captions)))}
    some = sorted(first, key=lambda caption: first[caption])[:_DISTINCT]
    words, rows = [_words(caption) for caption in some], texts[[first[caption] for caption in some]]
    cosines = (rows @ rows.T).numpy()
    pairs = [cosines[i, j] for i, one in enumerate(words) for j, other in enumerate(words) if i != j and one <= other]
    return np.array(pairs or [1.0])


def _words(text):
    return set(re.findall(r"[^\W_]+", text.lower()))  # names such as traffic_cone have two
