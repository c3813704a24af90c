"""The two streams of a model: which parameters are whose, and which learn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection


def stream_of(parameter_name: str) -> str:
    """Whose a parameter of the model is: "semantic", or of the localization stream "backbone" or "detector"."""
    if not parameter_name.removeprefix("module.").startswith("detector."):
        return "semantic"
    return "backbone" if "backbone" in parameter_name else "detector"


def freeze_other(model: "DeCoDetrForObjectDetection", streams: str) -> None:
    """Freeze the stream that a run does not train; `streams` as of [`DeCoDetrTrainingArguments`]."""
    if streams == "semantic":
        model.detector.requires_grad_(False)
    if streams == "localization":
        model.semantic_stream.requires_grad_(False)
