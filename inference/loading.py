"""A saved DeCo-DETR, ready to detect."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection  # also tells the Auto classes of it
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.processing.image_processing_pil_decodetr import DeCoDetrProcessingMixin
from decodetr.utils.devices import pick_device
from decodetr.utils.model_identity import config_settings, json_digest
from decodetr.utils.shipped import load_vocabulary, loading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from decodetr.modeling_decodetr.name_choice import Names
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


def load_model(
    model: str | Path,
    vocabulary: str | Path | None = None,
    names: Names | Literal["pool"] | None = None,
    device: str | torch.device = "auto",
    text_model: str | Path | None = None,
) -> tuple[DeCoDetrForObjectDetection, DeCoDetrImageProcessor | DeCoDetrImageProcessorPil]:
    """A saved DeCo-DETR in evaluation mode, and its image processor.

    Args:
        model: folder, Hub name or name of a shipped model (`resolve`).
        vocabulary: the same for a `Vocabulary` that replaces the stored one.
        names: look for these names, in this order. Those without an embedding in `vocabulary` (or in the stored one)
            are embedded by the text model that made the others. See `DeCoDetrForObjectDetection.set_names`, also for a
            dict and "pool".
        device: "auto" takes an accelerator if there is one.
        text_model: folder, Hub name or shipped name of that text model. Default: the one which the vocabulary says.

    Returns:
        (DeCoDetrForObjectDetection, image processor). The names are `model.vocabulary.names`.

    Raises:
        FileNotFoundError: no such model or vocabulary.
        ValueError: not a DeCo-DETR, or names that have no embedding (with close matches) and cannot get one.
    """
    with loading("model", model) as folder:
        check_type(load_safely(AutoConfig, folder).model_type, model)
        detector = DeCoDetrForObjectDetection.from_pretrained(folder)
        image_processor = load_safely(AutoImageProcessor, folder)
        if not isinstance(image_processor, DeCoDetrProcessingMixin):
            raise ValueError(
                f"{model}: preprocessor_config.json is of {type(image_processor).__name__}, expected a "
                "DeCoDetrImageProcessor; copy or download the file again"
            )
    if vocabulary is not None:
        detector.set_vocabulary(load_vocabulary(vocabulary))
    if names is not None:
        detector.set_names(names, text_model)
    return detector.to(pick_device(device)).eval(), image_processor


def check_type(model_type: str | None, model: str | Path) -> None:
    """ValueError unless the `model_type` of a config is that of a DeCo-DETR. `model`: what the message calls it."""
    if model_type != DeCoDetrConfig.model_type:
        raise ValueError(
            f"{model} holds a model of type {model_type!r}, expected a DeCo-DETR; `decodetr build` makes one of a "
            "detector of transformers and photos, and `decodetr predict --clip CLIP --names ...` detects with it at "
            "once"
        )


def bare_model(model: str | os.PathLike[str] | nn.Module) -> str | os.PathLike[str] | DeCoDetrForObjectDetection:
    """A loaded DeCo-DETR without what wraps it: `torch.compile`, PEFT, data parallel. A folder or name is itself.

    Raises:
        ValueError: it is something else.
    """
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, DeCoDetrForObjectDetection):
        wrapped = inner._modules.get("_orig_mod", inner._modules.get("module"))
        if wrapped is None and hasattr(inner, "peft_config"):
            wrapped = inner.get_base_model()
        if wrapped is None:
            break
        inner = wrapped
    if isinstance(inner, str | os.PathLike | DeCoDetrForObjectDetection):
        return inner
    raise ValueError(
        "model: expected a folder, a Hub name, a shipped name or a loaded DeCoDetrForObjectDetection, got "
        f"{type(inner).__name__}; DeCoDetrForObjectDetection.from_pretrained loads one"
    )


def answer_digest(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    names: bool = True,
) -> str:
    """SHA-256 of all that decides what a model answers: weights and tables, settings of its config, its pool's space,
    and the preprocessing. `names`: those that it looks for count too."""
    weights = {key: value for key, value in model.state_dict().items() if names or not key.startswith("vocabulary.")}
    settings = [config_settings(model.config.to_dict()), model.prototype_pool.info.get("space")]
    return json_digest([weights_digest(weights), *settings, image_processor.to_json_string()])


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of all weights and tables of a model.

    Args:
        state (dict): as `state_dict()` gives them.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
