"""What the user of `decodetr export` chooses, and what is refused before the work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from decodetr.modeling_decodetr.detectors import detector_family, num_queries
from decodetr.runtime.description import MODEL_FILES
from decodetr.runtime.preprocessing import FIELDS, STEPS, Preprocessing

if TYPE_CHECKING:
    from typing import Any

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

TOP_K = 100
DTYPES = ("float32", "float16", "bfloat16")
# What a format needs besides torch, and the extra that has it.
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "pt2": ()}


@dataclass(frozen=True)
class ExportSettings:
    """
    Args:
        format (str): "onnx", "openvino" or "pt2".
        names_input (bool): the graph reads its names, instead of having them baked in.
        post_processing (str): "inside": the graph gives the `top_k` best scores, labels and boxes; "outside": logits
            and boxes of all queries.
        top_k (int, optional): detections of a graph with post-processing inside. Default: [`most_detections`], at most
            `TOP_K`.
        dtype (str): in which the graph computes, of `DTYPES`. Its inputs and outputs are float32.
        batch_size (int, optional): fixed number of images. Default: any number.
        dynamic_size (bool): images of any height and width that the detector takes.
        image_size (tuple, optional): (height, width) instead of what the image processor says.
        semantic_queries (int, optional): how many of the most certain queries are compared with names. Default: all.
    """

    format: str
    names_input: bool = False
    post_processing: str = "outside"
    top_k: int | None = None
    dtype: str = "float32"
    batch_size: int | None = None
    dynamic_size: bool = False
    image_size: tuple[int, int] | None = None
    semantic_queries: int | None = None

    def __post_init__(self) -> None:
        choices = {"format": tuple(MODEL_FILES), "post_processing": ("outside", "inside"), "dtype": DTYPES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("top_k", "batch_size", "semantic_queries"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.dtype == "bfloat16" and self.format == "onnx":
            raise ValueError(
                "dtype bfloat16: the operators of ONNX and ONNX Runtime's processor know it only in part, so that the "
                "graph could not be checked; give --dtype float16, or --format openvino"
            )
        if self.image_size is not None and (self.dynamic_size or min(self.image_size) < 1):
            raise ValueError(
                "image_size must be a height and a width of at least 1, and goes with a graph of fixed size: give "
                "--image-size or --dynamic-size"
            )


def require_packages(kind: str) -> None:
    """ImportError with the line that installs what a format needs, where it is missing."""
    if missing := [name for name in PACKAGES[kind] if find_spec(name) is None]:
        raise ImportError(f"--format {kind} needs {', '.join(missing)}: pip install 'decodetr[{kind}]'")


def has_one_size(image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil) -> bool:
    """Whether all images become equally large."""
    return bool(image_processor.do_resize) and "height" in _plain(image_processor.size or {})


def preprocessing_of(
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil, settings: ExportSettings
) -> dict[str, Any]:
    """The fields of an image processor that the runtime needs, with the size of the export.

    Raises:
        ValueError: it pads to a fixed size, or pads and has no fixed size where the graph has one.
    """
    fields: dict[str, Any] = {name: _plain(getattr(image_processor, name)) for name in (*FIELDS, *STEPS)}
    if settings.image_size is not None:
        height, width = settings.image_size
        return {**fields, "do_resize": True, "size": {"height": height, "width": width}}
    size = fields["size"] or {}
    if getattr(image_processor, "pad_size", None) is not None:
        raise ValueError(
            "the image processor pads images to one size, and exported graphs read no mask: give --image-size HEIGHT "
            "WIDTH, to which images are then stretched, or remove pad_size from preprocessor_config.json"
        )
    if not settings.dynamic_size and not has_one_size(image_processor):
        rule = size if fields["do_resize"] else "no resizing"
        raise ValueError(
            f"the image processor gives images of several sizes ({rule}): export with --dynamic-size, or give "
            "--image-size HEIGHT WIDTH, to which images are then stretched"
        )
    return fields


def check_model(
    model: DeCoDetrForObjectDetection, settings: ExportSettings, preprocessing: Mapping[str, Any]
) -> tuple[int, int]:
    """The (height, width) of the example images of the graph.

    Raises:
        ValueError: what was chosen does not fit the model.
    """
    config = model.config.detector_config
    n = num_queries(config)
    divisor = detector_family(config).size_divisor(config)
    size = Preprocessing(dict(preprocessing)).target_size(480, 640)
    if settings.dynamic_size:
        if divisor > 1:
            raise ValueError(
                f"--dynamic-size: {config.model_type} takes images whose sides are multiples of {divisor}, so its "
                "image processor makes one fixed size; leave the option out, or give --image-size HEIGHT WIDTH"
            )
    elif size[0] % divisor or size[1] % divisor:
        raise ValueError(
            f"{config.model_type} takes images whose sides are multiples of {divisor}, got {size[0]} x {size[1]}; "
            "correct --image-size"
        )
    most = most_detections(model, settings)
    if settings.post_processing == "inside" and settings.top_k is not None and settings.top_k > most:
        of = (
            f"{n} queries and at least one name"
            if settings.names_input
            else f"{n} queries x {len(model.vocabulary)} names"
        )
        raise ValueError(f"--top-k {settings.top_k}: the graph has {of} to choose from; give at most {most}")
    if settings.semantic_queries is not None and settings.semantic_queries > n:
        raise ValueError(f"--queries {settings.semantic_queries}: the detector has {n}")
    return size


def most_detections(model: DeCoDetrForObjectDetection, settings: ExportSettings) -> int:
    """Pairs of query and name that a graph always has: names that are its input may be one."""
    names = 1 if settings.names_input else len(model.vocabulary)
    return names * num_queries(model.config.detector_config)


def _plain(value):
    """A field of an image processor as JSON has it."""
    if isinstance(value, list | tuple):
        return [float(entry) for entry in value]
    if hasattr(value, "items") or hasattr(value, "height"):
        return {name: side for name, side in dict(value).items() if side is not None}
    return int(value) if hasattr(value, "value") else value
