"""Vocabulary: the swappable table of name embeddings against which the predictor scores (paper 2.7).

The paper's fixed R^d -> R^K head would need the novel names at training time. Stored embeddings do not, and swapping
names is a copy of a tensor. No text encoder is loaded to use one. `Vocabulary.from_text_model` loads one to make one.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from .embedding_artifact import EmbeddingArtifact, check_embeddings, random_rows, unit_rows
from .embedding_space import as_texts, mean_cosine
from .excerpts import some_of
from .prompts import checked_names, own_prompts, prompts_of, recorded

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .image_encoder import Example
    from .prototype_pool import PrototypePool

logger = logging.getLogger(__name__)


class Vocabulary(EmbeddingArtifact):
    """K names with their embeddings.

    Args:
        names (`list[str]` of length K): exactly the strings that detections will carry. Any characters, duplicates
            allowed.
        embeddings (`torch.Tensor` of shape (K, d)): normalised to unit rows here.
        info (`dict`, *optional*): provenance (encoder, encoder_revision, encoder_fingerprint, templates, and prompts
            of names for which other texts were embedded).

    It is a sequence of its names: `len`, iteration and `name in vocabulary` are those of the list. `vocabulary[0]` is
    the first name, `vocabulary["cat"]` the embedding (d,) of that name, and a slice or a list of names is the
    vocabulary of those.

    Rows that are equal, as those of duplicate names are, share one place in the softmax, so that a name does not lose
    score by being listed twice. Each duplicate gets the full score.

    Raises:
        ValueError: no names, names that are not strings or are empty, a count that does not fit, NaN or zero rows.
    """

    stem = "vocabulary"
    TEMPLATE = "a photo of a {}."  # CLIP's own

    def __init__(self, names: list[str], embeddings: torch.Tensor, info: dict | None = None) -> None:
        super().__init__()
        self.names = checked_names(names)
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
        names: Sequence[str] | Mapping[str, str | Sequence[str]],
        model: str | Path | PreTrainedModel,
        templates: str | Sequence[str] = (TEMPLATE,),
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        batch_size: int = 256,
        progress: bool = False,
        underscores_to_spaces: bool = False,
    ) -> Vocabulary:
        """Embed names with the text encoder of a CLIP-like model: the unit mean of each name's filled templates.

        Args:
            names (`list[str]` of length K, or `dict`): a dict has, for each name, the text that is embedded instead,
                or several, of which the mean is taken: `{"traffic_cone": ["traffic cone", "pylon"]}`.
            model (`str`, `Path` or a model with `get_text_features`): folder or Hub name, loaded on the CPU, or a
                loaded model in evaluation mode, together with its `tokenizer`.
            templates (`list[str]` or `str`): prompts with `{}` where the name goes. Each counts once.
            revision, token: for the Hub.
            batch_size (`int`): prompts encoded at a time.
            progress (`bool`): show a progress bar.
            underscores_to_spaces (`bool`): embed "traffic cone" for the name "traffic_cone". Names that have texts
                of their own keep them.

        Returns:
            [`Vocabulary`] with embeddings (K, d), d the model's projection width. `info` says which encoder (name,
            revision, fingerprint), templates and texts made it. A warning lists names that are too long for the text
            encoder, and names that it cannot tell apart.

        Raises:
            ValueError: names or templates that cannot be used, names that differ only where they are too long for the
                text encoder, a model without text features, a loaded model without tokenizer or in training mode.
            OSError: from transformers, when there is no such model.
        """
        from .text_encoder import check_lengths, encode_texts, encoder_info, fill_template, load_text_model, same_texts

        prompts = prompts_of(names, underscores_to_spaces)
        names = checked_names(names)
        templates = [templates] if isinstance(templates, str) else list(templates or [])
        if not templates or not all(isinstance(template, str) for template in templates):
            raise ValueError(f"templates must be strings such as 'a photo of a {{}}.', got {templates!r}.")
        templates = list(dict.fromkeys(templates))
        flat = [prompt for texts in prompts for prompt in texts]
        labels = [
            name if prompt == name else f"{name}: {prompt}" for name, texts in zip(names, prompts) for prompt in texts
        ]
        filled = [[fill_template(template, prompt) for prompt in flat] for template in templates]
        if isinstance(model, torch.nn.Module):
            if tokenizer is None or model.training:
                problem = (
                    "has no tokenizer; give tokenizer=" if tokenizer is None else "is in training mode; call .eval()"
                )
                raise ValueError(f"the loaded {type(model).__name__} {problem}.")
        else:
            model, loaded_tokenizer = load_text_model(model, revision=revision, token=token)
            tokenizer = loaded_tokenizer if tokenizer is None else tokenizer
        for texts in filled:
            check_lengths(labels, texts, model, tokenizer)
        several = len(filled) > 1  # then one bar over the templates, else one over the names
        rows = torch.zeros(())
        for texts in tqdm(filled, desc="templates", disable=not (progress and several)):
            texts = same_texts(texts, model, tokenizer)
            rows = rows + encode_texts(texts, model, tokenizer, batch_size, progress=progress and not several)
        sums = torch.stack([own.sum(0) for own in rows.split([len(texts) for texts in prompts])])
        embeddings = F.normalize(sums, dim=-1)
        info = {**encoder_info(model), "templates": templates}
        info |= {"text_cosine": mean_cosine(embeddings)} if len(names) > 1 else {}
        info |= {"prompts": own} if (own := own_prompts(names, prompts)) else {}
        info |= {"underscores_to_spaces": True} if underscores_to_spaces else {}
        vocabulary = cls(names, embeddings, info)
        if equal := vocabulary.equal_names():
            some = "; ".join(" = ".join(map(repr, group)) for group in equal[:5]) + ("; ..." if equal[5:] else "")
            logger.warning("the text model cannot tell these names apart, each of them gets the same score: %s", some)
        return vocabulary

    @classmethod
    def from_images(
        cls,
        examples: Mapping[str, Sequence[Example]],
        model: str | Path | PreTrainedModel,
        pool: PrototypePool | None,
        *,
        image_processor: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Vocabulary:
        """Names that stand for what example images show, for things that no text describes well.

        A CLIP's images lie apart from its texts, with which the detector compares. So the mean embedding of a name's
        examples is moved to where a text that says the same would lie, by the means that the pool has measured and by
        its captions ([`as_texts`]).

        Args:
            examples (`dict`): for each name the images that show it, `{"my mug": [image, (image, box), ...]}`. An
                image is a PIL image, or a uint8 array (H, W, 3) in RGB; a box is x0, y0, x1, y1 in pixels of it.
            model: CLIP-like model that made the tables of the detector: folder or Hub name, or a loaded model in
                evaluation mode, together with its `image_processor`.
            pool ([`PrototypePool`] or None): that of the detector, such as `detector.prototype_pool`. With None the
                embeddings stay where images lie, and scores are low.
            revision, token: for the Hub.
            batch_size (`int`): crops embedded at a time. progress (`bool`): show a progress bar.

        Returns:
            [`Vocabulary`] with embeddings (K, d). `info` has the encoder, and in "examples" how many images each name
            is from.

        Raises:
            ValueError: no examples, a picture or box that cannot be used (with the name and its place), a model
                without image features, or one that did not make the pool; a pool without measured means.
            OSError: from transformers, when there is no such model.
        """
        from .image_encoder import encode_examples, load_image_model
        from .text_encoder import encoder_info

        names = checked_names(examples)
        if isinstance(model, torch.nn.Module):
            if image_processor is None or model.training:
                problem = "is in training mode; call .eval()" if model.training else "needs image_processor="
                raise ValueError(f"the loaded {type(model).__name__} {problem}.")
        else:
            model, image_processor = load_image_model(model, revision=revision, token=token)
        info = encoder_info(model)
        if pool is not None and not same_encoder(info, pool.info):
            raise ValueError(
                f"the examples would be embedded by {describe_encoder(info)}, the pool was made with "
                f"{describe_encoder(pool.info)}: give that model."
            )
        space = {} if pool is None else (pool.info.get("space") or {})
        if pool is not None and not {"text_mean", "image_mean"} <= space.keys():
            raise ValueError(
                "the pool does not say where images and texts of its teacher lie, as pools of `decodetr pool build` "
                "do; give one that does, or pool=None to leave the images where they are, with low scores."
            )
        rows = encode_examples(examples, model, image_processor, batch_size, progress)
        means = torch.stack([F.normalize(part.mean(0), dim=-1) for part in rows])
        info |= {"examples": {name: len(part) for name, part in zip(names, rows)}}
        return cls(names, as_texts(means, space, None if pool is None else pool.prototypes.detach().cpu()), info)

    @classmethod
    def from_pool(cls, pool: PrototypePool, threshold: float | None = None) -> Vocabulary:
        """The captions of a pool as names, to detect whatever it speaks of. No text model is needed.

        Prototypes that mean the same are one name: beginning with the one that stands for most captions, each takes
        those along whose centred cosine to it is at least `threshold`. All others are farther away.

        Args:
            pool ([`PrototypePool`]): with captions.
            threshold (`float`, *optional*): by default `background_threshold` of the pool's space, which was measured
                as the cosine from which a prototype means a name. So next to none is left for the background.

        Returns:
            [`Vocabulary`] of at most M names, the largest first.

        Raises:
            ValueError: the pool has no captions.
        """
        from .embedding_space import DEFAULTS, centred, mean_of

        if not pool.captions:
            raise ValueError("the pool has no captions, so they cannot be names; build it with `decodetr pool build`.")
        space = pool.info.get("space") or {}
        if threshold is None:
            threshold = float(space.get("background_threshold", DEFAULTS["background_threshold"]))
        prototypes = pool.prototypes.detach().float().cpu()
        rows = centred(prototypes, mean_of(space, "text_mean", prototypes))
        kept, free = [], torch.ones(len(pool), dtype=torch.bool)
        free &= torch.tensor([bool(caption and caption.strip()) for caption in pool.captions])
        text = {}  # rows of one caption are one name, however far apart their clusters lie
        for row in pool.count.cpu().argsort(descending=True, stable=True).tolist():
            if free[row] and text.setdefault(pool.captions[row], row) == row:
                kept.append(row)
                free &= rows @ rows[row] < threshold
        keys = ("encoder", "encoder_revision", "encoder_fingerprint", "logit_scale", "logit_bias")
        info = {key: pool.info[key] for key in keys if key in pool.info}
        names = [pool.captions[row] for row in kept]
        return cls(names, prototypes[kept], {**info, "names_of": "pool", "merged_from": threshold})

    @classmethod
    def random(cls, names: list[str], embedding_dim: int, info: dict | None = None) -> Vocabulary:
        """Names with random embeddings, as a model made from a config alone has them. The same ones every time."""
        return cls(names, random_rows(len(names), embedding_dim, seed=1), info)  # other rows than a pool's

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """The names, in their order."""
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @overload
    def __getitem__(self, key: int) -> str: ...

    @overload
    def __getitem__(self, key: str) -> torch.Tensor: ...

    @overload
    def __getitem__(self, key: slice | Sequence[str]) -> Vocabulary: ...

    def __getitem__(self, key: int | str | slice | Sequence[str]) -> str | torch.Tensor | Vocabulary:
        """A name by its place, an embedding (d,) by its name, a [`Vocabulary`] by a slice or a list of names.

        Raises:
            IndexError: no such place. KeyError: no such name, with the closest ones. ValueError: of a list.
        """
        if isinstance(key, str):
            if key not in self.names:
                close = ", ".join(difflib.get_close_matches(key, self.names, n=3)) or "none"
                raise KeyError(f"{key!r} is no name of the vocabulary (close: {close})")
            return self.embeddings[self.names.index(key)]
        if isinstance(key, slice):
            return Vocabulary(self.names[key], self.embeddings[key], self.info)
        return self.select(key) if isinstance(key, Sequence) else self.names[key]

    def extra_repr(self) -> str:
        encoder = self.info.get("encoder")
        return f"{some_of(self.names)}; {len(self)} of width {self.embedding_dim}, encoder {encoder or 'unknown'}"

    @property
    def embedding_dim(self) -> int:
        """d."""
        return self.embeddings.shape[1]

    def select(self, names: Sequence[str]) -> Vocabulary:
        """The vocabulary of some of the names, in the order given.

        Raises:
            ValueError: names that are not stored, with the closest ones that are.
        """
        names = checked_names(names)
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

    def joined(self, other: Vocabulary) -> Vocabulary:
        """These names and then those of another vocabulary. What both have is the other's.

        Raises:
            ValueError: they come from different encoders, or have different widths.
        """
        check_space("other vocabulary", other, self.embedding_dim, self.info)
        theirs = set(other.names)
        rows = [row for row, name in enumerate(self.names) if name not in theirs]
        embeddings = torch.cat([self.embeddings[rows], other.embeddings.to(self.embeddings.device)])
        info = {**other.info, **self.info}
        for key in ("prompts", "examples"):
            mine = {name: value for name, value in recorded(self.info, key).items() if name not in theirs}
            if both := mine | recorded(other.info, key):
                info[key] = both
        return Vocabulary([self.names[row] for row in rows] + other.names, embeddings, info)

    def equal_names(self) -> list[list[str]]:
        """Groups of different names that have one embedding, to the bit."""
        _, group = self.embeddings.unique(dim=0, return_inverse=True)
        members: dict[int, list[str]] = {}
        for name, number in dict(zip(self.names, group.tolist())).items():
            members.setdefault(number, []).append(name)
        return [names for names in members.values() if len(names) > 1]

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
