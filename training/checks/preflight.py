"""What `decodetr train` checks before it reads data or a model: seconds, and all problems at once.

`check` goes through the options of the run: files and folders that must be there, options that do not go together,
and what only this machine knows. What needs data or the model comes later, still before the first step: names.py,
metrics.py, trial.py.
"""

import logging
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodetr.annotations.names_ahead import names_ahead
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import check_part, coco_file, has_part, kind_of, load_annotations
from decodetr.training.checks.environment import check_environment, needs_package
from decodetr.training.checks.pairs import check_pairs, notes
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.early_stopping import early_stopping_fields
from decodetr.training.options.metrics import check_metric, check_names, default_metric, needs_metric
from decodetr.training.options.provenance import Setting, choose_setting
from decodetr.training.results.calibration import MOST, SHARE, why_none_kept, why_not
from decodetr.training.start.space import check_space, stored_config
from decodetr.training.start.starting_point import WIDTHS, fields_of_space, starting_config
from decodetr.utils.files import output_folder
from decodetr.utils.preflight import Problems
from decodetr.utils.shipped import expect, expect_file, load_pool, load_vocabulary
from decodetr.utils.spelling import spelled_as

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrConfig, PrototypePool
    from decodetr.training.options.options import TrainOptions

logger = logging.getLogger(__name__)


def check(
    options: "TrainOptions", arguments: dict[str, Any] | None, findings: Problems | None = None
) -> DeCoDetrTrainingArguments:
    """Check the options of a run, and say what is chosen by default.

    Args:
        options (TrainOptions).
        arguments (dict or None): the given fields of DeCoDetrTrainingArguments. None where they cannot be read.
        findings ([`Problems`], *optional*): what was found before.

    Returns:
        DeCoDetrTrainingArguments.

    Raises:
        ValueError, OSError: what cannot be run, with what mends it. Several problems as one ValueError.
    """
    findings = findings or Problems()
    findings.call(output_folder, options.output_dir, "--output")
    findings.call(_check_data, options)
    split = findings.call(_read_split, options)
    pool = findings.call(load_pool, options.pool) if options.pool else None
    vocabulary = findings.call(load_vocabulary, options.vocabulary) if options.vocabulary else None
    deployed = findings.call(load_vocabulary, options.deploy_vocabulary) if options.deploy_vocabulary else None
    for option in ("captions", "image_labels", "replay_image_labels"):
        findings.call(expect_file, f"--{option.replace('_', '-')}", getattr(options, option))
    findings.call(expect, "text model", options.text_model, "config.json")
    if options.regions_folder:
        findings.call(_check_regions, "--regions", options.regions_folder)
    if options.replay_regions:
        findings.call(_check_regions, "--replay-regions", options.replay_regions)
    config = findings.call(starting_config, options)
    training = None if arguments is None else findings.call(make_arguments, options.output_dir, arguments)
    if training is not None and training.cache_folder:
        findings.call(output_folder, training.cache_folder, "--cache-folder")
    if config is not None:
        findings.call(check_space, options, config, training, pool, vocabulary, deployed)
    facts = Facts(options, training, frozenset(arguments or ()), config, split, pool)
    for problem in check_pairs(facts):
        findings.call(_refuse, problem)
    if training is not None:
        for environment in check_environment(training):
            findings.call(environment)
        findings.call(_check_metric, facts)
    if not findings.errors:
        findings.call(_check_names, facts, vocabulary, deployed)
    findings.tell()
    if training is None:
        raise ValueError(
            "expected fields of DeCoDetrTrainingArguments, got None; findings have to say why there are none"
        )
    for note in notes(facts, training):
        logger.warning(note)
    logger.warning("Chosen by default: %s", "; ".join(_chosen(facts)))
    return training


class Facts:
    """
    What is known of a run before anything is read in full.

    Args:
        options (TrainOptions). training (DeCoDetrTrainingArguments or None): None where they cannot be read.
        given: fields of DeCoDetrTrainingArguments that the command line or the recipe gives.
        config (DeCoDetrConfig or None): of the starting point, with the fields of --set. None where it is not known.
        split: (base, novel) names, or None. pool (PrototypePool or None): of --pool.

    Attributes:
        novel (list[str]): names.
        setting (Setting or None): None where it cannot be.
        has_validation (bool): the data set has validation images, or annotations of some are given.
        validates (bool): they are evaluated, or a share of the training images.
        looks_itself (bool): the starting point proposes regions of the training images.
        has_regions (bool): the training images have regions, or get these.
    """

    def __init__(
        self,
        options: "TrainOptions",
        training: DeCoDetrTrainingArguments | None,
        given: Set[str],
        config: "DeCoDetrConfig | None",
        split: tuple[list[str], list[str]] | None,
        pool: "PrototypePool | None",
    ) -> None:
        self.options, self.training, self.given = options, training, given
        self.config, self.pool, self.split = config, pool, split
        self.novel = list(split[1]) if split else []
        streams = training.streams if training is not None else "joint"
        self.looks_itself = options.uses_own_regions or options.uses_detector_boxes(streams)
        self.has_regions = self.looks_itself or options.regions_folder is not None
        self.has_validation = _has_validation(options)
        self.validates = bool(options.val_share) or self.has_validation

    @property
    def pool_captions(self) -> int:
        """How many captions of whole images are in the pool of the run, if it has one that anything learns from."""
        if self.training is not None and self.training.streams == "localization":
            return 0
        info = self.pool.info if self.pool is not None else getattr(self.config, "pool_info", None)
        return (info or {}).get("image_captions", 0)

    @property
    def setting(self) -> Setting | None:
        """The setting, or None where the one that is asked for cannot be."""
        return choose_setting(self.options.setting, self.novel) if self.novel or not self.options.setting else None


def make_arguments(output_dir: str, given: dict[str, Any]) -> DeCoDetrTrainingArguments:
    """DeCoDetrTrainingArguments of some fields.

    Raises:
        ValueError: a value that a field cannot have, or a package that it needs is missing.
    """
    needs_package(given)
    try:
        return DeCoDetrTrainingArguments(**{"output_dir": output_dir, **given, **early_stopping_fields(given)})
    except RuntimeError as error:  # of a device that is asked for and not there
        raise ValueError(str(error)) from error


def _refuse(problem):
    raise ValueError(problem)


# Files and folders


def _check_data(options):
    """The training, validation, held-out and replayed data are there."""
    findings = Problems()
    needed = [("--held-out-data", options.held_out_data, "val"), ("--replay-data", options.replay_data, "train")]
    if not options.train_annotations:
        needed.append(("--data", options.data, "train"))
    for option, data, part in needed:
        if data:
            findings.call(_check_part, option, data, part)
    findings.call(expect_file, "--train-annotations", options.train_annotations)
    if options.val_annotations != "none":
        findings.call(expect_file, "--val-annotations", options.val_annotations)
    findings.tell()


def _check_part(option, data, part):
    try:
        check_part(data, part)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{option} {error}") from error


def _has_validation(options):
    if options.val_annotations:
        return options.val_annotations != "none"
    try:
        return has_part(options.data, "val")
    except (OSError, ValueError):  # said of the data themselves
        return False


def _read_split(options):
    file = names_split_file(options.data, options.names_split)
    return read_split(file) if file else None


def _check_regions(option, folder):
    if not any(Path(folder).glob("*.parquet")) and not Path(folder).is_file():
        raise FileNotFoundError(
            f"{option} {folder}: expected a folder with regions-*.parquet, as `decodetr pool build` writes it into "
            "OUT/regions"
        )


# Metric and defaults


def _check_metric(facts):
    training, groups = facts.training, ()
    if needs_metric(training) and not facts.validates:
        if training.early_stopping_patience is not None:
            return  # `check_pairs` says it
        raise ValueError(
            "--load-best-model-at-end, --save-strategy best and a learning rate that follows a metric need validation "
            "data: give --val-annotations or --val-share 0.1, or leave them out"
        )
    if facts.options.goes_on:
        groups = ("trained", "held_out")
    if needs_metric(training) and "metric_for_best_model" not in facts.given:
        training.metric_for_best_model = default_metric(training.streams, bool(facts.novel))
    check_metric(training, groups, novel=bool(facts.novel))


def _check_names(facts, vocabulary, deployed):
    """Names of the validation data, as far as annotation files say them without being read: what seems to be missing
    is looked for in the validation data themselves, which are few."""
    options = facts.options
    if not facts.has_validation:
        return
    made = options.goes_on or options.text_model or facts.pool or vocabulary or deployed
    if facts.training.streams == "localization" and not made:
        return  # all names get random embeddings, which nothing reads (`set_names`)
    if not options.val_annotations or not options.train_annotations:
        if kind_of(options.data) != "coco":
            return
    file = options.val_annotations or coco_file(options.data, "val")
    trained = names_ahead(options.train_annotations or coco_file(options.data, "train"))
    evaluated = names_ahead(file)
    if trained is None or evaluated is None:
        return
    if deployed is not None:
        known = set(deployed.names)
    else:
        own = facts.config.id2label.values() if options.goes_on else ()
        if vocabulary is not None:
            own = vocabulary.names
        known = {*own, *(name for name in trained if not facts.split or name in facts.split[0])}
        known |= set(facts.novel if facts.setting.novel_names else ())
    known = set(spelled_as(known, evaluated))
    if set(evaluated) - known:
        check_names(load_annotations(options.data, "val", file, check_images=False), known)


def _chosen(facts):
    """What the run takes where the user says nothing: a list of phrases."""
    options, training = facts.options, facts.training
    if "streams" not in facts.given:
        has_classes = facts.config is not None and not facts.config.class_agnostic
        yield f"streams {training.streams}{', or semantic if the detector lacks a class' if has_classes else ''}"
    if options.regions is None:
        yield "regions self" if facts.looks_itself else "no regions"
    if options.val_annotations is None and not options.val_share:
        yield "validation images of the data set" if facts.validates else "no validation"
    if options.names_split is None and facts.novel:
        yield f"names split {names_split_file(options.data)} with {len(facts.novel)} novel names"
    if options.setting is None and facts.novel:
        yield f"setting {facts.setting.name}"
    if options.reset_semantics:
        stored = stored_config(options.model)
        for name, value in fields_of_space(stored).items():
            if name not in options.replaced_fields:
                yield f"{name} {value} (the model's {getattr(stored, name)} was for its own pool; --set keeps it)"
        for name in WIDTHS if facts.config is not None else ():
            if name not in options.replaced_fields and getattr(stored, name) != (new := getattr(facts.config, name)):
                yield f"{name} {new} (the model's semantic stream has {getattr(stored, name)}; --set keeps it)"
    if training.early_stopping_patience is not None:
        needed = early_stopping_fields({name: getattr(training, name) for name in facts.given})
        yield from (f"{name} {str(value).lower()}" for name, value in needed.items())
    if needs_metric(training) and "metric_for_best_model" not in facts.given:
        yield f"the best checkpoint by {training.metric_for_best_model}"
    if options.calibration_share is None:
        if why_none_kept(options, training.streams) is None:
            yield f"{100 * SHARE:g} % of the training images, at most {MOST}, kept aside"
        if (reason := why_not(options, training.streams)) is not None:
            yield f"scores not calibrated ({reason})"
    if options.captions and not options.text_model and facts.pool is not None:
        yield f"captions embedded by {facts.pool.info.get('encoder')}"
    length = ""
    if {"max_steps", "num_train_epochs"} & facts.given:
        length = f"{training.max_steps} steps " if training.max_steps > 0 else f"{training.num_train_epochs:g} epochs "
    processes = training.world_size
    yield f"{length}on {training.device}, {processes} process{'es' if processes > 1 else ''}"
