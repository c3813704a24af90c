"""A program of torch.export as the files of a runtime."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from decodetr.export.graph import OUTPUTS
from decodetr.export.settings import ExportSettings
from decodetr.export.tracing import without_checks
from decodetr.runtime.description import MODEL_FILES
from decodetr.runtime.sessions import FACTS, INPUTS
from decodetr.utils.no_reports import no_reports

if TYPE_CHECKING:
    import onnx

_ONE_FILE = 1 << 30  # bytes of weights that stand in model.onnx itself; protobuf holds less than 2 GiB


def write_program(
    program: torch.export.ExportedProgram, settings: ExportSettings, staging: Path, metadata: Mapping[str, str]
) -> None:
    """Write a program into a folder, in the format of the settings.

    Args:
        metadata (dict[str, str]): goes into the file, as `metadata_props` of ONNX or `rt_info` of OpenVINO.

    Raises:
        ValueError: the exporter cannot write it, with its words.
    """
    _forget_lines(program)
    writers = {"onnx": _write_onnx, "openvino": _write_openvino, "pt2": _write_pt2}
    with _quiet(), without_checks():
        try:
            writers[settings.format](program, settings, staging, metadata)
        except OSError:
            raise
        except Exception as error:  # of the exporters, of a dozen types
            reason = " ".join(str(error).split())[-600:]
            raise ValueError(
                f"--format {settings.format}: {type(error).__name__}: {reason}; try another one"
            ) from error


def _forget_lines(program):
    """Take out which lines of which files made a node: paths of this machine, thousands of times."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)


def _write_onnx(program, settings, staging, metadata):
    inputs = INPUTS if settings.names_input else INPUTS[:1]
    made = torch.onnx.export(
        program,
        input_names=list(inputs),
        output_names=list(OUTPUTS[settings.post_processing]),
        dynamo=True,
        verbose=False,
    )
    made.model.metadata_props.update(metadata)
    _name_sizes(made.model, inputs)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    made.save(staging / MODEL_FILES["onnx"], external_data=size > _ONE_FILE)
    if foreign := foreign_operators(staging / MODEL_FILES["onnx"]):
        raise ValueError(f"the graph has operators that are not of ONNX itself: {', '.join(foreign)}")


def _name_sizes(model, inputs):
    """Call the open sizes of a graph what they are, where the exporter has numbered them."""
    open_sizes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}, "name_rows": {0: "names"}}
    words = {}
    for value, name in zip(model.graph.inputs, inputs):
        for axis, word in open_sizes.get(name, {}).items():
            if not isinstance(value.shape[axis], int):
                words[str(value.shape[axis])] = word
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words)) or '$'})\b")
    values = [*model.graph.inputs, *model.graph.outputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if (
                not isinstance(size, int) and size.value is not None
            ):  # sizes of one name are equal, unknown ones are not
                value.shape[axis] = pattern.sub(lambda found: words[found[1]], str(size.value))


def foreign_operators(file: str | Path) -> list[str]:
    """Operators of an ONNX file, "domain::name", that are not of ONNX itself, so that no other runtime knows them."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    local = {(function.domain, function.name) for function in model.functions}
    found = {(node.domain, node.op_type) for graph in _graphs(model) for node in graph}
    return sorted(f"{domain}::{name}" for domain, name in found - local if domain not in ("", "ai.onnx"))


def _graphs(model: onnx.ModelProto) -> Iterator:
    """Lists of nodes: of the graph, of its functions and of the bodies of loops and branches."""
    waiting = [model.graph.node, *(function.node for function in model.functions)]
    while waiting:
        nodes = waiting.pop()
        yield nodes
        waiting += [
            graph.node
            for node in nodes
            for attribute in node.attribute
            for graph in [attribute.g, *attribute.graphs]
            if graph.node
        ]


def _write_openvino(program, settings, staging, metadata):
    import openvino

    with no_reports():
        model = openvino.convert_model(program)
    shapes = {}
    for port, name in zip(model.inputs, INPUTS):
        port.set_names({name})
        shapes[port] = _shape_of(name, program)
    for port, name in zip(model.outputs, OUTPUTS[settings.post_processing]):
        port.set_names({name})
    model.reshape(shapes)
    for name, value in metadata.items():
        model.set_rt_info(value, [FACTS, name])
    openvino.save_model(model, staging / MODEL_FILES["openvino"], compress_to_fp16=False)


def _shape_of(name, program):
    """The shape of an input, -1 for a size that is open."""
    given = dict(zip(INPUTS, (node.meta["val"].shape for node in _inputs(program))))[name]
    return [size if isinstance(size, int) else -1 for size in given]


def _inputs(program):
    names = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _write_pt2(program, _settings, staging, metadata):
    torch.export.save(program, staging / MODEL_FILES["pt2"], extra_files={f"{FACTS}.json": metadata[FACTS]})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of their own steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
