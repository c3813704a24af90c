"""The two streams of a model: which parameters are whose, and which learn."""

import contextlib
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments


def stream_of(parameter_name: str) -> str:
    """Whose a parameter of the model is: "semantic", or of the localization stream "backbone" or "detector"."""
    if not parameter_name.removeprefix("module.").startswith("detector."):
        return "semantic"
    return "backbone" if "backbone" in parameter_name else "detector"


def freeze_other(model: "DeCoDetrForObjectDetection", streams: str) -> None:
    """Freeze the stream that a run does not train. `streams` as of [`DeCoDetrTrainingArguments`]."""
    if streams == "semantic":
        model.detector.requires_grad_(False)
    if streams == "localization":
        model.semantic_stream.requires_grad_(False)


def learning(model: "nn.Module") -> list["nn.Parameter"]:
    """The parameters of a model that get a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def frozen(parameters: Sequence["nn.Parameter"]) -> Iterator[None]:
    """Inside, they get no gradient. Afterwards those that the list has then do: what a run freezes, the next one of
    the same model may teach."""
    set_learning(parameters, False)
    try:
        yield
    finally:
        set_learning(parameters, True)


def set_learning(parameters: Iterable["nn.Parameter"], learns: bool) -> None:
    """Let parameters get a gradient, or none."""
    for parameter in parameters:
        parameter.requires_grad_(learns)


def parameter_groups(
    model: "nn.Module", decayed: Container[str], args: "DeCoDetrTrainingArguments"
) -> list[dict[str, Any]]:
    """The groups of an optimizer: backbone, rest of the detector and semantic stream, each with its rate, the
    parameters `decayed` apart from those without weight decay.

    Raises:
        ValueError: nothing learns.
    """
    rates = {
        "backbone": args.backbone_learning_rate,
        "detector": None,
        "semantic": args.semantic_learning_rate,
    }
    groups = []
    for stream, rate in rates.items():
        for decay in (True, False):
            parameters = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and stream_of(name) == stream and (name in decayed) == decay
            ]
            if parameters:
                group = {"params": parameters, "weight_decay": args.weight_decay if decay else 0.0}
                groups.append(group if rate is None else {**group, "lr": rate})
    if not groups:
        raise ValueError(
            f"streams={args.streams}, but no parameter of the model gets a gradient: call model.requires_grad_(True) "
            "before DeCoDetrTrainer, which freezes what the run does not train"
        )
    return groups
