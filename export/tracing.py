"""The module as a program of `torch.export`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from decodetr.export.graph import DetectionGraph
from decodetr.runtime.description import LEAST_PIXELS

# Of transformers: its checks of sizes are operators that ONNX does not know.
_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"
_MOST_IMAGES, _MOST_NAMES, _MOST_PIXELS = 1024, 1_000_000, 8192
# torch.export, the exporters and what is changed here meanwhile are of the whole process: one graph at a time.
ONE_AT_A_TIME = threading.Lock()


def trace(graph: DetectionGraph, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The program of a graph.

    Args:
        graph (DetectionGraph): in evaluation mode, on the CPU. size (tuple): height and width of the example images.

    Raises:
        ValueError: torch cannot trace the detector, or cannot leave a size open, with what to do.
    """
    settings, model = graph.settings, graph.model
    images = settings.batch_size or 2
    example: list[torch.Tensor] = [torch.zeros(images, 3, *size)]
    sizes: dict[int, torch.export.Dim] = {}
    if settings.batch_size is None:
        sizes[0] = torch.export.Dim("batch", min=1, max=_MOST_IMAGES)
    if settings.dynamic_size:
        sizes[2] = torch.export.Dim("height", min=LEAST_PIXELS, max=_MOST_PIXELS)
        sizes[3] = torch.export.Dim("width", min=LEAST_PIXELS, max=_MOST_PIXELS)
    shapes: list[dict[int, torch.export.Dim]] = [sizes]
    if settings.names_input:
        tables = model.tables()
        some = max(2, len(tables.vocabulary))  # one would be taken for a constant
        rows = tables.names[torch.arange(some) % len(tables.names)]
        example += [rows, torch.zeros(some), tables.background]
        names = torch.export.Dim("names", min=1, max=_MOST_NAMES)
        shapes += [{0: names}, {0: names}, {}]
    with torch.no_grad(), without_checks(), lengths_of_tensors(model.detector):
        try:
            return torch.export.export(graph, tuple(example), dynamic_shapes=tuple(shapes), strict=False)
        except Exception as error:  # torch.export raises two dozen types, of torch._dynamo and sympy among them
            family = model.config.detector_config.model_type
            remedy = "export without --dynamic-size" if settings.dynamic_size else "give --batch-size 1"
            if settings.batch_size is not None and not settings.dynamic_size:
                remedy = "docs/export.md lists the families that can be exported"
            reason = " ".join(str(error).split())[:400]
            raise ValueError(
                f"torch cannot export this {family} ({type(error).__name__}: {reason}); {remedy}"
            ) from error


@contextmanager
def without_checks() -> Iterator[None]:
    """Inside, transformers leaves its checks of sizes out of programs."""
    before = os.environ.get(_CHECKS)
    os.environ[_CHECKS] = "1"
    try:
        yield
    finally:
        os.environ.pop(_CHECKS)
        if before is not None:
            os.environ[_CHECKS] = before


@contextmanager
def lengths_of_tensors(detector: torch.nn.Module) -> Iterator[None]:
    """Inside, `len(tensor)` in the file of the library that defines a detector is its first size as a symbol.

    RT-DETR, RT-DETRv2, D-FINE and DEIMv2 take the batch size by `len`, which gives a number, so that a graph would
    have that of the example for ever.
    """
    home = sys.modules[type(detector).__module__]
    home.len = _length  # type: ignore[attr-defined]  # which is found before the built-in one
    try:
        yield
    finally:
        del home.len  # type: ignore[attr-defined]


def _length(value):
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)
