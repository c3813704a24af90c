"""Names that a model looks for: embeddings of new ones, and which of a vocabulary are taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.modeling_decodetr.image_encoder import load_image_model
from decodetr.modeling_decodetr.name_choice import Names, choose_names
from decodetr.modeling_decodetr.text_encoder import load_text_model
from decodetr.modeling_decodetr.vocabulary import Vocabulary
from decodetr.utils.devices import pick_device
from decodetr.utils.hub import recorded_place
from decodetr.utils.shipped import loading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from decodetr.modeling_decodetr import PrototypePool
    from decodetr.modeling_decodetr.image_encoder import Example

__all__ = ["choose_names", "embed_examples", "embed_names"]


def embed_names(
    names: Names,
    text_model: str | Path,
    templates: Sequence[str] | None = None,
    device: str | torch.device = "auto",
    underscores_to_spaces: bool = False,
) -> Vocabulary:
    """A [`Vocabulary`] of names.

    Args:
        names (list[str], or dict), underscores_to_spaces (bool): see [`Vocabulary.from_text_model`].
        text_model: folder, Hub name or shipped name of a CLIP-like model. The vocabulary records it.
        templates (list[str], *optional*): see [`Vocabulary.from_text_model`]. None takes its own.
        device: see [`pick_device`].

    Raises:
        FileNotFoundError: the text model cannot be loaded. ValueError: it is none.
    """
    with loading("text model", text_model) as source:
        model, tokenizer = load_text_model(source, device=pick_device(device))
    templates = (Vocabulary.TEMPLATE,) if templates is None else templates
    vocabulary = Vocabulary.from_text_model(
        names, model, templates, tokenizer=tokenizer, progress=True, underscores_to_spaces=underscores_to_spaces
    )
    # A shipped model goes by its name, not by where it lies here.
    vocabulary.info["encoder"] = recorded_place(text_model)
    return vocabulary


def embed_examples(
    examples: Mapping[str, Sequence[Example]],
    text_model: str | Path,
    pool: PrototypePool,
    device: str | torch.device = "auto",
) -> Vocabulary:
    """A [`Vocabulary`] of names that stand for what example images show, see [`Vocabulary.from_images`].

    Args:
        examples (dict): {name: images}. text_model: folder, Hub name or shipped name of a CLIP-like model. pool: of
            the detector. device: see [`pick_device`].

    Raises:
        FileNotFoundError: the model cannot be loaded. ValueError: it is none, or did not make the pool.
    """
    with loading("CLIP", text_model) as source:
        model, image_processor = load_image_model(source)
    model = model.to(pick_device(device))
    vocabulary = Vocabulary.from_images(examples, model, pool, image_processor=image_processor, progress=True)
    vocabulary.info["encoder"] = recorded_place(text_model)
    return vocabulary
