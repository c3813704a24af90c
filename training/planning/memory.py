"""Memory: what to change when it runs out, and which detectors can trade it for time."""

import contextlib
import inspect
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import AutoModelForObjectDetection
from transformers.modeling_layers import GradientCheckpointingLayer

from decodetr.evaluation.output_evaluator import rules_of
from decodetr.modeling_decodetr.detectors import DETECTOR_FAMILIES

if TYPE_CHECKING:
    from decodetr.training.trainer import DeCoDetrTrainer


class OutOfMemory(torch.OutOfMemoryError, ValueError):
    """Memory ran out. The message names what to change. A ValueError too: the command prints it without a
    traceback."""


@contextlib.contextmanager
def advice(trainer: "DeCoDetrTrainer", phase: str) -> Iterator[None]:
    """Inside, running out of memory raises [`OutOfMemory`] with the knobs of the phase, "training" or "evaluation", in
    the order in which to turn them. `auto_find_batch_size` still sees the error of a training step."""
    try:
        yield
    except OutOfMemory:
        raise
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
        knobs = _evaluation_knobs(trainer) if phase == "evaluation" else _training_knobs(trainer)
        lines = [f"{i}. {knob}" for i, knob in enumerate(knobs, 1)]
        # Without the words by which auto_find_batch_size would take it for a matter of the training batch.
        detail = str(error).partition(" out of memory. ")[2].split("\n")[0]
        head = f"memory ran out in {phase}. {detail}".strip()
        raise OutOfMemory("\n".join([head, "Try, in this order:", *lines])) from error


def _training_knobs(trainer):
    args, model, knobs = trainer.args, trainer.model, []
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if batch > 1:
        knobs.append(
            f"--per-device-train-batch-size {batch // 2} --gradient-accumulation-steps {accumulated * 2} (now {batch} "
            f"and {accumulated})"
        )
    if not (args.bf16 or args.fp16):
        knobs.append("--bf16 true (now float32)")
    if not args.gradient_checkpointing and can_checkpoint(model.detector) and args.streams != "semantic":
        knobs.append("--gradient-checkpointing true (now false)")
    knobs.append(_image_size(trainer))
    if not args.cache_features:
        knobs.append(
            f"--streams semantic --cache-features true, if the detector is good enough already (now --streams "
            f"{args.streams})"
        )
    return knobs


def _evaluation_knobs(trainer):
    args, knobs = trainer.args, []
    batch = args.per_device_eval_batch_size
    if batch > 1:
        knobs.append(f"--per-device-eval-batch-size {batch // 2} (now {batch})")
    kept = rules_of(getattr(trainer.eval_dataset, "coco", None), args.eval_max_detections)["max_detections"]
    knobs.append(f"--eval-max-detections {max(1, kept // 2)} (now {kept})")
    return [*knobs, _image_size(trainer)]


def _image_size(trainer):
    size = getattr(trainer.processing_class, "size", None)
    now = f" (now {' x '.join(str(side) for side in dict(size).values() if side)})" if size else ""
    return f"a smaller --image-size{now}"


def can_checkpoint(detector: torch.nn.Module) -> bool:
    """Whether a detector has layers that can be computed again instead of kept."""
    return any(isinstance(module, GradientCheckpointingLayer) for module in detector.modules())


def check_checkpointing(detector: torch.nn.Module) -> None:
    """Raises ValueError for a detector without layers for gradient checkpointing. The message names the families that
    have them."""
    if can_checkpoint(detector):
        return
    able = [family for family in DETECTOR_FAMILIES if can_checkpoint_family(family)]
    raise ValueError(
        f"gradient_checkpointing=True: {detector.config.model_type} has no gradient checkpointing in transformers; "
        f"the families {', '.join(able)} have it. With this one leave it out, and save memory by a smaller batch or "
        "image size, or bf16."
    )


def can_checkpoint_family(family: str) -> bool:
    """Whether the library's module of a family has layers for gradient checkpointing."""
    for config, model in AutoModelForObjectDetection._model_mapping.items():
        if config.model_type == family:
            classes = inspect.getmembers(sys.modules[model.__module__], inspect.isclass)
            return any(
                issubclass(c, GradientCheckpointingLayer) for _, c in classes if c is not GradientCheckpointingLayer
            )
    return False
