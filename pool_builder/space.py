"""A teacher's embedding space, measured on the regions of a pool, and the temperatures and the background that fit it.

Whatever a CLIP's cosines look like, these are chosen from what it says about annotated regions. Each of them is asked
three times: with all names, when its own name is right, and with its own name left out, when the background is, once
with the captions that speak of it and once as if there were none. The three numbers of the teacher's softmax
(temperature, level, margin) and the threshold of what is background are those that make these answers most likely. So
the level is where right names part from the best wrong ones, and the captions of the pool count for as much
as they help.
"""

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from decodetr.modeling_decodetr import PrototypePool
from decodetr.modeling_decodetr.embedding_space import background_mass, centred, mean_cosine

LOOKED_UP = 5.0  # prototypes that a lookup spreads over at least: median of the effective number
_REGIONS, _COSINES = 2000, 1_500_000  # at most so many regions are asked, and so many of their cosines
FEWEST = 50  # annotated regions below which captions stand in for names
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
# A little worse is as good: of such thresholds the highest is taken, which leaves more captions in the background.
_TOLERANCE = 0.02
_UNSPOKEN = 0.25  # weight of things without a name that no caption speaks of. There are fewer of them
_NONE = -9.0  # a cosine of nothing; -inf has no gradient
# How much a temperature far from CLIP's own is held against it: few names fit any small temperature equally well.
_PRIOR = 0.03


def space_without_names(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    prototypes: np.ndarray,
    *,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
) -> dict[str, Any]:
    """What does not depend on names: means, and how narrow the space is.

    Args:
        image_embeds (R, d): unit rows of regions. text_embeds (R, d): of their captions.
        prototypes (M1, d): coarse prototypes. Each counts the same, so that a frequent thing does not pull the mean
            of the texts.
        logit_scale, logit_bias (`float`, *optional*): the teacher's own, see `encoder_info`.

    Returns:
        dict for `PrototypePool.info["space"]`: `text_mean`, `image_mean` (lists of d), `logit_scale`, `logit_bias`,
        `text_cosine` (mean between two prototypes), `effective_rank` (of the prototypes: exp of the entropy of their
        spectrum), `matched_cosine`, `mismatched_cosine` and its standard deviation `mismatched_spread` (of an image to
        its own caption, and to another image's).
    """
    images, texts, rows = (
        F.normalize(torch.as_tensor(x).float(), dim=-1) for x in (image_embeds, text_embeds, prototypes)
    )
    nearest = torch.cat([(part @ rows.T).argmax(-1) for part in texts.split(4096)])
    sums = torch.zeros_like(rows).index_add_(0, nearest, images)
    seen = torch.bincount(nearest, minlength=len(rows)) > 0
    per_cluster = sums[seen] / torch.bincount(nearest, minlength=len(rows))[seen, None]
    mean = rows.mean(0)
    spectrum = torch.linalg.svdvals((rows - mean).double()).square()
    spectrum = spectrum[spectrum > 0] / spectrum.sum() if spectrum.sum() > 0 else torch.ones(1)
    other = texts[
        torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    ]  # equal captions do not count
    crossed = (images * other).sum(-1)[(texts != other).any(-1)]
    return {
        "text_mean": mean.tolist(),
        "image_mean": per_cluster.mean(0).tolist(),
        "logit_scale": logit_scale,
        "logit_bias": logit_bias,
        "text_cosine": mean_cosine(rows) if len(rows) > 1 else None,
        "effective_rank": torch.special.entr(spectrum).sum().exp().item(),
        "matched_cosine": (images * texts).sum(-1).mean().item(),
        "mismatched_cosine": crossed.mean().item() if len(crossed) else None,
        "mismatched_spread": crossed.std().item() if len(crossed) > 1 else None,
    }


def choose_scales(
    space: dict[str, Any],
    prototypes: np.ndarray | torch.Tensor,
    image_embeds: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
    names: np.ndarray | torch.Tensor,
    seed: int = 0,
) -> dict[str, Any]:
    """The temperatures and the background of `Scales`, from regions whose name is known.

    Args:
        space (dict): of [`space_without_names`]. prototypes (M, d).
        image_embeds (R, d): unit rows. labels (R,) int64: their names, rows of `names` (K, d), K at least 2.

    Returns:
        dict with the fields of `Scales`, and `right_name` and `background`: the share that the teacher so gives to the
        right name, and to the background where the right name is left out (means over the regions), and
        `looked_up`, the median of the effective number of prototypes in a lookup.
    """
    text_mean, image_mean = (torch.tensor(space[name]) for name in ("text_mean", "image_mean"))
    fewest = max(_COSINES // (len(prototypes) + len(names)), FEWEST)
    rows, labels = balanced(torch.as_tensor(labels), min(_REGIONS, fewest), seed)
    z = F.normalize(torch.as_tensor(image_embeds).float(), dim=-1)[rows]
    p, n = centred(torch.as_tensor(prototypes), text_mean), centred(torch.as_tensor(names), text_mean)
    own = None
    if space.get("logit_scale"):
        lengths = [
            (F.normalize(torch.as_tensor(x).float(), dim=-1) - mean).norm(dim=-1).mean()
            for x, mean in ((z, image_mean), (names, text_mean))
        ]
        own = 1 / (space["logit_scale"] * float(lengths[0] * lengths[1]))
    z = centred(z, image_mean)
    fits, before, closest = {}, None, (p @ n.T).amax(-1)
    for threshold in _THRESHOLDS:
        if before is None or ((closest < threshold) != (closest < before)).any():
            asked = _questions(z, labels, n, p, threshold)
            fits[threshold] = (_fit(asked, own), asked)
        else:  # the same background
            fits[threshold] = fits[before]
        before = threshold
    best = min(fit.fun for fit, _ in fits.values())
    threshold = max(t for t, (fit, _) in fits.items() if fit.fun <= best + _TOLERANCE)
    fit, asked = fits[threshold]
    log_temperature, level, margin = map(float, fit.x)
    temperature = math.exp(log_temperature)
    right, _, none = (torch.exp(-x).mean().item() for x in _surprise(torch.tensor(fit.x).float(), *asked))
    # A CLIP whose right name does not stand out has no cosine to speak of. Its space is not blown up for it.
    image_cosine = min(max(asked[1].median().item(), 0.05), 1.0)
    tau, looked_up = lookup_temperature(z, p, lowest=temperature)
    return {
        "asked": {"names": len(n), "regions": len(z)},
        "teacher_temperature": tau,
        "assignment_temperature": tau / image_cosine,
        "teacher_name_temperature": temperature,
        "name_temperature": temperature / image_cosine,
        "background_threshold": threshold,
        "background_level": level,
        "background_margin": margin,
        "image_cosine": image_cosine,
        "right_name": right,
        "background": none,
        "looked_up": looked_up,
    }


def lookup_temperature(
    embeddings: torch.Tensor, prototypes: torch.Tensor, wanted: float = LOOKED_UP, lowest: float = 0.0
) -> tuple[float, float]:
    """(tau, effective number of prototypes, median over the rows) at which lookups of embeddings (R, d) among
    prototypes (M, d), both centred unit rows, spread over `wanted` prototypes, or over a quarter of them if there are
    fewer than four times as many.

    Args:
        lowest: of tau, the temperature at which the teacher tells names apart. Many captions say the same in other
            words. A lookup that takes five of them parts what the teacher itself cannot, and teaches noise.
    """
    similarity = embeddings @ prototypes.T
    wanted = max(min(wanted, len(prototypes) / 4), 1.0)
    low, high = 1e-4, 4.0
    for _ in range(40):
        tau = math.sqrt(low * high)
        number = effective_number(similarity / tau)
        low, high = (tau, high) if number < wanted else (low, tau)
    tau = max(tau, lowest)
    return tau, effective_number(similarity / tau)


def random_pool(pool: PrototypePool, image_embeds: np.ndarray | torch.Tensor) -> PrototypePool:
    """A pool as large as `pool` that says nothing: random directions around the same mean, as far from it, of which a
    lookup takes as many.

    Args:
        pool (PrototypePool): with a space. image_embeds (R, d): of regions, unit rows.
    """
    space = dict(pool.info["space"])
    text_mean, image_mean = (torch.tensor(space[name]) for name in ("text_mean", "image_mean"))
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(pool.prototypes.shape, generator=generator), dim=-1)
    rows = text_mean + (pool.prototypes - text_mean).norm(dim=-1, keepdim=True) * directions
    images = centred(torch.as_tensor(image_embeds[:_REGIONS]), image_mean)
    tau, space["looked_up"] = lookup_temperature(images, centred(rows, text_mean), space["looked_up"])
    space |= {"teacher_temperature": tau, "assignment_temperature": tau / space["image_cosine"]}
    known = {name: pool.info.get(name) for name in ("encoder", "encoder_revision", "encoder_fingerprint")}
    return PrototypePool(rows, pool.level, pool.parent, info={**known, "space": space})


def effective_number(logits: torch.Tensor) -> float:
    """exp of the entropy of softmax(logits), the median over the rows (R, M)."""
    return torch.special.entr(logits.softmax(-1)).sum(-1).exp().median().item()


def balanced(labels: torch.Tensor, most: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, their labels (R,)): at most so many of them, of frequent names no more than of others as far as that
    goes."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    by_name = np.argsort(shuffled, kind="stable")
    counts = np.bincount(shuffled)
    place = np.empty(len(labels), dtype=np.int64)  # how many of the same name come before
    place[by_name] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = torch.from_numpy(order[np.argsort(place, kind="stable")[:most]])
    return rows, labels[rows]


def _questions(z, labels, names, prototypes, threshold):
    """Cosines of regions (R, d) to all names (R, K), to their own (R,), to the others (R, K), and to the prototypes of
    the background (R, M): with all names, and without the own one, where the prototypes that only it explained join
    the background. _NONE for what does not take part."""
    similarity, among = z @ names.T, z @ prototypes.T
    closest, which = (prototypes @ names.T).topk(2, dim=-1)
    own = labels[:, None]
    left = torch.where(which[None, :, 0] == own, closest[None, :, 1], closest[None, :, 0])
    right = similarity.gather(1, own)[:, 0]
    background, without = (
        among.masked_fill(explained >= threshold, _NONE) for explained in (closest[None, :, 0], left)
    )
    return similarity, right, similarity.scatter(1, own, _NONE), background, without


def _surprise(x, similarity, right, rest, background, without):
    """-log of the right name's share, and of the background's where that name is left out, without the captions
    that speak of it and with them: (R,) each."""
    temperature, level, margin = x[0].exp(), x[1], x[2]
    every = torch.ones((), dtype=torch.bool)
    masses = [background_mass(among, every, temperature, level, margin) for among in (background, without)]
    names, others = (cosines.div(temperature).logsumexp(-1) for cosines in (similarity, rest))
    nameless = (torch.logaddexp(others, mass) - mass for mass in masses)  # no caption speaks of it, or one does
    return torch.logaddexp(names, masses[0]) - right / temperature, *nameless


def _fit(asked, own):
    """The minimum over (log temperature, level, margin), of what `_questions` gives."""
    _, right, rest, *_ = asked
    spread = max((right - rest.amax(-1)).std().item(), 1e-3)

    def loss(x):
        x = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        named, unspoken, spoken = (part.mean() for part in _surprise(x, *asked))
        value = named + spoken + _UNSPOKEN * unspoken + 1e-2 * x[2].square()
        if own is not None:
            value = value + _PRIOR * (x[0] - math.log(own)).square()
        value.backward()
        return value.item(), x.grad.double().numpy()

    start = [math.log(spread / 2), min(right.median().item() - spread / 2, 0.99), 0.01]
    bounds = [(math.log(1e-4), math.log(4.0)), (-0.99, 0.99), (0.0, 2.0)]
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)


def doubt_lookup(space: dict[str, Any], prototypes: int) -> str | None:
    """What to know of a pool with this `info["space"]` and so many prototypes, in a sentence, where a lookup takes
    most of them, or None."""
    looked_up = space.get("looked_up", 0.0)
    if looked_up <= max(prototypes / 2, LOOKED_UP):
        return None
    return (
        f"a lookup takes {looked_up:.0f} of the {prototypes} prototypes (temperature "
        f"{space['teacher_temperature']:.3g}), so that it is nearly the same for every region: CLIP does not tell "
        "these pictures, or what was chosen from, apart; give boxes with names that it knows, or a --clip that knows "
        "what is in the pictures"
    )


def _chosen_from(regions, names, by=None, groups=0):
    """What scales were chosen from, in words."""
    if by == "captions":
        return f"{regions} regions, {names} captions in the place of names"
    if groups:
        own = names - groups
        return f"{regions} regions of {own} name{'s' if own > 1 else ''} and {groups} groups of other captions"
    return f"{regions} regions of {names} names"


def describe(space: dict[str, Any]) -> str:
    """What was measured and chosen, in two lines."""
    narrow = f"space: cosine between captions {space['text_cosine'] or 1:.2f}, of an image to its caption "
    narrow += f"{space['matched_cosine']:.2f}"
    if space["mismatched_cosine"] is not None:
        narrow += f", to others {space['mismatched_cosine']:.2f} +- {space['mismatched_spread'] or 0:.3f}"
    if "asked" not in space:
        return f"{narrow}\nno temperatures were chosen: there is one prototype; those of the paper hold"
    asked = _chosen_from(**space["asked"])
    return (
        f"{narrow}\nchosen from {asked}: a lookup takes {space['looked_up']:.0f} prototypes (temperature "
        f"{space['teacher_temperature']:.3g}); names at {space['teacher_name_temperature']:.3g}, background from "
        f"{space['background_level']:.2f}: the right name gets {space['right_name']:.0%}, the background "
        f"{space['background']:.0%} where that name is left out"
    )
