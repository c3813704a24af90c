"""Whether captions say what is in their regions, asked where a name is annotated.

A captioner that names few things makes a pool that is worth less than none (docs/photo_world.md, Captioners of three
sizes). Boxes with names tell before the training does.
"""

import math
from typing import Any

import numpy as np

# Gain over chance of captions, as a share of what CLIP's look at the region gains, below which a pool is in doubt:
# measured pools that help have 0.78 to 1, one that harms has 0.07.
_ENOUGH = 0.5
_SPREAD = 2  # standard deviations of what guessing gets right, above which CLIP is better than that


def caption_accuracy(
    captions: np.ndarray, images: np.ndarray, labels: np.ndarray, names: np.ndarray
) -> dict[str, float]:
    """How often the closest of the annotated names is the right one, as the mean over names, so that frequent names
    count no more than others and chance is 1 / K.

    Args:
        captions, images (R, d): embeddings of annotated regions and of their captions. A row that is not finite is
            wrong.
        labels (R,): rows of `names` (K, d), each of which has a region.

    Returns:
        `captions_right` and `images_right`, in 0..1.
    """
    return {"captions_right": _right(captions, labels, names), "images_right": _right(images, labels, names)}


def _right(rows, labels, names):
    closest = np.nan_to_num(rows @ names.T, nan=-np.inf).argmax(1)
    hits = (closest == labels) & np.isfinite(rows).all(1)
    return float((np.bincount(labels, hits) / np.bincount(labels)).mean())


def doubt(space: dict[str, Any]) -> str | None:
    """What to know of the captions of a pool with this `info["space"]`, in a sentence, or None where they are good
    enough or no names are annotated."""
    if "captions_right" not in space:
        return None
    names, regions = space["asked"]["names"], space["asked"]["regions"]
    chance = 1 / names
    captions, images = (space[f"{what}_right"] for what in ("captions", "images"))
    if images - chance <= _SPREAD * math.sqrt(chance * (1 - chance) / regions):
        return (
            f"CLIP's look at the annotated regions names {images:.0%} of them, as guessing would (mean over {names} "
            "names): what it teaches of them is worth nothing; give a --clip that knows what is in these pictures"
        )
    if captions - chance >= _ENOUGH * (images - chance):
        return None
    return (
        f"captions name {captions:.0%} of the annotated regions, CLIP's look at them {images:.0%} (mean over "
        f"{space['asked']['names']} names): such captions make a pool that can be worth less than none; give a better "
        "--captioner"
    )
