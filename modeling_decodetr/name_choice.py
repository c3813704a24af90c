"""Names that a model looks for: those of its vocabulary, and embeddings of new ones.

What a vocabulary records of its text model is looked for on this machine alone. The Hub is asked only for a text model
that the caller names (`hub_rule.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from .excerpts import some_of
from .hub_rule import local_only, packaged, recorded_place
from .prompts import checked_names, prompts_of, recorded
from .vocabulary import Vocabulary, describe_encoder, same_encoder

logger = logging.getLogger(__name__)

Names = Sequence[str] | Mapping[str, str | Sequence[str]]


def choose_names(vocabulary: Vocabulary, names: Names, text_model: str | Path | None = None) -> Vocabulary:
    """A vocabulary of `names` alone, each once, in this order. Those that are not stored get embedded by the text
    model and with the templates that made the others.

    Args:
        vocabulary ([`Vocabulary`]).
        names (`list[str]`, or `dict`): a dict has texts that are embedded for its names, as
            [`Vocabulary.from_text_model`] takes them. A name counts as stored if it was made from the same ones.
        text_model: folder, Hub name or shipped name. Default: the vocabulary's own record of it.

    Raises:
        ValueError: some names are not stored, and the text model is unknown, cannot be loaded, or is not the one that
            made the vocabulary.
    """
    wanted = list(dict.fromkeys(checked_names(names)))
    fresh = _not_stored(vocabulary, names)
    if not fresh:
        return vocabulary.select(wanted)
    try:
        made = _embed(fresh, vocabulary.info, text_model)
    except (ImportError, ValueError) as error:
        try:
            vocabulary.select(wanted)
            not_stored = f"{some_of(fresh)}: the stored embeddings were made from other texts."
        except ValueError as of_names:
            not_stored = str(of_names)
        raise ValueError(
            f"{not_stored} They could not be embedded either: {str(error).rstrip('.')}. Give --clip NAME "
            "(text_model=NAME in Python) if the text model that made the stored embeddings lies elsewhere, or "
            "--vocabulary DIR with all names, as `decodetr vocabulary build` makes it."
        ) from error
    return vocabulary.joined(made.to(vocabulary.embeddings.device)).select(wanted)


def _not_stored(vocabulary, names):
    """{name: its texts} of the names for which a vocabulary has no embedding."""
    stored, info = set(vocabulary.names), vocabulary.info
    made_from, spaces = recorded(info, "prompts"), bool(info.get("underscores_to_spaces"))
    if not isinstance(names, Mapping):  # what a name was made from before, it is made from again
        new = [name for name in dict.fromkeys(names) if name not in stored]
        return dict(zip(new, prompts_of({name: made_from.get(name, name) for name in new}, spaces))) if new else {}
    texts = dict(zip(names, prompts_of(names, spaces)))
    return {name: own for name, own in texts.items() if name not in stored or own != made_from.get(name, [name])}


def _embed(prompts, info, text_model):
    """A Vocabulary of {name: texts}, in the embedding space and with the templates of a vocabulary's info."""
    if not info.get("encoder") and not info.get("encoder_fingerprint"):
        raise ValueError("the vocabulary does not say which text model made it")
    source, revision = (text_model, None) if text_model else (info.get("encoder"), info.get("encoder_revision"))
    if not source:
        raise ValueError("the vocabulary does not say where its text model is")
    asked_by = None if text_model else f"the vocabulary says that it made the names; --clip {source} fetches it"
    options = {"templates": info["templates"]} if info.get("templates") else {}
    folder = packaged(source)
    try:
        with local_only(folder, asked_by):
            fresh = Vocabulary.from_text_model(prompts, folder, revision=revision, **options)
    except OSError as error:
        raise ValueError(f"the text model {str(source)!r} cannot be loaded: {error}") from error
    fresh.info["encoder"] = recorded_place(source)
    if not same_encoder(fresh.info, info):
        raise ValueError(f"{describe_encoder(fresh.info)} is not the vocabulary's {describe_encoder(info)}")
    what = (
        "1 name without a stored embedding was"
        if len(prompts) == 1
        else f"{len(prompts)} names without a stored embedding were"
    )
    logger.warning("%s embedded by %s: %s", what, source, some_of(prompts))
    return fresh
