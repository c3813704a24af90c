"""The ways to run a model. Each gives an object with the `detect` of [`decodetr.runtime.ExportedDetector`]."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings, has_one_size
from decodetr.modeling_decodetr.detectors import num_queries
from decodetr.modeling_decodetr.precision import halve
from decodetr.optimizing.int8 import quantize
from decodetr.optimizing.torch_detector import TorchDetector
from decodetr.runtime.description import check_files, find_export, read_description
from decodetr.runtime.exported_detector import ExportedDetector

if TYPE_CHECKING:
    import PIL.Image

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

QUERIES = 100  # of an exported graph, which has a fixed number of them: as many as detections are kept by default


@dataclass(frozen=True)
class Case:
    """
    What is made fast.

    Args:
        model (DeCoDetrForObjectDetection): in float32. image_processor: of it.
        folder (Path): for files of ways that have some. measured (Path): for those that depend on the pictures too.
        look (callable): gives pictures such as it will see, a list of PIL images. It is called if they are needed,
            once.
        anew (bool): files that depend on the pictures are made, also where they are there.
    """

    model: DeCoDetrForObjectDetection
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil
    folder: Path
    measured: Path
    look: Callable[[], list[PIL.Image.Image]]
    anew: bool = False

    @cached_property
    def pictures(self) -> list[PIL.Image.Image]:
        """What `look` gives."""
        return self.look()


@dataclass(frozen=True)
class Way:
    """
    Args:
        make (callable): [`Case`] -> detector. Files that are there already are used.
        devices (tuple of str): types of devices that it runs on.
        packages (tuple of str): that it needs. extra (str, *optional*): of decodetr, which installs them.
        pays_on (callable): torch.device -> whether it is tried where nobody says which ways.
        needs_units (bool): for bfloat16, without which it would compute in float32 and be called otherwise.
    """

    make: Callable[[Case], TorchDetector | ExportedDetector]
    devices: tuple[str, ...] = ("cpu", "cuda", "mps", "xpu")
    packages: tuple[str, ...] = ()
    extra: str | None = None
    pays_on: Callable[[torch.device], bool] = lambda device: True
    needs_units: bool = False

    def hindrance(self, device: torch.device) -> str | None:
        """Why it cannot be tried here, and what mends it. None if it can."""
        if device.type not in self.devices:
            return f"does not run on {device.type}"
        if missing := [name for name in self.packages if find_spec(name) is None]:
            return f"needs {', '.join(missing)}: pip install 'decodetr[{self.extra}]'"
        if self.needs_units and not _has_bfloat16(device):
            return "needs a processor with units for bfloat16, which this one has not"
        return None


def _has_bfloat16(device):
    """Whether a device computes in bfloat16. Other processors emulate it, at a fraction of their speed."""
    if device.type != "cpu":
        return True
    return any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)


def _eager(case):
    return TorchDetector(case.model, case.image_processor)


def _channels_last(case):
    return TorchDetector(copy.deepcopy(case.model).to(memory_format=torch.channels_last), case.image_processor)


def _half(dtype):
    def make(case):
        model = halve(copy.deepcopy(case.model), dtype)
        if model.device.type == "cpu":  # which convolves in half precision several times as fast with channels last
            model = model.to(memory_format=torch.channels_last)
        return TorchDetector(model, case.image_processor, autocast=dtype)

    return make


def _compiled(case):
    model = copy.deepcopy(case.model)
    model.forward = torch.compile(model.forward)  # the rest of the model stays what it is
    return TorchDetector(model, case.image_processor)


def _exported(kind, dtype="float32"):
    def make(case):
        return _loaded(_export(case, kind, dtype))

    return make


def _int8(case):
    folder = case.measured / "openvino-int8"
    if case.anew or not _is_kept(folder):
        quantize(_export(case, "openvino"), folder, case.pictures)
    return _loaded(folder)


def _export(case, kind, dtype="float32"):
    """The folder of an exported graph, of which names are an input, so that they can be swapped."""
    folder = case.folder / f"{kind}-{dtype}"
    if not _is_kept(folder):
        queries = min(QUERIES, num_queries(case.model.config.detector_config))
        settings = ExportSettings(
            kind,
            names_input=True,
            semantic_queries=queries,
            dtype=dtype,
            dynamic_size=not has_one_size(case.image_processor),
        )
        export_model(case.model, case.image_processor, folder, settings)
    return folder


def _loaded(folder):
    """The graph of a folder that was written or checked just now, so that it is not checked again."""
    return ExportedDetector(folder, threads=torch.get_num_threads(), verify=False)


def _is_kept(folder):
    """Whether a graph is kept there that can be loaded. That of a killed run or an older decodetr is made again, and a
    damaged one."""
    try:
        if (place := find_export(folder)) is not None:
            check_files(place, read_description(place))
        return place is not None
    except (OSError, ValueError):
        return False


WAYS = {
    "eager": Way(_eager),
    "channels-last": Way(_channels_last, devices=("cpu", "cuda")),
    "bfloat16": Way(_half(torch.bfloat16), pays_on=_has_bfloat16),
    "float16": Way(_half(torch.float16), devices=("cuda",)),
    "compile": Way(_compiled, devices=("cpu", "cuda"), pays_on=lambda device: False),  # takes minutes
    "onnx": Way(_exported("onnx"), ("cpu",), ("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "openvino": Way(_exported("openvino"), ("cpu",), ("openvino",), "openvino"),
    "openvino-bfloat16": Way(
        _exported("openvino", "bfloat16"),
        ("cpu",),
        ("openvino",),
        "openvino",
        pays_on=_has_bfloat16,
        needs_units=True,
    ),
    "openvino-int8": Way(_int8, ("cpu",), ("openvino", "nncf"), "int8"),
}


def check_way(option: str, name: str, device: torch.device) -> None:
    """ValueError where there is no such way, or it cannot be tried on a device. ImportError where a package is
    missing."""
    if name not in WAYS:
        raise ValueError(f"{option} {name}: expected auto or one of {', '.join(WAYS)}")
    if problem := WAYS[name].hindrance(device):
        kind = ImportError if "pip install" in problem else ValueError
        raise kind(f"{option} {name} {problem}")
