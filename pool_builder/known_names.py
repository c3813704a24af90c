"""Which of the annotated names the teacher's text encoder knows at all.

Part codes and names in another language have embeddings too, but they say nothing of what is in their regions. The
space must not be fitted to them (space.py): a few would blur the temperatures of all.
"""

from typing import Any

import numpy as np
import torch

from decodetr.modeling_decodetr.embedding_space import centred
from decodetr.modeling_decodetr.excerpts import some_of
from decodetr.pool_builder.space import balanced

_COMPARED = 2000  # regions that those of a name are compared with, of frequent names no more than of others
_CHANCE, _NEAR_CHANCE = 0.5, 0.6
_HARM = 2  # of a meaningless name that is kept, which blurs all of them, where that of a known one left out is 1


def known_names(
    space: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
    rest: np.ndarray | None = None,
) -> np.ndarray:
    """(K,) bool: names whose text prefers their own regions to others more than a meaningless text would.

    The share of other regions that a text prefers its own ones to is near 1 for a name that CLIP knows, also for one
    that is confused with its near-synonyms. For a meaningless text it is anything from 0 to 1, also over many regions,
    because regions of one name look alike. So one name alone does not show what it is. All together do: hardly a known
    one is near chance, so that those there tell how many are meaningless, evenly spread from 0 to 1. Names are known
    from the share on at which the least harm is to be expected. Where none is near chance, all are known.

    Args:
        space: of [`space_without_names`]. images (R, d): annotated regions. labels (R,): rows of `names` (K, d), each
            of which has a region. rest (r, d), *optional*: regions without a name, which a single one is compared
            with; without any it is known.
    """
    rest = images[:0] if rest is None else rest
    if len(names) == 1 and not len(rest):
        return np.ones(1, dtype=bool)
    shares = _preferences(space, images, labels, names, rest)
    meaningless = (shares < _NEAR_CHANCE).sum() / _NEAR_CHANCE
    limits = np.concatenate([[_CHANCE], np.sort(shares[shares > _CHANCE]), [1.0]])
    lost = np.searchsorted(np.sort(shares), limits) - meaningless * limits  # known ones below a limit
    kept = meaningless * (1 - limits)  # meaningless ones above it
    return shares >= limits[np.argmin(lost + _HARM * kept)]


def _preferences(space, images, labels, names, rest):
    """(K,): of the other regions, the share that is less similar to the text of a name than a region of this name is,
    the mean over these."""
    text_mean, image_mean = (torch.tensor(space[name]) for name in ("text_mean", "image_mean"))
    images, rest, texts = (
        centred(torch.from_numpy(rows), mean)
        for rows, mean in ((images, image_mean), (rest, image_mean), (names, text_mean))
    )
    own = (images * texts[torch.from_numpy(labels)]).sum(-1).numpy()
    rows, shown = balanced(torch.from_numpy(labels), _COMPARED, seed=0)
    compared, nameless = (images[rows] @ texts.T).numpy(), (rest @ texts.T).numpy()
    by_name = np.split(own[np.argsort(labels, kind="stable")], np.cumsum(np.bincount(labels))[:-1])
    found = np.empty(len(names))
    for name, mine in enumerate(by_name):
        others = np.sort(np.concatenate([compared[shown.numpy() != name, name], nameless[:, name]]))
        ranks = (np.searchsorted(others, mine, side) for side in ("left", "right"))  # ties count half
        found[name] = sum(ranks).mean() / (2 * len(others))
    return found


def doubt_names(space: dict[str, Any]) -> str | None:
    """What to know of the names that a pool with this `info["space"]` was not fitted to, in a sentence, or None."""
    unknown = space.get("unknown_names")
    if not unknown:
        return None
    by = space.get("asked", {}).get("by")
    chosen = "the other names" if by == "annotations" else "captions, as too few regions have another name"
    return (
        f"CLIP does not know {len(unknown)} of the annotated names ({some_of(unknown)}): their regions are no more "
        f"like their texts than other regions are. Temperatures are chosen from {chosen}. Give these names texts that "
        "say what is seen: a .json file of {name: text} for `decodetr vocabulary build --names-file`, then `decodetr "
        "pool cluster --vocabulary`, and the same --vocabulary for `decodetr train`"
    )
