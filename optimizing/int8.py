"""Post-training quantization of an exported OpenVINO graph by NNCF: weights and activations of its large products in 8
bits, with ranges that pictures show."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.export.export_run import graph_metadata, write_description
from decodetr.runtime.description import FILE, MODEL_FILES
from decodetr.runtime.exported_detector import ExportedDetector
from decodetr.runtime.sessions import FACTS, openvino_core
from decodetr.utils.files import committed
from decodetr.utils.no_reports import no_reports

if TYPE_CHECKING:
    import PIL.Image


def quantize(exported: str | Path, output: str | Path, pictures: Sequence[PIL.Image.Image]) -> None:
    """
    Args:
        exported: folder of `decodetr export --format openvino`. output: folder for the quantized one.
        pictures: RGB, such as the model will see, a few dozen.

    Raises:
        ImportError: NNCF or OpenVINO is missing. ValueError: no pictures.
    """
    with no_reports():
        import nncf
    import openvino

    if not pictures:
        raise ValueError("int8 needs pictures, whose activations tell the ranges; give some")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    detector = ExportedDetector(exported)
    names = detector.name_inputs()

    def inputs(picture):
        return {"pixel_values": np.ascontiguousarray(detector.preprocess(picture)[None]), **names}

    graph = openvino_core().read_model(str(Path(exported) / MODEL_FILES["openvino"]))
    with no_reports():
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(pictures, inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,  # activations may lie on both sides of zero
            subset_size=len(pictures),
        )
    description = replace(detector.description, dtype="int8")
    for name, value in graph_metadata(description).items():
        quantized.set_rt_info(value, [FACTS, name])
    with committed(output) as staging:
        for file in Path(exported).iterdir():
            if file.suffix not in (".xml", ".bin") and file.name != FILE:
                shutil.copy2(file, staging / file.name)
        openvino.save_model(quantized, str(staging / MODEL_FILES["openvino"]), compress_to_fp16=False)
        write_description(description, staging)
