"""Which pipeline a model gets from `transformers.pipeline`.

transformers chooses by the task alone. `AnyDetector` and `AnyZeroShotDetector` therefore stand in its table of tasks,
and make ours for a DeCo-DETR and the library's own for every other model. They import ours when one is made, because
this file is loaded in the middle of the imports of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.object_detection import ObjectDetectionPipeline
from transformers.pipelines.zero_shot_object_detection import ZeroShotObjectDetectionPipeline

from decodetr.modeling_decodetr.safe_loading import load_safely

if TYPE_CHECKING:
    from typing import Any


class AnyDetector(ObjectDetectionPipeline):
    """Makes an object-detection pipeline."""

    def __new__(cls, *args: Any, model: Any, **kwargs: Any) -> ObjectDetectionPipeline:  # type: ignore[misc]
        return (_ours("DeCoDetrDetector", model) or ObjectDetectionPipeline)(*args, model=model, **kwargs)


class AnyZeroShotDetector(ZeroShotObjectDetectionPipeline):
    """Makes a zero-shot one. Only the library's needs a tokenizer, whose absence is said here, not by `pipeline`."""

    _load_tokenizer = None

    def __new__(cls, *args: Any, model: Any, **kwargs: Any) -> ZeroShotObjectDetectionPipeline:  # type: ignore[misc]
        if ours := _ours("DeCoDetrZeroShotDetector", model):
            return ours(*args, model=model, **kwargs)
        if kwargs.get("tokenizer") is None:
            kwargs["tokenizer"] = load_safely(AutoTokenizer, model.name_or_path)
        return ZeroShotObjectDetectionPipeline(*args, model=model, **kwargs)


def _ours(name, model):
    """Our pipeline of a name, or None if the model is another."""
    if model.config.model_type != "decodetr":
        return None
    from decodetr.inference import pipelines

    return getattr(pipelines, name)


def register() -> None:
    """Put both where `transformers.pipeline` looks."""
    for task, pipeline in {"object-detection": AnyDetector, "zero-shot-object-detection": AnyZeroShotDetector}.items():
        PIPELINE_REGISTRY.supported_tasks[task]["impl"] = pipeline
