"""A graph in the runtime that it was exported for. Each session may be called by several threads at once.

The runtimes are extras, of which a machine needs one, so each is imported by its session.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from decodetr.runtime.description import MOST_BYTES
from decodetr.utils.documents import parse_json
from decodetr.utils.files import regular_file

if TYPE_CHECKING:
    from typing import Any

    import openvino

INPUTS = ("pixel_values", "name_rows", "log_share", "background")  # in their order; the last three of names as input
OUTPUTS = ("logits", "pred_boxes", "scores", "labels", "boxes")
FACTS = "decodetr"  # where a graph has, in JSON, some of export.json


class Session(Protocol):
    """What runs a graph.

    Attributes:
        inputs (list[str]): names of what it reads. facts (dict): what the export wrote into the file, some of
            export.json. Empty where another program has changed the file.
    """

    inputs: list[str]
    facts: dict[str, Any]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """{name of an output: its values} of {name of an input: its values}."""


def open_session(
    kind: str,
    file: str | Path,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    allow_pickle: bool = False,
    dtype: str = "float32",
) -> Session:
    """
    Args:
        kind (str): "onnx", "openvino" or "pt2". file: the graph.
        threads (int, optional): that one call uses. Default: what the runtime takes.
        providers (list[str], optional): execution providers of ONNX Runtime, the preferred one first; of OpenVINO one
            device, such as "CPU" or "GPU". Default: the CPU.
        allow_pickle (bool): read a file of `torch.export`, which can run code of whoever wrote it.
        dtype (str): "bfloat16" lets OpenVINO compute in it where the device has units for it. Everything else is as
            the graph says.

    Raises:
        ImportError: the runtime is not installed, with the line that installs it. FileNotFoundError: no such file.
        ValueError: the file cannot be read, or a provider is not there.
    """
    file = regular_file(file, MOST_BYTES)
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if kind == "onnx":
        return OnnxSession(file, threads, providers)
    if kind == "openvino":
        return OpenVinoSession(file, threads, providers, dtype)
    if not allow_pickle:
        raise ValueError(
            f"{file}: reading a file of torch.export can run code of whoever wrote it. If it is yours, give "
            "allow_pickle=True in Python; for `decodetr predict` give the folder of the model itself, or export with "
            "--format onnx or openvino"
        )
    return TorchSession(file)


class OnnxSession:
    """ONNX Runtime."""

    def __init__(self, file: Path, threads: int | None, providers: Sequence[str] | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{file} needs ONNX Runtime: pip install 'decodetr[onnx]'") from error
        providers = list(providers or ["CPUExecutionProvider"])
        there = onnxruntime.get_available_providers()
        if missing := [name for name in providers if name not in there]:
            raise ValueError(f"providers: {missing[0]} is not in this ONNX Runtime, which has {', '.join(there)}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the optimizer warns of what it passes over
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # of half a dozen types of its own, all below Exception
            raise ValueError(f"{file} cannot be loaded: {_line(error)}; export the model again") from error
        self.inputs = [one.name for one in self.session.get_inputs()]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.facts = _facts(self.session.get_modelmeta().custom_metadata_map.get(FACTS), file)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, self.session.run(self.outputs, dict(inputs))))


@functools.cache
def openvino_core() -> openvino.Core:
    """The one `openvino.Core` of this process, which is never given up.

    A Core gives the thread that made it a stack for signal handlers, and takes it away when it goes: one that goes
    before another, or in another thread, leaves the thread with memory that is no longer there. The next signal with
    such a handler (the end of a child process, under faulthandler) then kills the process. Seen with OpenVINO 2026.4.
    """
    import openvino

    return openvino.Core()


def openvino_settings(device: str, dtype: str, threads: int | None) -> dict[str, Any]:
    """How OpenVINO compiles a graph. On processors with units for bfloat16 it would round by default, so it is told in
    what to compute: in bfloat16 where `dtype` says so and the device has units for it, else as the graph says."""
    coarse = dtype == "bfloat16" and "BF16" in openvino_core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if coarse else "f32", "PERFORMANCE_HINT": "LATENCY"}
    return settings if threads is None else settings | {"INFERENCE_NUM_THREADS": threads}


class OpenVinoSession:
    """OpenVINO."""

    def __init__(
        self, file: Path, threads: int | None, providers: Sequence[str] | None, dtype: str = "float32"
    ) -> None:
        try:
            core = openvino_core()
        except ImportError as error:
            raise ImportError(f"{file} needs OpenVINO: pip install 'decodetr[openvino]'") from error
        (device,) = providers or ["CPU"]
        if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
            raise ValueError(f"providers: OpenVINO finds no {device}, it has {', '.join(core.available_devices)}")
        try:
            graph = core.read_model(str(file))
            self.model = core.compile_model(graph, device, openvino_settings(device, dtype, threads))
        except RuntimeError as error:
            raise ValueError(f"{file} cannot be loaded: {_line(error)}; export the model again") from error
        info = [FACTS, FACTS]
        self.facts = _facts(graph.get_rt_info(info).astype(str) if graph.has_rt_info(info) else None, file)
        # A tensor may have several names, of what the graph was made of.
        self.inputs = [name for one in self.model.inputs for name in INPUTS if name in one.names]
        named = [[name for name in OUTPUTS if name in output.names] for output in self.model.outputs]
        self.outputs = [names[0] for names in named if names]
        self.requests = threading.local()  # a request is of one thread

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not hasattr(self.requests, "own"):
            self.requests.own = self.model.create_infer_request()
        found = self.requests.own.infer(dict(inputs), share_inputs=True)
        return {name: np.array(found[name]) for name in self.outputs}


class TorchSession:
    """torch, for a program of torch.export. The device is the CPU, and the number of threads that of torch."""

    def __init__(self, file: Path) -> None:
        import torch

        self.torch = torch
        extra = {f"{FACTS}.json": ""}
        program = torch.export.load(file, extra_files=extra)
        self.facts = _facts(extra[f"{FACTS}.json"], file)
        self.inputs = list(INPUTS[: len(program.graph_signature.user_inputs)])
        self.program = program.module()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self.torch.inference_mode():
            found = self.program(*(self.torch.from_numpy(inputs[name]) for name in INPUTS if name in inputs))
        return {name: values.numpy() for name, values in found.items()}


def _line(error):
    """An error of a runtime, of several lines, as one."""
    return " ".join(str(error).split())


def _facts(text, file):
    """What stands in a graph, of which another program may have left nothing."""
    return parse_json(text, file, dict) if text else {}
