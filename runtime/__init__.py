"""Detect with an exported model. Needs numpy, Pillow, safetensors and ONNX Runtime or OpenVINO: no torch, no
transformers.

exported_detector.py  ExportedDetector: pictures in, detections out
description.py        what export.json says of a model
providers.py          what --device means to a runtime
sessions.py           a graph in ONNX Runtime, OpenVINO or torch
preprocessing.py      pictures to pixel_values
name_tables.py        names to what the graph reads of them
post_processing.py    outputs of the graph to the best pairs of query and name
"""

from decodetr.utils.lazy import TYPE_CHECKING, lazy_names

if TYPE_CHECKING:  # as in decodetr itself
    from decodetr.runtime.exported_detector import ExportedDetector as ExportedDetector

_PUBLIC_NAMES = {"ExportedDetector": "decodetr.runtime.exported_detector"}

__all__ = list(_PUBLIC_NAMES)

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
