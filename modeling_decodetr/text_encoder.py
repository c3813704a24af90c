"""The text encoder of a CLIP-like model, used offline to embed names and captions, never to detect."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer

from .excerpts import some_of
from .safe_loading import load_safely

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_ATTEND_TO_PADDING = ("siglip", "siglip2")  # trained without an attention mask, whatever their tokenizer returns


def load_text_model(
    name_or_path: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A CLIP-like model (with `get_text_features`) in evaluation mode, and its tokenizer.

    Args:
        name_or_path (`str`): folder or Hub name, for example "openai/clip-vit-base-patch32".

    Raises:
        ValueError: the model has no text features of CLIP's kind.
    """
    name_or_path = str(name_or_path)
    config = load_safely(AutoConfig, name_or_path, revision=revision, token=token)
    if type(config) not in MODEL_MAPPING:  # such as a DeCo-DETR. The library would list all that it knows
        raise ValueError(
            f"{name_or_path} holds a model of type {config.model_type!r}, expected a model with text features such as "
            "CLIPModel."
        )
    model = load_safely(AutoModel, name_or_path, revision=revision, token=token, dtype=torch.float32)
    if not hasattr(model, "get_text_features"):
        raise ValueError(
            f"{name_or_path} holds a {type(model).__name__}, expected a model with text features such as CLIPModel."
        )
    return model.to(device).eval(), load_safely(AutoTokenizer, name_or_path, revision=revision, token=token)


def text_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens that the text encoder takes."""
    return min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)


@torch.inference_mode()
def encode_texts(
    texts: list[str],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 256,
    progress: bool = False,
) -> torch.Tensor:
    """Unit embeddings (n, d) of n texts, float32 on the CPU. Texts beyond the model's length are cut off.

    Equal texts get equal embeddings to the bit: each distinct one is encoded once, and padded to the model's full
    length, so that a row does not depend on the other texts.
    """
    distinct = list(dict.fromkeys(texts))
    length = text_length(model, tokenizer)
    parts = []
    for start in tqdm(range(0, len(distinct), batch_size), desc="texts", unit="batch", disable=not progress):
        batch = distinct[start : start + batch_size]
        inputs = tokenizer(batch, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        if model.config.model_type in _ATTEND_TO_PADDING:
            inputs.pop("attention_mask", None)
        features = model.get_text_features(**inputs.to(model.device)).pooler_output
        parts.append(F.normalize(features.float(), dim=-1).cpu())
    row = {text: i for i, text in enumerate(distinct)}
    return torch.cat(parts)[[row[text] for text in texts]]


def same_texts(texts: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts (n), each replaced by the first one that is the same to the model, as "Cat" is to one that lowers all
    letters. So their embeddings are equal to the bit, in whatever batch they are encoded."""
    length = text_length(model, tokenizer)
    first: dict[tuple, str] = {}
    ids = tokenizer(texts, truncation=True, max_length=length, verbose=False)["input_ids"]
    return [first.setdefault(tuple(row), text) for row, text in zip(ids, texts)]


def check_lengths(
    names: list[str], prompts: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Say which names are too long for the text encoder, and refuse those that it cannot tell apart.

    Args:
        names (`list[str]`). prompts (`list[str]`): the name filled into a template, one for each name.

    Raises:
        ValueError: two different prompts are the same once they are cut off.
    """
    length = text_length(model, tokenizer)
    long = {i for i, ids in enumerate(tokenizer(prompts, verbose=False)["input_ids"]) if len(ids) > length}
    if not long:
        return
    seen = {}
    for i, ids in enumerate(tokenizer(prompts, truncation=True, max_length=length)["input_ids"]):
        other = seen.setdefault(tuple(ids), i)
        if prompts[other] != prompts[i] and (i in long or other in long):
            raise ValueError(
                f"the names {_start(names[other])} and {_start(names[i])} differ only after the {length} tokens that "
                "the text encoder takes, so they would get one embedding; shorten them."
            )
    some = some_of((names[i] for i in sorted(long)), say=_start)
    message = "%d of %d names are longer than the %d tokens that the text encoder takes; their ends are cut off: %s"
    logger.warning(message, len(long), len(names), length, some)


def _start(name):
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


def encoder_info(model: PreTrainedModel) -> dict:
    """Which embedding space a table of embeddings lives in.

    Returns:
        dict of `encoder` (Hub name, or whole path of a folder), `encoder_revision` (the Hub's commit, or None) and
        `encoder_fingerprint`: SHA-256 of CLIP's two projections, or of the head of SigLIP's text tower, the same
        wherever the files lie and whatever they are called. None for a model that has neither. Also `logit_scale` and
        `logit_bias`: the model's own softmax is over logit_scale * cos + logit_bias. None where it has none.
    """
    heads = [getattr(model, name, None) for name in ("text_projection", "visual_projection")]
    if None in heads:  # SigLIP has no projections, but a head on its text tower
        heads = [getattr(getattr(model, "text_model", None), "head", None)]
    digest, place = hashlib.sha256(), model.config.name_or_path
    for head in heads:
        if head is not None:
            digest.update(head.weight.detach().float().cpu().numpy().tobytes())
    scale, bias = (getattr(model, name, None) for name in ("logit_scale", "logit_bias"))
    return {
        "encoder": os.path.abspath(place) if os.path.isdir(place) else place,
        "encoder_revision": getattr(model.config, "_commit_hash", None),
        "encoder_fingerprint": digest.hexdigest()[:16] if heads != [None] else None,
        "logit_scale": None if scale is None else round(scale.detach().float().exp().item(), 4),
        "logit_bias": None if bias is None else round(bias.detach().float().item(), 4),
    }


def fill_template(template: str, name: str) -> str:
    """The prompt of a name: `{}` in the template is replaced, everything else stays as it is.

    Raises:
        ValueError: the template has no `{}`.
    """
    if "{}" not in template:
        raise ValueError(f"a template must contain {{}} where the name goes, got {template!r}.")
    return template.replace("{}", name)
