"""Where the choices of a machine are kept: HF_HOME/decodetr/optimized, a folder for each model and circumstances."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants

from decodetr import __version__
from decodetr.inference.loading import weights_digest
from decodetr.speed.machine import environment
from decodetr.utils.files import json_text

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

REPORT = "optimized.json"
_PACKAGES = ("torch", "transformers", "openvino", "onnxruntime", "nncf")
_SCORES = ("score_scale", "score_bias", "score_threshold", "name_thresholds", "nms_iou")


def default_memory() -> Path:
    """The folder of all choices."""
    return Path(constants.HF_HOME) / "decodetr" / "optimized"


def circumstances(model: DeCoDetrForObjectDetection, **settings: Any) -> dict[str, Any]:
    """What a choice holds for: the weights without the names, the machine, its packages, and what was asked."""
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("vocabulary.")}
    return {
        "weights": weights_digest(weights),
        "scores": {name: getattr(model.config, name) for name in _SCORES},
        **{name: value for name, value in environment(model.device).items() if name in ("device", "cores")},
        "threads": torch.get_num_threads(),
        "packages": {"decodetr": __version__} | {name: _version(name) for name in _PACKAGES},
        **settings,
    }


def folder_of(held: dict[str, Any], memory: str | Path | None = None) -> Path:
    """The folder of a choice."""
    digest = hashlib.sha256(json_text(held).encode()).hexdigest()[:20]
    return (default_memory() if memory is None else Path(memory)) / digest


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
