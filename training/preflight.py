"""What `decodetr train` checks before it reads data or a model: seconds, and all problems at once.

`check` goes through the words of the command: files and folders that must be there, options that do not go together,
and what only this machine knows. What needs data or the model comes later, still before the first step: names.py,
metrics.py, trial.py.
"""

import argparse
import logging
from pathlib import Path

from decodetr.annotations.names_ahead import names_ahead
from decodetr.annotations.names_split import names_split_file
from decodetr.annotations.sources import coco_file, has_part, kind_of, load_annotations
from decodetr.cli.recipe import closest
from decodetr.training.calibration import MOST, SHARE, why_not
from decodetr.training.chosen import given_fields
from decodetr.training.environment import check_environment
from decodetr.training.metrics import check_metric, check_names, default_metric, needs_metric
from decodetr.training.options import goes_on
from decodetr.training.pairs import check_pairs, notes
from decodetr.training.provenance import choose_setting
from decodetr.training.space import check_space, stored_config
from decodetr.training.starting_point import fields_of_space, starting_config
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import output_folder
from decodetr.utils.preflight import Findings
from decodetr.utils.shipped import expect, expect_file, load_pool, load_vocabulary

logger = logging.getLogger(__name__)


def check(args):
    """Check the words of a run, and say what is chosen by default.

    Args:
        args: of the command; `args.training_arguments` are the words for DeCoDetrTrainingArguments.

    Returns:
        DeCoDetrTrainingArguments.

    Raises:
        ValueError, OSError: what cannot be run, with what mends it; several problems as one ValueError.
    """
    findings = Findings()
    findings.call(output_folder, args.output_dir, "--output_dir")
    findings.call(_check_data, args)
    split = findings.call(_read_split, args)
    pool = findings.call(load_pool, args.pool) if args.pool else None
    vocabulary = findings.call(load_vocabulary, args.vocabulary) if args.vocabulary else None
    deployed = findings.call(load_vocabulary, args.deploy_vocabulary) if args.deploy_vocabulary else None
    for option in ("captions", "image_labels", "replay_image_labels"):
        findings.call(expect_file, f"--{option.replace('_', '-')}", getattr(args, option))
    findings.call(expect, "text model", args.text_model, "config.json")
    if args.regions not in (None, "self", "none"):
        findings.call(_check_regions, "--regions", args.regions)
    if args.replay_regions:
        findings.call(_check_regions, "--replay-regions", args.replay_regions)
    config = findings.call(starting_config, args)
    training = findings.call(parse, args)
    if config is not None:
        findings.call(check_space, args, config, training, pool, vocabulary, deployed)
    facts = Facts(args, training, config, split, pool)
    for problem in check_pairs(facts):
        findings.call(_refuse, problem)
    if training is not None:
        for environment in check_environment(training):
            findings.call(environment)
        findings.call(_check_metric, facts)
    if not findings.errors:
        findings.call(_check_names, facts, vocabulary, deployed)
    findings.tell()
    for note in notes(facts):
        logger.warning(note)
    logger.warning("Chosen by default: %s", "; ".join(_chosen(facts)))
    return training


class Facts:
    """
    What is known of a run before anything is read in full.

    Args:
        args: of the command. training (DeCoDetrTrainingArguments or None): None where they cannot be read.
        config (DeCoDetrConfig or None): of the starting point, with the fields of --set; None where it is not known.
        split: (base, novel) names, or None. pool (PrototypePool or None): of --pool.

    Attributes:
        given (set[str]): fields of DeCoDetrTrainingArguments that the command line or the recipe gives.
        novel (list[str]): names.
        setting (Setting or None): None where it cannot be.
        has_validation (bool): the data set has validation images, or annotations of some are given.
        validates (bool): they are evaluated, or a share of the training images.
        has_regions (bool): the training images have regions, or get the model's own.
    """

    def __init__(self, args, training, config, split, pool):
        self.args, self.training, self.config, self.pool, self.split = args, training, config, pool, split
        self.given = given_fields(args)
        self.novel = list(split[1]) if split else []
        self.goes_on = goes_on(args)
        own = self.goes_on and not args.streaming and args.regions in (None, "self")
        self.has_regions = own or args.regions not in (None, "self", "none")
        self.looks_itself = own
        self.has_validation = _has_validation(args)
        self.validates = bool(args.val_share) or self.has_validation

    @property
    def pool_captions(self):
        """How many captions of whole images are in the pool of the run, if it has one that anything learns from."""
        if self.training is not None and self.training.streams == "localization":
            return 0
        info = self.pool.info if self.pool is not None else getattr(self.config, "pool_info", None)
        return (info or {}).get("image_captions", 0)

    @property
    def setting(self):
        """The setting, or None where the one that is asked for cannot be."""
        return choose_setting(self.args.setting, self.novel) if self.novel or not self.args.setting else None


def parse(args):
    """The fields of DeCoDetrTrainingArguments from the words that the command's own parser left over.

    Raises:
        ValueError: an unknown word, with the nearest known one, or a value that a field cannot have.
    """
    import transformers

    from decodetr.training.arguments import DeCoDetrTrainingArguments
    from decodetr.training.environment import needs_package

    needs_package(args.training_arguments)
    parser = transformers.HfArgumentParser(DeCoDetrTrainingArguments, exit_on_error=False, allow_abbrev=False)
    extend_lists(parser)
    words = ["--output_dir", args.output_dir, *args.training_arguments]
    try:
        training, unknown = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    except argparse.ArgumentError as error:
        raise ValueError(str(error).replace("argument ", "", 1)) from error
    except RuntimeError as error:  # of a device that is asked for and not there
        raise ValueError(str(error)) from error
    if unknown:
        option = unknown[0].partition("=")[0]
        near = closest(option, _options(parser))
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}{near}")
    return training


def _options(parser):
    """All options of `decodetr train`: its own and the fields of the training arguments."""
    from decodetr.cli.train import add_arguments

    own = argparse.ArgumentParser(add_help=False)
    add_arguments(own)
    return [option for one in (own, parser) for action in one._actions for option in action.option_strings]


def _refuse(problem):
    raise ValueError(problem)


# Files and folders


def _check_data(args):
    """The training, validation, held-out and replayed data are there."""
    findings = Findings()
    needed = [("--held-out-data", args.held_out_data, "val"), ("--replay-data", args.replay_data, "train")]
    if not args.train_annotations:
        needed.append(("--data", args.data, "train"))
    for option, data, part in needed:
        if data:
            findings.call(_check_part, option, data, part)
    findings.call(expect_file, "--train-annotations", args.train_annotations)
    if args.val_annotations != "none":
        findings.call(expect_file, "--val-annotations", args.val_annotations)
    findings.tell()


def _check_part(option, data, part):
    if kind_of(data) == "coco":
        file = coco_file(data, part)
        if not Path(data).is_dir():
            raise ValueError(f"{option} {data}: expected a folder, got a file")
        if not file.is_file():
            raise FileNotFoundError(f"{option} {data}: no such file: {file}; docs/data.md has the forms of data")
    elif not has_part(data, part):
        raise ValueError(f"{option} {data}: it has no part {part!r}")


def _has_validation(args):
    if args.val_annotations:
        return args.val_annotations != "none"
    try:
        return has_part(args.data, "val")
    except (OSError, ValueError):  # said of the data themselves
        return False


def _read_split(args):
    from decodetr.annotations.names_split import read_split

    file = names_split_file(args.data, args.names_split)
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
        raise ValueError(
            "--load_best_model_at_end, --save_strategy best and a learning rate that follows a metric need validation "
            "data: give --val-annotations or --val-share 0.1, or leave them out"
        )
    if facts.goes_on:
        groups = ("trained", "held_out")
    if needs_metric(training) and "metric_for_best_model" not in facts.given:
        training.metric_for_best_model = default_metric(training.streams, bool(facts.novel))
    check_metric(training, groups, novel=bool(facts.novel))


def _check_names(facts, vocabulary, deployed):
    """Names of the validation data, as far as annotation files say them without being read: what seems to be missing
    is looked for in the validation data themselves, which are few."""
    args = facts.args
    if not facts.has_validation:
        return
    if not args.val_annotations or not args.train_annotations:
        if kind_of(args.data) != "coco":
            return
    file = args.val_annotations or coco_file(args.data, "val")
    trained = names_ahead(args.train_annotations or coco_file(args.data, "train"))
    evaluated = names_ahead(file)
    if trained is None or evaluated is None:
        return
    if deployed is not None:
        known = set(deployed.names)
    else:
        own = vocabulary.names if vocabulary is not None else facts.config.id2label.values() if facts.goes_on else ()
        known = {*own, *(name for name in trained if not facts.split or name in facts.split[0])}
        known |= set(facts.novel if facts.setting.novel_names else ())
    if set(evaluated) - known:
        check_names(load_annotations(args.data, "val", file, check_images=False), known)


def _chosen(facts):
    """What the run takes where the user says nothing: a list of phrases."""
    args, training = facts.args, facts.training
    if "streams" not in facts.given:
        yield f"streams {training.streams}"
    if args.regions is None:
        yield "regions self" if facts.looks_itself else "no regions"
    if args.val_annotations is None and not args.val_share:
        yield "validation images of the data set" if facts.validates else "no validation"
    if args.names_split is None and facts.novel:
        yield f"names split {names_split_file(args.data)} with {len(facts.novel)} novel names"
    if args.setting is None and facts.novel:
        yield f"setting {facts.setting.name}"
    if args.reset_semantics:
        stored = stored_config(args)
        said = {word.partition("=")[0] for word in args.set}
        for name, value in fields_of_space(stored).items():
            if name not in said:
                yield f"{name} {value} (the model's {getattr(stored, name)} was for its own pool; --set keeps it)"
    if needs_metric(training) and "metric_for_best_model" not in facts.given:
        yield f"the best checkpoint by {training.metric_for_best_model}"
    if args.calibration_share is None:
        reason = why_not(args, training.streams)
        kept = f"{100 * SHARE:g} % of the training images, at most {MOST}, kept aside to calibrate scores"
        yield f"scores not calibrated ({reason})" if reason else kept
    if args.captions and not args.text_model and facts.pool is not None:
        yield f"captions embedded by {facts.pool.info.get('encoder')}"
    length = ""
    if {"max_steps", "num_train_epochs"} & facts.given:
        length = f"{training.max_steps} steps " if training.max_steps > 0 else f"{training.num_train_epochs:g} epochs "
    yield f"{length}on {training.device}"
