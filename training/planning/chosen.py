"""The fields of a run that nobody gave: found out, set, said, recorded, and the same again when it goes on."""

import logging
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import SchedulerType

from decodetr.modeling_decodetr.detectors import query_dim
from decodetr.training.planning.choices import NEW, PRETRAINED, TRAINED, Situation, choose
from decodetr.training.results.checkpoints import strangeness, to_resume
from decodetr.training.results.identity import settings_identity
from decodetr.utils.documents import read_json

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrConfig
    from decodetr.processing import DeCoDetrImageProcessor
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.options.options import TrainOptions

_LOGS = 20  # lines of losses in a run
CHOSEN = "chosen"  # the entry of config.training_info
_BATCH = "per_device_train_batch_size"
_DETECTORS = {NEW: "a detector of random weights", PRETRAINED: "a pretrained detector", TRAINED: "a trained detector"}
_SEMANTICS = {NEW: "a new semantic stream", TRAINED: "a trained semantic stream"}
logger = logging.getLogger(__name__)


def situation_of(
    options: "TrainOptions",
    training: "DeCoDetrTrainingArguments",
    images: int,
    config: "DeCoDetrConfig",
    processor: "DeCoDetrImageProcessor",
    empty: int = 0,
) -> Situation:
    """The Situation of a run of `decodetr train`.

    Args:
        options (TrainOptions). training (DeCoDetrTrainingArguments). images, empty (int): as of [`Situation`].
        config (DeCoDetrConfig): of the starting point. processor: its image processor.
    """
    # A localization run without a pool leaves random weights to the semantic stream.
    learned = options.goes_on and (config.training_info or {}).get("pool") != "random"
    return Situation(
        streams=training.streams,
        detector=TRAINED if options.goes_on else NEW if options.config else PRETRAINED,
        semantics=TRAINED if learned else NEW,
        images=images,
        empty=empty,
        width=query_dim(config.detector_config),
        side=max(side or 0 for side in dict(processor.size).values()),
        pretrained_backbone=not options.config or bool(options.backbone),
        cached=training.cache_features,
        augmented=not options.no_augmentation,
        parts=training.world_size * training.gradient_accumulation_steps,
    )


def set_chosen(
    training: "DeCoDetrTrainingArguments", given: Set[str], situation: Situation, start: dict[str, Any] | None
) -> dict[str, Any]:
    """Set the fields of `training` that nobody gave, and say which and why. A run that goes on from one of its
    checkpoints has what was chosen when it began, however long it is now and whatever this version would choose.

    Args:
        training (DeCoDetrTrainingArguments): changed. given: its fields that the user gave.
        situation (Situation). start: identity of the starting point (`starting_point.start_identity`).

    Returns:
        dict: {field: value} of what was chosen, as JSON has it.

    Raises:
        FileNotFoundError, ValueError: of `checkpoints.to_resume`.
    """
    chosen = choose(situation, given, training)
    checkpoint = to_resume(training.resume_from_checkpoint, training.output_dir)
    if checkpoint is not None:
        stored = (read_json(Path(checkpoint, "config.json"), dict).get("training_info") or {}).get(CHOSEN) or {}
        # The batch is divided again: there may be other processes now.
        kept = chosen | {name: stored[name] for name in chosen.keys() & stored.keys() - {_BATCH}}
        _set(training, kept)
        if strangeness(checkpoint, {"start": start, **settings_identity(training)}) is None:
            chosen = kept
    _set(training, chosen)
    _set_logging(training, given)
    words = " ".join(f"--{name.replace('_', '-')} {_word(value)}" for name, value in chosen.items())
    if words:
        logger.warning(
            "Chosen for %s (give one of them and it is obeyed; docs/training.md says why): %s",
            _in_words(situation),
            words,
        )
    return chosen


def _set(training, chosen):
    for name, value in chosen.items():
        setattr(training, name, SchedulerType(value) if name == "lr_scheduler_type" else value)


def _word(value):
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _set_logging(training, given):
    """Losses of the first step, and so often that a short run shows a curve too: `learned.doubts` reads them."""
    if "logging_first_step" not in given:
        training.logging_first_step = True
    if not {"logging_steps", "logging_strategy"} & given and training.max_steps > 0:
        training.logging_steps = max(training.max_steps // _LOGS, 1)


def _in_words(situation):
    parts = [f"{situation.images:,} images"] if situation.images else ["streamed images"]
    if situation.empty:
        parts = [f"{situation.images:,} images with something to learn", f"{situation.empty:,} without in an epoch"]
    if situation.streams != "semantic":
        parts.append(_DETECTORS[situation.detector])
    if situation.streams != "localization":
        parts.append(_SEMANTICS[situation.semantics] + (" over cached features" if situation.cached else ""))
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
