"""The fields of a run that nobody gave: found out, set, said, recorded, and the same again when it goes on."""

import logging
from pathlib import Path

from transformers.trainer_utils import SchedulerType

from decodetr.modeling_decodetr.detectors import query_dim
from decodetr.training.checkpoints import strangeness, to_resume
from decodetr.training.choices import NEW, PRETRAINED, TRAINED, Situation, choose
from decodetr.training.identity import settings_identity
from decodetr.training.options import goes_on
from decodetr.utils.documents import read_json

_LOGS = 20  # lines of losses in a run
CHOSEN = "chosen"  # the entry of config.training_info
_BATCH = "per_device_train_batch_size"
_DETECTORS = {NEW: "a detector of random weights", PRETRAINED: "a pretrained detector", TRAINED: "a trained detector"}
_SEMANTICS = {NEW: "a new semantic stream", TRAINED: "a trained semantic stream"}
logger = logging.getLogger(__name__)


def given_fields(args):
    """Fields of DeCoDetrTrainingArguments that the command line or the recipe gives (set of str)."""
    words = (word.removeprefix("--").partition("=")[0] for word in args.training_arguments if word[:2] == "--")
    return {word.replace("-", "_") for word in words}


def situation_of(args, training, images, config, processor):
    """The Situation of a run of `decodetr train`.

    Args:
        args: of the command. training (DeCoDetrTrainingArguments). images (int): as of [`Situation`].
        config (DeCoDetrConfig): of the starting point. processor: its image processor.
    """
    # A localization run without a pool leaves random weights to the semantic stream.
    learned = goes_on(args) and (config.training_info or {}).get("pool") != "random"
    return Situation(
        streams=training.streams,
        detector=TRAINED if goes_on(args) else NEW if args.config else PRETRAINED,
        semantics=TRAINED if learned else NEW,
        images=images,
        width=query_dim(config.detector_config),
        side=max(side or 0 for side in dict(processor.size).values()),
        pretrained_backbone=not args.config or bool(args.backbone),
        cached=training.cache_features,
        augmented=not args.no_augmentation,
        parts=training.world_size * training.gradient_accumulation_steps,
    )


def set_chosen(args, training, situation, start):
    """Set the fields of `training` that nobody gave, and say which and why. A run that goes on from one of its
    checkpoints has what was chosen when it began, however long it is now and whatever this version would choose.

    Args:
        args: of the command. training (DeCoDetrTrainingArguments): changed.
        situation (Situation). start: identity of the starting point (`starting_point.start_identity`).

    Returns:
        dict: {field: value} of what was chosen, as JSON has it.

    Raises:
        FileNotFoundError, ValueError: of `checkpoints.to_resume`.
    """
    given = given_fields(args)
    chosen = choose(situation, given, training)
    checkpoint = to_resume(training.resume_from_checkpoint, args.output_dir)
    if checkpoint is not None:
        stored = (read_json(Path(checkpoint, "config.json"), dict).get("training_info") or {}).get(CHOSEN) or {}
        # The batch is divided anew: there may be other processes now.
        kept = chosen | {name: stored[name] for name in chosen.keys() & stored.keys() - {_BATCH}}
        _set(training, kept)
        if strangeness(checkpoint, {"start": start, **settings_identity(training)}) is None:
            chosen = kept
    _set(training, chosen)
    _set_logging(training, given)
    words = " ".join(f"--{name} {_word(value)}" for name, value in chosen.items())
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
    if situation.streams != "semantic":
        parts.append(_DETECTORS[situation.detector])
    if situation.streams != "localization":
        parts.append(_SEMANTICS[situation.semantics] + (" over cached features" if situation.cached else ""))
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
