"""The work of `decodetr export`: a model as a folder that other runtimes run, checked, and whole or not at all."""

from __future__ import annotations

import copy
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from decodetr.export.formats import write_program
from decodetr.export.graph import DetectionGraph
from decodetr.export.parity import check_parity
from decodetr.export.settings import (
    PACKAGES,
    TOP_K,
    ExportSettings,
    check_model,
    most_detections,
    preprocessing_of,
    require_packages,
)
from decodetr.export.tracing import ONE_AT_A_TIME, trace
from decodetr.inference.loading import weights_digest
from decodetr.modeling_decodetr.default_threshold import DEFAULT_THRESHOLD
from decodetr.modeling_decodetr.detectors import detector_family, num_queries
from decodetr.modeling_decodetr.embedding_space import mean_of
from decodetr.modeling_decodetr.hub_repository import shown_place
from decodetr.runtime.description import FILE, FORMAT, MODEL_FILES, TABLES_FILE, WRITTEN, Description, files_of
from decodetr.runtime.sessions import FACTS, open_session
from decodetr.utils.documents import read_json
from decodetr.utils.files import claim, committed, json_text, output_folder
from decodetr.utils.outputs import unwritten
from decodetr.utils.versions import package_versions

if TYPE_CHECKING:
    from typing import Any

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """
    What an export made.

    Attributes:
        folder (Path), description (Description).
        bytes (int): of its files. load_seconds (float): until the runtime has the graph ready.
    """

    folder: Path
    description: Description
    bytes: int
    load_seconds: float


def check_output(output: str | Path, overwrite: bool = False) -> None:
    """Refuse an output that cannot be written, or has what an export would replace.

    Raises:
        ValueError, PermissionError: with what to do.
    """
    output_folder(output, "--output")
    unwritten("--output", output, WRITTEN, "decodetr export", overwrite, ours=_is_ours)


def export_model(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    output: str | Path,
    settings: ExportSettings,
    overwrite: bool = False,
    source: str = "",
) -> Exported:
    """Export a model, and check that the result gives the same detections.

    Args:
        model (DeCoDetrForObjectDetection): with the names that are baked in, or stored for a graph that reads them. It
            is not changed.
        image_processor: of the model.
        output: folder. settings (ExportSettings). overwrite (bool): replace an earlier export.
        source (str): name of the model, for export.json.

    Raises:
        ImportError: a package of the format is missing, with the line that installs it.
        ValueError: the output is not free, or another export writes there; the model and the settings do not go
            together, the detector cannot be exported, or the graph gives other detections. Nothing is written then.
    """
    require_packages(settings.format)
    check_output(output, overwrite)
    preprocessing = preprocessing_of(image_processor, settings)
    size = check_model(model, settings, preprocessing)
    if settings.top_k is None:
        settings = replace(settings, top_k=min(TOP_K, most_detections(model, settings)))
    with ONE_AT_A_TIME, claim(output, "decodetr export"):
        check_output(output, overwrite)  # another export may have ended meanwhile
        return _export(model, preprocessing, output, settings, size, source)


def _export(model, preprocessing, output, settings, size, source):
    model = copy.deepcopy(model).to("cpu").float().eval().requires_grad_(False)
    graph = DetectionGraph(model, settings).eval()
    program, settings = _program(graph, settings, size)
    graph.settings = settings
    description = describe(model, settings, preprocessing, size, source)
    old = set(WRITTEN)
    with committed(output, remove=lambda new: old - new) as staging:
        write_program(program, settings, staging, graph_metadata(description))
        if settings.names_input:
            write_tables(model, staging)
        start = time.perf_counter()
        file = staging / MODEL_FILES[settings.format]
        session = open_session(settings.format, file, allow_pickle=True, dtype=settings.dtype)  # written just now
        seconds = time.perf_counter() - start
        parity = check_parity(graph, session, settings, size)
        description = write_description(replace(description, parity=parity), staging)
        total = sum(file.stat().st_size for file in staging.iterdir())
    return Exported(Path(output), description, total, seconds)


def _is_ours(file):
    return read_json(file, dict).get("format") == FORMAT if file.is_file() else False


def _program(graph, settings, size):
    """The program, and the settings that hold for it: with one image where the batch cannot be left open."""
    traced = graph
    # OpenVINO is given float32 and told to compute in bfloat16. It then keeps in float32 what decides the boxes, and
    # it cannot run every graph in bfloat16 on processors that have units for it.
    if settings.dtype != "float32" and (settings.format, settings.dtype) != ("openvino", "bfloat16"):
        model = copy.deepcopy(graph.model).to(getattr(torch, settings.dtype))
        traced = DetectionGraph(model, settings).eval()
    try:
        return trace(traced, size), settings
    except ValueError as error:
        if settings.batch_size is not None or settings.dynamic_size:
            raise
        logger.warning("the batch cannot be left open, so the graph takes one image at a time: %s", error)
    settings = replace(settings, batch_size=1)
    traced.settings = settings
    return trace(traced, size), settings


def describe(
    model: DeCoDetrForObjectDetection,
    settings: ExportSettings,
    preprocessing: dict[str, Any],
    size: tuple[int, int],
    source: str,
) -> Description:
    """What export.json says, but for the parity and the files. `size`: height and width of the example images."""
    config, tables = model.config, model.tables()
    dynamic = ["batch"] if settings.batch_size is None else []
    dynamic += ["names"] if settings.names_input else []
    dynamic += ["height", "width"] if settings.dynamic_size else []
    packages = ("decodetr", "torch", "transformers", "pillow", *PACKAGES[settings.format])
    inside = settings.post_processing == "inside"
    return Description(
        runtime=settings.format,
        names=list(model.vocabulary.names),
        names_input=settings.names_input,
        post_processing=settings.post_processing,
        top_k=settings.top_k if inside else None,
        queries=num_queries(config.detector_config),
        semantic_queries=settings.semantic_queries,
        embedding_dim=config.embedding_dim,
        num_prototypes=config.num_prototypes,
        family=config.detector_config.model_type,
        dtype=settings.dtype,
        dynamic=dynamic,
        image_size=None if settings.dynamic_size else list(size),
        batch_size=settings.batch_size,
        size_divisor=detector_family(config.detector_config).size_divisor(config.detector_config),
        preprocessing=preprocessing,
        score_scale=config.score_scale,
        score_bias=config.score_bias,
        score_threshold=config.score_threshold,
        name_thresholds=config.name_thresholds,
        default_threshold=DEFAULT_THRESHOLD,
        background_threshold=tables.scales.background_threshold,
        centred=config.centred,
        pool_use=config.pool_use,
        vocabulary_info=dict(model.vocabulary.info),
        pool_info={key: value for key, value in model.prototype_pool.info.items() if key != "space"},
        training_info=config.training_info,
        pool_digest=model.prototype_pool.digest(),
        vocabulary_digest=model.vocabulary.digest(),
        weights_digest=weights_digest(model.state_dict()),
        source=source or str(model.name_or_path),
        versions=package_versions(packages),
    )


def graph_metadata(description: Description) -> dict[str, str]:
    """What goes into the file of the graph itself, so that other programs can use it without export.json, and so that
    it is not taken for the graph of another one."""
    return {FACTS: json.dumps(shown_place(description.facts()))}


def write_tables(model: DeCoDetrForObjectDetection, staging: Path) -> None:
    """Write what a swap of names needs into a folder."""
    tables = model.tables()
    space = model.prototype_pool.info.get("space") if model.config.centred else None
    tensors = {
        "prototypes": tables.prototypes,
        "text_mean": mean_of(space, "text_mean", tables.prototypes),
        "embeddings": model.vocabulary.embeddings,
    }
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, staging / TABLES_FILE)


def write_description(description: Description, staging: Path) -> Description:
    """Write export.json beside the other files of an export, which are all there. Returns it with what it says of
    them."""
    description = replace(description, files=files_of(staging))
    (staging / FILE).write_bytes(json_text(description.to_json()).encode("utf-8", errors="backslashreplace"))
    return description
