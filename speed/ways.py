"""Ways to run what is timed. Their names are those of `decodetr.optimize`, whose half precision leaves some weights of
a DeCo-DETR in float32. Here all weights are converted, as those of other models are."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from transformers.utils import ModelOutput

from decodetr.export.tracing import lengths_of_tensors, without_checks
from decodetr.runtime.sessions import openvino_core, openvino_settings
from decodetr.utils.no_reports import no_reports

if TYPE_CHECKING:
    from typing import Any

How = Literal["eager", "channels-last", "bfloat16", "compile", "openvino", "openvino-bfloat16"]
OPENVINO = ("openvino", "openvino-bfloat16")


def precision_of(how: How, dtype: torch.dtype) -> torch.dtype:
    """What a module of `dtype` computes in when it is run so."""
    return torch.bfloat16 if how.endswith("bfloat16") else dtype


def copy_for(how: How, module: nn.Module) -> nn.Module:
    """The module to run: another one where its weights must be others, else the same."""
    on_cpu = next(module.parameters()).device.type == "cpu"
    if how == "bfloat16":
        module = copy.deepcopy(module).to(torch.bfloat16)
    elif how == "channels-last":
        module = copy.deepcopy(module)
    # A CPU multiplies maps in bfloat16 fast only if their channels are last.
    if how == "channels-last" or (how == "bfloat16" and on_cpu):
        module = module.to(memory_format=torch.channels_last)
    return module


class _Fields(nn.Module):
    """A module with tensors as inputs, and some fields of its output."""

    def __init__(self, module: nn.Module, inputs: Sequence[str], options: dict[str, Any], outputs: Sequence[str]):
        super().__init__()
        self.module, self.inputs, self.options, self.outputs = module, inputs, options, outputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The fields, in their order."""
        found = self.module(**dict(zip(self.inputs, tensors)), **self.options)
        return tuple(found[field] for field in self.outputs)


class OpenVinoModule:
    """
    A module in OpenVINO, for inputs of the shapes of an example. Called as the module is, it gives some of its output.

    Args:
        module: in float32, on the CPU. example: its inputs by name. options: what else it is told.
        outputs: fields that it gives. dtype: what is computed in.

    Raises:
        ImportError: OpenVINO is missing. ValueError: torch cannot trace the module, OpenVINO cannot convert it, or the
            processor has no units for what is computed in.
    """

    def __init__(
        self,
        module: nn.Module,
        example: dict[str, torch.Tensor],
        options: dict[str, Any],
        outputs: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        import openvino

        coarse = dtype == torch.bfloat16
        settings = openvino_settings("CPU", "bfloat16" if coarse else "float32", torch.get_num_threads())
        if coarse and settings["INFERENCE_PRECISION_HINT"] != "bf16":
            raise ValueError("this processor has no units for bfloat16")
        self.inputs, self.outputs = list(example), list(outputs)
        detector = getattr(module, "detector", module)
        with torch.inference_mode(False), torch.no_grad(), without_checks(), lengths_of_tensors(detector), _quiet():
            tensors = tuple(value.clone() for value in example.values())
            fields = _Fields(module, self.inputs, options, outputs).eval()
            try:
                graph = openvino.convert_model(torch.export.export(fields, tensors, strict=False))
            except Exception as error:  # torch.export and OpenVINO raise dozens of types
                raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from error
        self.request = openvino_core().compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, **inputs: Any) -> ModelOutput:
        """The fields, by name. What else the module would be told is in the graph."""
        found = self.request.infer([inputs[name].numpy() for name in self.inputs], share_inputs=True)
        return ModelOutput({name: torch.from_numpy(found[place].copy()) for place, name in enumerate(self.outputs)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the programs that torch prints where it cannot trace one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with no_reports(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
