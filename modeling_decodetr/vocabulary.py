"""Vocabulary: the swappable table of name embeddings against which the predictor scores (paper 2.7).

The paper's fixed R^d -> R^K head would need the novel names at training time. Stored embeddings do not, and swapping
names is a copy of a tensor. No text encoder is loaded to use one. `Vocabulary.from_text_model` loads one to make one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from .card_text import markdown_text
from .embedding_artifact import EmbeddingArtifact, check_embeddings, random_rows, unit_rows
from .embedding_space import text_cosine

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Vocabulary(EmbeddingArtifact):
    """K names with their embeddings.

    Args:
        names (`list[str]` of length K): exactly the strings that detections will carry. Any characters, duplicates
            allowed.
        embeddings (`torch.Tensor` of shape (K, d)): normalised to unit rows here.
        info (`dict`, *optional*): provenance (encoder, encoder_revision, encoder_fingerprint, templates).

    Rows that are equal, as those of duplicate names are, share one place in the softmax, so that a name does not lose
    score by being listed twice. Each duplicate gets the full score.

    Raises:
        ValueError: no names, names that are not strings or are empty, a count that does not fit, NaN or zero rows.
    """

    stem = "vocabulary"
    TEMPLATE = "a photo of a {}."  # CLIP's own

    def __init__(self, names: list[str], embeddings: torch.Tensor, info: dict | None = None) -> None:
        super().__init__()
        self.names = _checked_names(names)
        embeddings = check_embeddings(embeddings, "embeddings")
        if len(self.names) != embeddings.shape[0]:
            raise ValueError(
                f"names and embeddings must fit, got {len(self.names)} names and {embeddings.shape[0]} rows."
            )
        self.info = dict(info or {})
        if embeddings.device.type != "meta":
            zero = (embeddings == 0).all(-1)
            if zero.any():
                raise ValueError(f"the embedding of {self.names[int(zero.int().argmax())]!r} is zero.")
            # Unit rows are kept to the bit, so that saving and loading changes nothing.
            unit = (embeddings.norm(dim=-1) - 1).abs() < 1e-6
            embeddings = torch.where(unit[:, None], embeddings, unit_rows(embeddings))
            _, group, size = embeddings.unique(dim=0, return_inverse=True, return_counts=True)
            log_share = -size[group].float().log()
        else:
            log_share = torch.zeros(len(self.names), device="meta")
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("log_share", log_share)

    @classmethod
    def from_text_model(
        cls,
        names: Sequence[str],
        model: str | Path | PreTrainedModel,
        templates: str | Sequence[str] = (TEMPLATE,),
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        batch_size: int = 256,
        progress: bool = False,
    ) -> Vocabulary:
        """Embed names with the text encoder of a CLIP-like model: the unit mean of each name's filled templates.

        Args:
            names (`list[str]` of length K).
            model (`str`, `Path` or a model with `get_text_features`): folder or Hub name, loaded on the CPU, or a
                loaded model in evaluation mode, together with its `tokenizer`.
            templates (`list[str]` or `str`): prompts with `{}` where the name goes.
            revision, token: for the Hub.
            batch_size (`int`): prompts encoded at a time.
            progress (`bool`): show a progress bar.

        Returns:
            [`Vocabulary`] with embeddings (K, d), d the model's projection width. `info` says which encoder (name,
            revision, fingerprint) and templates made it.

        Raises:
            ValueError: names or templates that cannot be used, names that differ only where they are too long for the
                text encoder, a model without text features, a loaded model without tokenizer or in training mode.
            OSError: from transformers, when there is no such model.
        """
        from .text_encoder import check_lengths, encode_texts, encoder_info, fill_template, load_text_model

        names = _checked_names(names)
        for i, name in enumerate(names):  # no tokenizer takes half of a surrogate pair
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise ValueError(f"names must be texts, got {name!r} at position {i}: was it written in UTF-8?")
        templates = [templates] if isinstance(templates, str) else list(templates or [])
        if not templates or not all(isinstance(template, str) for template in templates):
            raise ValueError(f"templates must be strings such as 'a photo of a {{}}.', got {templates!r}.")
        prompts = [[fill_template(template, name) for name in names] for template in templates]
        if isinstance(model, torch.nn.Module):
            if tokenizer is None or model.training:
                problem = (
                    "has no tokenizer; give tokenizer=" if tokenizer is None else "is in training mode; call .eval()"
                )
                raise ValueError(f"the loaded {type(model).__name__} {problem}.")
        else:
            model, loaded_tokenizer = load_text_model(model, revision=revision, token=token)
            tokenizer = loaded_tokenizer if tokenizer is None else tokenizer
        for texts in prompts:
            check_lengths(names, texts, model, tokenizer)
        several = len(prompts) > 1  # then one bar over the templates, else one over the names
        total = 0
        for texts in tqdm(prompts, desc="templates", disable=not (progress and several)):
            total = total + encode_texts(texts, model, tokenizer, batch_size, progress=progress and not several)
        embeddings = F.normalize(total, dim=-1)
        narrow = {"text_cosine": text_cosine(embeddings)} if len(names) > 1 else {}
        return cls(names, embeddings, {**encoder_info(model), **narrow, "templates": templates})

    @classmethod
    def random(cls, names: list[str], embedding_dim: int, info: dict | None = None) -> Vocabulary:
        """Names with random embeddings, as a model made from a config alone has them. The same ones every time."""
        return cls(names, random_rows(len(names), embedding_dim, seed=1), info)  # other rows than a pool's

    def __len__(self) -> int:
        return len(self.names)

    def extra_repr(self) -> str:
        encoder = self.info.get("encoder")
        return f"{len(self)} names of width {self.embedding_dim}, encoder {encoder or 'unknown'}"

    def _card_lines(self):
        some = "; ".join(map(markdown_text, self.names[:20]))
        lines = ["# Vocabulary", "", f"Embeddings of {len(self)} names, width {self.embedding_dim}, for DeCo-DETR:"]
        more = "; ..." if len(self) > 20 else ""
        return [*lines, "`Vocabulary.from_pretrained(...)`.", "", f"Names: {some}{more}"]

    @property
    def embedding_dim(self) -> int:
        """d."""
        return self.embeddings.shape[1]

    def select(self, names: Sequence[str]) -> Vocabulary:
        """The vocabulary of some of the names, in the order given.

        Raises:
            ValueError: names that are not stored, with the closest ones that are.
        """
        names = _checked_names(names)
        index = {name: i for i, name in reversed(list(enumerate(self.names)))}
        unknown = [name for name in names if name not in index]
        if unknown:
            close = {name: difflib.get_close_matches(name, self.names, n=3) for name in unknown[:5]}
            hints = "; ".join(f"{name!r} (close: {', '.join(found) or 'none'})" for name, found in close.items())
            raise ValueError(
                f"{len(unknown)} of {len(names)} names have no stored embedding: {hints}. Choose from the "
                "vocabulary's names, or give a vocabulary that holds embeddings of these names, as "
                f"Vocabulary.from_text_model(names, {self.info.get('encoder') or 'TEXT_MODEL'!r}) makes it."
            )
        rows = torch.tensor([index[name] for name in names], device=self.embeddings.device)
        return Vocabulary(names, self.embeddings[rows], self.info)

    def log_normaliser(self, logits: torch.Tensor) -> torch.Tensor:
        """log sum_k exp(logits_k) over distinct rows, for logits (..., K): shape (...,)."""
        return (logits + self.log_share).logsumexp(-1)

    def texts(self) -> list[str]:
        return self.names

    def _metadata(self):
        return {**self.info, "names": self.names}

    @classmethod
    def _from_parts(cls, tensors, metadata):
        info = {key: value for key, value in metadata.items() if key not in ("format", "format_version", "names")}
        if "embeddings" not in tensors:
            raise ValueError("tensor embeddings is missing; build the vocabulary again.")
        return cls(metadata.get("names"), tensors["embeddings"], info)


def same_encoder(info: dict | None, other: dict | None) -> bool:
    """Whether two tables with this provenance (dicts or None) can come from one embedding space.

    Fingerprints decide where both have one, because the same encoder may be a path here and a Hub name there, else the
    encoders' names do. Unknown provenance fits everything.
    """
    info, other = info or {}, other or {}
    for key in ("encoder_fingerprint", "encoder"):
        if info.get(key) and other.get(key):
            return info[key] == other[key]
    return True


def describe_encoder(info: dict | None) -> str:
    """The encoder of a table's provenance in words, with its fingerprint if it is known."""
    name, fingerprint = (info or {}).get("encoder"), (info or {}).get("encoder_fingerprint")
    return f"{name!r} (fingerprint {fingerprint})" if fingerprint else repr(name)


def check_space(what: str, artifact: EmbeddingArtifact, embedding_dim: int, other_info: dict | None) -> None:
    """ValueError unless a pool or vocabulary (`what`) fits a model: its width, and the encoder of the other table."""
    if artifact.embedding_dim != embedding_dim:
        raise ValueError(
            f"the {what} has embeddings of width {artifact.embedding_dim}, the model's space has d = "
            f"{embedding_dim}: pool, vocabulary and model must come from the same CLIP model."
        )
    if not same_encoder(artifact.info, other_info):
        raise ValueError(
            f"the {what} was made with encoder {describe_encoder(artifact.info)}, the model's other table with "
            f"{describe_encoder(other_info)}: build both "
            "with the same one (set_pool(pool, vocabulary=...) swaps both at once)."
        )


def _checked_names(names) -> list[str]:
    """names as a list, or a ValueError that says which one is no name."""
    if isinstance(names, str):
        raise ValueError(f"names must be a list of strings, got the string {names!r}; write [{names!r}].")
    names = list(names or [])
    if not names:
        raise ValueError("names must hold at least one name, got none.")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"names must be non-empty strings, got {name!r} at position {i}.")
    return names
