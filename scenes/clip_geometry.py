"""The cosines of a real CLIP for a small one, without training: only its two projections and its logit scale change.

A CLIP that was trained on a small world spreads its embeddings over the whole sphere. A real one does not, and
temperatures that suit the one are useless for the other. The texts of a real CLIP ViT-B/32, measured over the names of
four data sets:

| | COCO 80 | LVIS 1,203 | Objects365 | Open Images 500 |
|---|---:|---:|---:|---:|
| mean cosine of two texts | 0.80 | 0.74 | 0.77 | 0.76 |
| its standard deviation | 0.04 | 0.05 | 0.05 | 0.06 |
| cosine of a text to the nearest other one, mean | 0.88 | 0.89 | 0.88 | 0.89 |
| principal components that the centred texts spread over (participation ratio) | 40 | 108 | 76 | 82 |

Its logit scale is 100. Of its images there are usual figures only, not measured here: 0.27 to the right text, 0.19 to
others, 0.5 to each other.

Both pooled features come out of a LayerNorm, x = w xhat + b with sum(xhat) = 0, so that sum_i x_i / w_i is
sum_i b_i / w_i whatever the input: a linear map can add constants to an embedding. With W the old projection, 1 that
constant, and N what W does not look at, less its mean:

    text   [a W x,  b 1,  0,  0]        image   [a' W y,  b' 1,  c' 1,  e' N y]

b is the cone of the texts, b b' what an image has with every text, c' the modality gap, e' what pictures have that no
text tells (left out unless it is asked for). After CLIP's normalisation the order of the texts for an image is nearly
what it was: |W x| varies a little between inputs, and with it the share of the constant.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from transformers import CLIPModel

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import CLIPProcessor

_ROUNDS = 50
_NOISE = 1e-2  # most relative error of the constant in float32


def reshape(
    clip: CLIPModel,
    processor: CLIPProcessor,
    crops: Sequence[Image.Image] | np.ndarray,
    captions: list[str],
    *,
    text_cosine: float = 0.75,
    right: float = 0.27,
    other: float = 0.19,
    image_cosine: float | None = None,
) -> tuple[CLIPModel, dict[str, dict[str, float]]]:
    """A copy of a trained CLIP whose embeddings have the cosines of a real one, and whose softmax says the same.

    Args:
        clip (CLIPModel): trained. processor: its `CLIPProcessor`.
        crops: n pictures of the model's size, each with an object. PIL or (S, S, 3) uint8.
        captions (list of n str): the text of each crop. Equal texts are one thing. Names do.
        text_cosine: mean cosine of two different texts.
        right, other: mean cosine of an image to its text and to the other texts.
        image_cosine: mean cosine of two images. None puts all of an image that no text has into the modality gap,
            which takes two more dimensions only, and gives about 0.97.

    Returns:
        (CLIPModel, {"before": ..., "after": ...}): it has the width d + 2, or more with `image_cosine`. What
        [`statistics`] says of the old and of the new one, on these crops and captions.

    Raises:
        ValueError: it is no CLIPModel, its LayerNorms leave nothing constant (those of an untrained one), or no
            projection gives these cosines.
    """
    if type(clip) is not CLIPModel:
        raise ValueError(f"expected a CLIPModel, got a {type(clip).__name__}: other CLIPs have other projections")
    if len(crops) != len(captions) or len(set(captions)) < 2:
        raise ValueError(
            f"expected a caption for each crop and two different ones, got {len(crops)} crops and {len(captions)} "
            f"captions, {len(set(captions))} of them different"
        )
    texts, images, own = _pooled(clip, processor, crops, captions)
    before = _statistics(_unit(clip.text_projection, texts), _unit(clip.visual_projection, images), own, clip)
    ones = _constant(clip.text_model.final_layer_norm, texts), _constant(clip.vision_model.post_layernorm, images)
    unseen = None if image_cosine is None else _unseen(clip.visual_projection.weight, images, ones[1])
    wanted = {"text": text_cosine, "right": right, "other": other}
    if image_cosine is not None:
        wanted["image"] = image_cosine
    result, aim = copy.deepcopy(clip), dict(wanted)
    for _ in range(_ROUNDS):  # |W x| varies, so what comes out differs a little from the aim
        rows = _projections(clip, texts, images, ones, unseen, aim, before)
        for projection, weight in zip((result.text_projection, result.visual_projection), rows):
            projection.weight, projection.out_features = torch.nn.Parameter(weight), len(weight)
        after = _statistics(_unit(result.text_projection, texts), _unit(result.visual_projection, images), own, clip)
        misses = {key: value - after[key] for key, value in wanted.items()}
        if max(map(abs, misses.values())) < 1e-5:
            break
        aim = {key: aim[key] + miss for key, miss in misses.items()}
    result.config.projection_dim = result.projection_dim = len(rows[0])
    for config in (result.config.text_config, result.config.vision_config):
        config.projection_dim = len(rows[0])
    with torch.no_grad():
        result.logit_scale += _slope(clip, result, texts, images).log()
    after = _statistics(_unit(result.text_projection, texts), _unit(result.visual_projection, images), own, result)
    return result, {"before": before, "after": after}


def statistics(
    clip: CLIPModel, processor: CLIPProcessor, crops: Sequence[Image.Image] | np.ndarray, captions: list[str]
) -> dict[str, float]:
    """What a CLIP's embeddings look like, on crops and the text of each (see [`reshape`]).

    Returns:
        dict. Mean cosines: `text` of two different texts, `nearest` of a text to the nearest other one, `image` of two
        crops, `right` of a crop to its text (`right_std`: its standard deviation), `other` of a crop to other texts.
        `components`: participation ratio of the centred texts' principal components. `scale`: exp of the logit scale.
        `share`: what CLIP's softmax over all texts gives the right one, mean. `accuracy`: share of the crops whose
        nearest text is theirs.
    """
    texts, images, own = _pooled(clip, processor, crops, captions)
    return _statistics(_unit(clip.text_projection, texts), _unit(clip.visual_projection, images), own, clip)


@torch.no_grad()
def _pooled(clip, processor, crops, captions):
    """Before projection: features (k, D) of the distinct captions, (n, D') of the crops. Caption of each crop (n,)."""
    distinct = list(dict.fromkeys(captions))
    row = {caption: i for i, caption in enumerate(distinct)}
    texts, images = [], []
    length = min(processor.tokenizer.model_max_length, clip.config.text_config.max_position_embeddings)
    for start in range(0, len(distinct), 256):
        padding = {"padding": "max_length", "truncation": True, "max_length": length}
        inputs = processor.tokenizer(distinct[start : start + 256], return_tensors="pt", **padding)
        texts.append(clip.text_model(**inputs.to(clip.device)).pooler_output)
    for start in range(0, len(crops), 256):
        some = list(crops[start : start + 256])
        inputs = processor.image_processor(some, do_resize=False, do_center_crop=False, return_tensors="pt")
        images.append(clip.vision_model(**inputs.to(clip.device)).pooler_output)
    own = torch.tensor([row[caption] for caption in captions], device=clip.device)
    return torch.cat(texts).float(), torch.cat(images).float(), own


@torch.no_grad()
def _unit(projection, features):
    return F.normalize(features @ projection.weight.float().T, dim=-1)


def _statistics(texts, images, own, clip):
    """[`statistics`] of unit embeddings."""
    cosines, among = images @ texts.T, texts @ texts.T
    right = cosines.gather(1, own[:, None])[:, 0]
    rest = len(texts) - 1
    spread = torch.linalg.svdvals(texts - texts.mean(0)).square()
    scale = clip.logit_scale.detach().exp()
    share = (scale * cosines).softmax(-1).gather(1, own[:, None]).mean()
    found = {
        "text": (among.sum() - len(texts)) / (len(texts) * rest),
        "nearest": (among - 2 * torch.eye(len(texts), device=among.device)).amax(1).mean(),
        "image": (images.sum(0).square().sum() - len(images)) / (len(images) * (len(images) - 1)),
        "right": right.mean(),
        "right_std": right.std(),
        "other": ((cosines.sum(1) - right) / rest).mean(),
        "components": spread.sum().square() / spread.square().sum(),
        "scale": scale,
        "share": share,
        "accuracy": (cosines.argmax(1) == own).float().mean(),
    }
    return {key: value.item() for key, value in found.items()}


@torch.no_grad()
def _constant(norm, features):
    """The functional (D,) that is 1 on everything that this LayerNorm puts out."""
    direction = 1 / norm.weight.double()
    constant = (norm.bias.double() * direction).sum()
    functional = (direction / constant).float()
    error = (features @ functional - 1).abs().max().item()
    if not error < _NOISE:
        raise ValueError(
            "expected a LayerNorm whose sum of bias / weight is well above its rounding errors, got "
            f"{constant.item():.2g} with a relative error of {error:.2g}; is this CLIP trained?"
        )
    return functional


@torch.no_grad()
def _unseen(projection, images, one):
    """(D' - d, D'): directions that the projection does not look at. Features there have the mean 0 and, on average,
    the length 1."""
    *_, directions = torch.linalg.svd(projection.float(), full_matrices=True)
    rows = directions[len(projection) :]
    rows = rows - (images @ rows.T).mean(0)[:, None] * one
    length = (images @ rows.T).square().sum(1).mean().sqrt() if len(rows) else torch.zeros(())
    if not length > 1e-3:
        raise ValueError("expected image features of more dimensions than embeddings; give no image cosine")
    return rows / length


@torch.no_grad()
def _projections(clip, texts, images, ones, unseen, aim, raw):
    """Weights of both projections for embeddings with the cosines of `aim`, were |W x| the same for all inputs. `raw`
    has the cosines of the old embeddings."""
    cone = (aim["text"] - raw["text"]) / (1 - raw["text"])  # the square of the constant in a text
    if not 0 < cone < 1:
        raise ValueError(
            f"expected a text cosine between the old one, {raw['text']:.3f}, and 1, got {aim['text']:.3f}"
        )
    told, shared = (1 - cone) ** 0.5, cone**0.5
    if not (raw["right"] > raw["other"] and aim["right"] > aim["other"]):
        raise ValueError(
            f"expected cosines that are higher for right texts than for others, got {raw['right']:.3f} and "
            f"{raw['other']:.3f} before, {aim['right']:.3f} and {aim['other']:.3f} after"
        )
    said = (aim["right"] - aim["other"]) / (told * (raw["right"] - raw["other"]))
    common = (aim["other"] - told * said * raw["other"]) / shared
    rest = 1 - said**2 - common**2
    own = 0.0 if unseen is None else 1 - aim["image"] - said**2 * (1 - raw["image"])
    if not 0 <= own <= rest:
        raise ValueError(
            f"no projection gives these cosines: {aim}; the part of an image along its text would have the length "
            f"{said:.3f}, that along all texts {common:.3f}"
        )
    pairs = (clip.text_projection.weight.float(), texts), (clip.visual_projection.weight.float(), images)
    text, image = (weight / (features @ weight.T).norm(dim=-1).mean() for weight, features in pairs)
    blocks = (
        [told * text, shared * ones[0][None], torch.zeros_like(ones[0][None])],
        [
            said * image,
            common * ones[1][None],
            (rest - own) ** 0.5 * ones[1][None],
        ],
    )
    if unseen is not None:
        blocks[0].append(ones[0].new_zeros(len(unseen), len(ones[0])))
        blocks[1].append(own**0.5 * unseen)
    return [torch.cat(rows) for rows in blocks]


@torch.no_grad()
def _slope(old, new, texts, images):
    """By how much the scale must grow: least squares of the old logits' differences between texts on the new ones."""
    cosines = [_unit(clip.visual_projection, images) @ _unit(clip.text_projection, texts).T for clip in (old, new)]
    before, after = (found - found.mean(1, keepdim=True) for found in cosines)
    return (before * after).sum() / after.square().sum()
