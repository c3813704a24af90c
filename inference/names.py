"""Names that a model looks for: those of a vocabulary, and embeddings of new ones."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from decodetr.modeling_decodetr.text_encoder import load_text_model
from decodetr.modeling_decodetr.vocabulary import Vocabulary, describe_encoder, same_encoder
from decodetr.utils.devices import pick_device
from decodetr.utils.hub import recorded_place
from decodetr.utils.shipped import loading

logger = logging.getLogger(__name__)


def embed_names(
    names: Sequence[str],
    text_model: str | Path,
    templates: Sequence[str] | None = None,
    device: str | torch.device = "auto",
) -> Vocabulary:
    """A [`Vocabulary`] of names.

    Args:
        names (list[str]).
        text_model: folder, Hub name or shipped name of a CLIP-like model. The vocabulary records it.
        templates (list[str], *optional*): see [`Vocabulary.from_text_model`]. None takes its own.
        device: see [`pick_device`].

    Raises:
        FileNotFoundError: the text model cannot be loaded. ValueError: it is none.
    """
    with loading("text model", text_model) as source:
        model, tokenizer = load_text_model(source, device=pick_device(device))
    templates = (Vocabulary.TEMPLATE,) if templates is None else templates
    vocabulary = Vocabulary.from_text_model(names, model, templates, tokenizer=tokenizer, progress=True)
    # A shipped model goes by its name, not by where it lies here.
    vocabulary.info["encoder"] = recorded_place(text_model)
    return vocabulary


def choose_names(vocabulary: Vocabulary, names: Sequence[str], text_model: str | Path | None = None) -> Vocabulary:
    """A vocabulary of `names` alone, in this order. Those that are not stored get embedded by the text model and
    templates that made the others.

    Args:
        vocabulary: a `Vocabulary`.
        names (list[str]).
        text_model: folder, Hub name or shipped name. Default: the vocabulary's own record of it.

    Raises:
        ValueError: some names are not stored, and the text model is unknown, cannot be loaded, or is not the one that
            made the vocabulary.
    """
    try:
        return vocabulary.select(names)
    except ValueError as error:
        not_stored = error
    stored = set(vocabulary.names)
    new = [name for name in names if name not in stored]
    try:
        fresh = _embed_names(new, vocabulary.info, text_model)
    except (FileNotFoundError, ImportError, ValueError) as error:
        raise ValueError(
            f"{not_stored} They could not be embedded either: {str(error).rstrip('.')}. Give --clip NAME if the "
            "text model that made the stored embeddings lies elsewhere, or --vocabulary DIR with all names, as "
            "`decodetr vocabulary build` makes it."
        ) from error
    embeddings = torch.cat([vocabulary.embeddings.cpu(), fresh.embeddings])
    return type(vocabulary)([*vocabulary.names, *new], embeddings, vocabulary.info).select(names)


def _embed_names(names, info, text_model):
    """A Vocabulary of names, in the embedding space and with the templates of a vocabulary's info."""
    if not info.get("encoder") and not info.get("encoder_fingerprint"):
        raise ValueError("the vocabulary does not say which text model made it")
    source, revision = (text_model, None) if text_model else (info.get("encoder"), info.get("encoder_revision"))
    if not source:
        raise ValueError("the vocabulary does not say where its text model is")
    asked_by = None if text_model else f"the vocabulary says that it made the names; --clip {source} fetches it"
    options = {"templates": info["templates"]} if info.get("templates") else {}
    with loading("text model", source, asked_by) as folder:
        fresh = Vocabulary.from_text_model(names, folder, revision=revision, **options)
    fresh.info["encoder"] = recorded_place(source)
    if not same_encoder(fresh.info, info):
        raise ValueError(f"{describe_encoder(fresh.info)} is not the vocabulary's {describe_encoder(info)}")
    some = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    what = (
        "1 name without a stored embedding was"
        if len(names) == 1
        else f"{len(names)} names without a stored embedding were"
    )
    logger.warning("%s embedded by %s: %s", what, source, some)
    return fresh
