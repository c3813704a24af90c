"""Where the choices of a machine are kept: HF_HOME/decodetr/optimized, with a folder of graphs and reports for each
model and the circumstances in which it was tried."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants

from decodetr import __version__
from decodetr.inference.loading import answer_digest
from decodetr.speed.machine import environment
from decodetr.utils.files import json_text, remembering_folder

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

_PACKAGES = ("torch", "transformers", "openvino", "onnxruntime", "nncf")


def default_memory() -> Path:
    """The folder of all choices."""
    return Path(constants.HF_HOME) / "decodetr" / "optimized"


def circumstances(
    model: DeCoDetrForObjectDetection, image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil
) -> dict[str, Any]:
    """What graphs and times hold for: what decides the answers but for the names, the machine, and its packages."""
    return {
        "model": answer_digest(model, image_processor, names=False),
        **{name: value for name, value in environment(model.device).items() if name in ("device", "cores")},
        "threads": torch.get_num_threads(),
        "packages": {"decodetr": __version__} | {name: _version(name) for name in _PACKAGES},
    }


def memory_folder(memory: str | Path | None = None) -> Path:
    """The folder of all choices: the given one, or the default.

    Raises:
        PermissionError: choices can be neither read nor kept there. The message says what to do.
    """
    remedy = "set the environment variable HF_HOME to a folder of yours, or give decodetr.optimize another `memory`"
    return remembering_folder(default_memory() if memory is None else memory, remedy)


def folder_of(held: dict[str, Any], memory: str | Path | None = None) -> Path:
    """The folder of some circumstances. Raises as [`memory_folder`]."""
    return memory_folder(memory) / _digest(held)


def report_of(folder: Path, asked: dict[str, Any]) -> Path:
    """The file of the report on what was asked."""
    return folder / f"report-{_digest(asked)}.json"


def _digest(content):
    return hashlib.sha256(json_text(content).encode()).hexdigest()[:20]


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None
