"""Options of `decodetr train` that are right one by one and wrong, or of no use, together.

`check_pairs` lists what is refused, with the flag that mends it. `notes` what has no effect but does no harm, as in a
recipe that serves several runs.
"""

import math
from typing import TYPE_CHECKING

from decodetr.modeling_decodetr.configuration_decodetr import UNCALIBRATED
from decodetr.modeling_decodetr.detectors import detector_family
from decodetr.training.data.dataloading import DISPATCH
from decodetr.training.planning.memory import can_checkpoint_family
from decodetr.training.results.calibration import why_none_kept, why_not

if TYPE_CHECKING:
    from decodetr.training.checks.preflight import Facts
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

CAPTIONS_NEED = (
    "captions move the pool, which stays as it is here; build them into it (decodetr pool build --image-captions "
    "FILE), let it move by the paper's rule (--set pool_update=literal), or leave captions out"
)
_OF_THE_SEMANTICS = ("semantic_learning_rate", "semantic_max_grad_norm", "align_weight_start", "align_weight_end")
_OF_THE_DETECTOR = ("learning_rate", "backbone_learning_rate", "max_grad_norm", "freeze_backbone")


def check_pairs(facts: "Facts") -> list[str]:
    """List the problems (str) of a run's options.

    Args:
        facts ([`training.checks.preflight.Facts`]).
    """
    problems = [*_start(facts), *_data(facts), *_setting(facts), *_regions(facts)]
    if facts.training is not None:
        problems += [*_streams(facts), *_loading(facts), *_useless(facts), *_calibration(facts)]
    if facts.config is not None:
        problems += [*_config(facts)]
    return problems


def _start(facts):
    options = facts.options
    if options.reset_semantics and not options.model:
        yield "--reset-semantics needs --model: the other starting points have no trained semantic stream"
    if options.backbone and not options.config:
        yield "--backbone needs --config: the other starting points have a trained backbone"


def _data(facts):
    options = facts.options
    if options.val_share is not None and not 0 < options.val_share < 1:
        yield f"--val-share must lie between 0 and 1, got {options.val_share}"
    elif options.val_share is not None and facts.has_validation:
        yield (
            f"--val-share: {options.val_annotations or options.data} has validation images already; leave it out, or "
            "give --val-annotations none to hold training images back instead"
        )
    if bool(options.replay_data) != bool(options.replay_regions):
        yield "--replay-data and --replay-regions go together: images, and what is known of them"
    for name, least in (("blur", 0), ("noise", 0), ("replay_images", 1), ("shuffle_buffer", 0), ("image_size", 1)):
        if (value := getattr(options, name)) is not None and not least <= value < math.inf:
            yield f"--{name.replace('_', '-')} must be at least {least}, got {value}"


def _setting(facts):
    options, novel = facts.options, facts.novel
    if options.setting and not novel:
        yield f"--setting {options.setting}: expected novel names to hold back, got none; give --names-split FILE"
        return
    setting = facts.setting
    try:
        setting.check(
            captions=options.captions,
            image_labels=options.image_labels,
            replay_image_labels=options.replay_image_labels,
        )
    except ValueError as error:
        yield str(error)
    if facts.pool_captions and not setting.captions:
        pool = f"--pool {options.pool}" if options.pool else f"the pool of --model {options.model}"
        yield (
            f"{pool}: captions of whole images are in it, which {setting.name} forbids; give a pool built without "
            "--image-captions, or --setting C-OVD or WS-OVD"
        )
    if options.training_names == "all" and novel and not setting.novel_names:
        yield f"--training-names all: {setting.name} forbids novel names; leave it out, or give --setting G-OVD"


def _regions(facts):
    options = facts.options
    if options.regions == "self" and not facts.looks_itself:
        yield (
            "--regions self needs a trained starting point (--model; with --reset-semantics, or --detector, only for "
            "--streams localization), and data that are not streamed"
        )
    asked = options.pseudo_boxes in ("objects", "ignore") or (
        options.pseudo_box_score is not None and options.pseudo_boxes is None
    )
    localizes = facts.training is None or facts.training.streams != "semantic"
    if asked and not (localizes and (facts.has_regions or options.replay_data)):
        yield (
            "--pseudo-boxes and --pseudo-box-score need --regions, and a localization stream in training (--streams)."
        )
    if options.pseudo_box_score is not None and not 0 <= options.pseudo_box_score <= 1:
        yield f"--pseudo-box-score must lie in 0..1, got {options.pseudo_box_score}"
    encoder = facts.pool.info if facts.pool is not None else getattr(facts.config, "pool_info", None) or {}
    known = facts.config is not None or facts.pool is not None
    if options.captions and not options.text_model and known and not encoder.get("encoder"):
        yield "--captions: the pool does not say which text model made it; give --clip NAME"


def _streams(facts):
    options, training = facts.options, facts.training
    augments = not options.no_augmentation
    if training.cache_features and training.cache_views > 1 and not augments:
        yield (
            f"--cache-views {training.cache_views} needs augmentation, for further views would equal the first: leave "
            "out --no-augmentation, or --cache-views"
        )
    if training.early_stopping_patience is not None and not facts.validates:
        yield (
            "--early-stopping-patience needs validation data: give --val-annotations or --val-share 0.1, or leave it "
            "out"
        )
    elif training.eval_strategy != "no" and not facts.validates:
        yield (
            f"--eval-strategy {training.eval_strategy.value} needs validation data: give --val-annotations or "
            "--val-share 0.1, or leave it out"
        )


def _calibration(facts):
    options, share = facts.options, facts.options.calibration_share
    if share is not None and not 0 <= share < 1:
        yield f"--calibration-share must lie between 0 and 1, got {share}"
        return
    streams = facts.training.streams
    if share and (reason := why_none_kept(options, streams)):
        yield f"--calibration-share {share}: {reason}; leave it out"
    if why_not(options, streams) is None and (set_too := sorted(options.replaced_fields & UNCALIBRATED.keys())):
        yield f"--set {set_too[0]}: this run calibrates its scores itself; give --calibration-share 0 to set them"


def _loading(facts):
    options, training = facts.options, facts.training
    if training.accelerator_config.dispatch_batches:
        yield DISPATCH
    if not options.streaming:
        return
    if options.train_annotations:
        yield "--train-annotations names a COCO file, whose images are not streamed; leave out --streaming"
    if options.replay_data:
        yield "--replay-data is mixed with images that have numbers: leave out --streaming"
    if options.val_share:
        yield "--val-share needs data that are not streamed: give --val-annotations, or leave out --streaming"
    if training.max_steps <= 0:
        yield "streamed training data have no length: give the number of steps, --max-steps N"
    if training.cache_features:
        yield "cache_features keeps features of all images, and streamed data have no end: leave one out"


def _useless(facts):
    """Options that have no effect together with the others."""
    options, training = facts.options, facts.training
    shifted = options.blur or options.noise
    if options.shuffle_buffer is not None and not options.streaming:
        yield "--shuffle-buffer is for --streaming: leave it out"
    if shifted and options.no_augmentation:
        yield "--blur and --noise are augmentations: leave out --no-augmentation"
    elif shifted and training.cache_features and training.cache_views == 1 and "cache_views" in facts.given:
        yield "--blur and --noise change cached images but the first view: give --cache-views 2"
    if options.replay_images is not None and not options.replay_data:
        yield "--replay-images is a part of --replay-data"
    if options.replay_image_labels and not options.replay_data:
        yield "--replay-image-labels are of the images of --replay-data"
    if options.held_out_data and not options.goes_on:
        yield "--held-out-data shows what a --model forgets: leave it out"
    if options.pseudo_box_score is not None and options.pseudo_boxes == "none":
        yield (
            "--pseudo-box-score says which regions are pseudo boxes, and --pseudo-boxes none has none: leave one out"
        )
    if training.streams == "localization":
        given = {
            "--captions": options.captions,
            "--image-labels": options.image_labels,
            "--replay-image-labels": options.replay_image_labels,
            "--exhaustive": options.exhaustive is not None,
        }
        for option in (option for option, value in given.items() if value):
            yield f"{option} is for the semantic stream, not for --streams localization"


def _config(facts):
    """What the starting point's config does not go with. --set has its word in it already."""
    options, config, training = facts.options, facts.config, facts.training
    if not config.class_agnostic and options.pseudo_boxes == "objects":
        yield "--pseudo-boxes objects: only a class-agnostic detector learns what has no name; give ignore instead"
    if options.captions and (config.pool_update == "frozen" or config.pool_use == "none"):  # nothing else reads them
        yield f"--captions: pool_update={config.pool_update}, pool_use={config.pool_use}: {CAPTIONS_NEED}"
    kind = config.detector_config
    divisor = detector_family(kind).size_divisor(kind)
    if options.image_size and options.image_size > 0 and options.image_size % divisor:
        below, above = options.image_size // divisor * divisor, -(-options.image_size // divisor) * divisor
        yield (
            f"--image-size {options.image_size}: {kind.model_type} needs a multiple of {divisor}; give "
            f"{f'{below} or ' if below else ''}{above}"
        )
    if training is not None and training.gradient_checkpointing and not can_checkpoint_family(kind.model_type):
        yield (
            f"--gradient-checkpointing true: {kind.model_type} has none in transformers; leave it out, and save "
            "memory by a smaller batch or image size, or bf16"
        )


def notes(facts: "Facts", training: "DeCoDetrTrainingArguments") -> list[str]:
    """List what of a run's options has no effect (sentences)."""
    options, found = facts.options, []

    def idle(options, why):
        found.extend(f"--{option.replace('_', '-')} has no effect: {why}" for option in options)

    if training.streams == "localization":
        idle([name for name in _OF_THE_SEMANTICS if name in facts.given], "--streams localization")
        if facts.has_regions and options.pseudo_boxes == "none":
            idle(["regions"], "--streams localization with --pseudo-boxes none")
    if training.streams == "semantic":
        idle([name for name in _OF_THE_DETECTOR if name in facts.given - {"learning_rate"}], "--streams semantic")
    if training.freeze_backbone and "backbone_learning_rate" in facts.given:
        idle(["backbone_learning_rate"], "--freeze-backbone true")
    has_table = options.regions_folder or options.replay_regions
    if options.unkept_regions and training.streams != "localization" and not has_table:
        idle(["unkept-regions"], "without --regions there is none")
    if options.image_labels and training.streams != "localization" and not facts.has_regions:
        idle(["image-labels"], "without regions there is nothing that they narrow")
    return found
