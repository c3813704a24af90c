"""delta, the least agreement of a region with its caption (paper 1.4), chosen from the data: a value that suits one
CLIP lets everything or nothing of another one pass. The paper gives none.

Captions of other regions say what agreement by chance is. Their cosines have the scale and the offset of those of own
captions, whatever the CLIP, so that a cut between the two is a property of the data.
"""

import logging

import numpy as np

logger = logging.getLogger(__name__)

OTHERS = 8  # captions of other regions that each region is compared with
CHANCE = 0.01  # share of them that delta lets pass
SAMPLE = 20_000  # most regions that are compared so
FITTING, TELLING = 2.0, 1.2  # times that own captions pass more often: below, a warning; and nothing can be told


def other_scores(images: np.ndarray, text_embeds: np.ndarray, said: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """cos(image, caption) of regions with up to [`OTHERS`] captions of other regions that say something else each.

    Args:
        images (n, d). text_embeds (k, d). said (n,): row of each region's caption. spoken (n,): whether it has one.
    """
    rng, parts = np.random.default_rng(0), []
    for _ in range(OTHERS):
        order = rng.permutation(len(said))
        differ = (said != said[order]) & spoken[order]
        parts.append((images[differ] * text_embeds[said[order[differ]]].astype(np.float32)).sum(1))
    found = np.concatenate(parts)
    return found[np.isfinite(found)]


def choose_delta(own: np.ndarray, others: np.ndarray) -> tuple[float, dict[str, float]]:
    """The cut that suits a CLIP, whatever its cosines are: [`CHANCE`] of other regions' captions would pass.

    That share is counted below their median and mirrored: above it some captions fit, those of things that are there
    often. At most half of the regions are left out.

    Args:
        own (n,): cos(image, caption) of regions. others (m,): the same with captions of other regions.

    Returns:
        (delta, dict of figures): medians of `own` and of `others`, and the share of `others` above delta.

    Raises:
        ValueError: own captions are above it hardly more often than others, so that a filter would say nothing.
    """
    if not len(own) or not len(others):
        raise ValueError(
            f"expected regions with different captions to choose delta from, got {len(own)} with a caption and an "
            "embedding; check --clip and --captioner, or give --keep-share"
        )
    low, middle = np.quantile(others, [CHANCE, 0.5])
    median = float(np.median(own))
    delta = round(float(min(2 * middle - low, median)), 4)
    passed, passed_others = float((own > delta).mean()), float((others > delta).mean())
    got = (
        f"cos(image, caption) with a median of {median:.3f}, {middle:.3f} with captions of other regions, and "
        f"{100 * passed:.1f} % and {100 * passed_others:.1f} % above {delta}"
    )
    if not passed > TELLING * passed_others:
        raise ValueError(
            f"expected captions that fit their own regions better than others, got {got}; check --clip and "
            "--captioner, or give --keep-share"
        )
    if not passed > FITTING * passed_others:
        logger.warning(
            "Captions fit their own regions little better than others: %s. The pool will say little; check --clip and "
            "--captioner",
            got,
        )
    figures = {"own": median, "others": float(middle), "others_above": passed_others}
    return delta, {key: round(value, 4) for key, value in figures.items()}
