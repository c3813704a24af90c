"""`decodetr train`: from a data set to a trained, evaluated, saved and described model.

Apart from train.py, because a Trainer subclass must import torch and transformers at the top, and `--help` must not.
The options of TrainOptions have dashes. Every field of `DeCoDetrTrainingArguments` (and so of
`transformers.TrainingArguments`) is accepted too and has its one default there.
"""

import argparse
import sys
import typing
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from decodetr.cli.options import add_form_arguments
from decodetr.cli.parser import CommandParser, Said, also_spelled
from decodetr.cli.recipe import read_recipe
from decodetr.cli.train_help import more_help
from decodetr.training.options.options import TrainOptions
from decodetr.utils.arguments import extend_lists, only_given
from decodetr.utils.files import claim
from decodetr.utils.outputs import apart
from decodetr.utils.preflight import Problems, process_rank
from decodetr.utils.shipped import resolve
from decodetr.utils.spelling import closest

if TYPE_CHECKING:
    from transformers import HfArgumentParser

EPILOG = """Steps, learning rates, batch size and cached views are chosen from the data if you do not give them.
docs/training.md explains all of this."""
__all__ = ["add_arguments", "more_help", "read_fields", "read_options", "run", "training_parser"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `decodetr train`: of [`TrainOptions`], what is said alone, so that their defaults stand
    there. DeCoDetrTrainingArguments are parsed from what remains."""
    parser.epilog = EPILOG
    parser.argument_default = argparse.SUPPRESS
    start = parser.add_mutually_exclusive_group()
    hints = typing.get_type_hints(TrainOptions)
    for option in fields(TrainOptions):
        if option.name == "class_names":
            add_form_arguments(parser)
        if "help" in option.metadata:
            add_option(start if "group" in option.metadata else parser, option, hints[option.name])


def add_option(
    parser: argparse.ArgumentParser | argparse._MutuallyExclusiveGroup, option: Field, hint: object
) -> None:
    """Add a field of a dataclass to a parser, by its type and metadata."""
    kinds = typing.get_args(hint) or (hint,)
    flags = option.metadata.get("flags", ("--" + option.name.replace("_", "-"),))
    how = {name: option.metadata[name] for name in ("help", "metavar", "choices") if name in option.metadata}
    if hint is bool:
        how["action"] = "store_true"
    elif bool in kinds:
        how["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(hint) is list:
        how["nargs"] = "+"
    elif kinds[0] is not str:
        how["type"] = kinds[0]
    parser.add_argument(*flags, dest=option.name, default=argparse.SUPPRESS, **how)


def read_options(given: dict[str, Any]) -> tuple[TrainOptions, dict[str, Any]]:
    """TrainOptions, and what a recipe says of DeCoDetrTrainingArguments.

    Args:
        given (dict): {option: value} of the command line. It wins over the recipe, but fields of the config are
            joined.

    Returns:
        (TrainOptions, {field of DeCoDetrTrainingArguments: value}).
    """
    stored = {}
    if given.get("recipe"):
        parser = CommandParser()
        add_arguments(parser)
        recipe, stored = read_recipe(given, also_spelled(extend_lists(parser)), training_parser())
        _refuse_token(stored, f"{given['recipe']}: hub_token")
        given = recipe | given | {"set": [*recipe.get("set", []), *given.get("set", [])]}
    own = {option.name for option in fields(TrainOptions)}  # limits of pictures hold already
    return TrainOptions(**{name: value for name, value in given.items() if name in own}), stored


def training_parser() -> "HfArgumentParser":
    """The parser of DeCoDetrTrainingArguments, which gives the fields that are said."""
    import transformers

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

    parser = transformers.HfArgumentParser(DeCoDetrTrainingArguments, exit_on_error=False, allow_abbrev=False)
    parser._option_string_actions["--report_to"].nargs = "+"  # the library's field takes a list, its parser does not
    return also_spelled(only_given(extend_lists(parser)), but=())


def read_fields(words: Sequence[str]) -> dict[str, Any]:
    """{field of DeCoDetrTrainingArguments: value} of the words that the command's own parser left over.

    Raises:
        ValueError: an unknown word, with the nearest known one, or a value that a field cannot have.
    """
    parser = training_parser()
    try:
        found, unknown = parser.parse_known_args(words, Said())
    except argparse.ArgumentError as error:
        raise ValueError(str(error).replace("argument ", "", 1)) from error
    _refuse_token(vars(found), "--hub-token")
    if unknown:
        own = argparse.ArgumentParser(add_help=False)
        add_arguments(own)
        known = [option for one in (own, parser) for option in one._option_string_actions]
        near = closest(unknown[0].partition("=")[0], known)
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}{near}")
    return vars(found)


def _refuse_token(given, where):
    """A token that is said where others can read it: in the list of processes, the history of a shell, a file."""
    if "hub_token" in given:
        from decodetr.training.checks.environment import TOKEN

        raise ValueError(f"{where}: a token is a secret, and others can read it here; leave it out, and {TOKEN}")


def _check_required(options, left):
    if left and not left[0].startswith("-") and left[0].endswith((".yaml", ".yml", ".json")):
        raise ValueError(f"{left[0]}: a file of options is given by --recipe {left[0]}")
    absent = [
        option for name, option in (("data", "--data"), ("output_dir", "--output")) if not getattr(options, name)
    ]
    if not (options.model or options.detector or options.config):
        absent.append("a starting point (--model, --detector or --config)")
    if absent:
        raise ValueError(f"give {' and '.join(absent)}, on the command line or in a recipe (--recipe)")


def _plan(options, arguments):
    """Print what the run would take."""
    import tempfile

    from decodetr.training.checks.preflight import make_arguments
    from decodetr.training.planning.plan import plan

    if options.plan == "data" and not options.data:
        raise ValueError("--plan data: give --data, or the size of a public data set: --plan coco")
    with tempfile.TemporaryDirectory() as folder:
        training = make_arguments(folder, {**arguments, "use_cpu": True})  # bf16 needs no GPU to be planned
    sys.stdout.write(plan(options, training, frozenset(arguments)) + "\n")
    return 0


def _check_apart(options):
    """Refuse an output folder in which something is read that the run would replace."""
    places = ("data", "held_out_data", "replay_data", "regions", "replay_regions", "captions", "image_labels")
    places += ("replay_image_labels", "names_split", "config", "recipe")
    inputs = {name: getattr(options, name) for name in places}
    models = ("model", "detector", "pool", "vocabulary", "deploy_vocabulary", "text_model")
    inputs |= {name: resolve(getattr(options, name)) for name in models if getattr(options, name)}
    inputs["clip"] = inputs.pop("text_model", None)
    read = {f"--{name.replace('_', '-')}": path for name, path in inputs.items() if isinstance(path, str)}
    written = ("config.json", "README.md", "training_config.yaml", "forgetting.json", "captions.safetensors")
    apart("--output", options.output_dir, read, written)


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, save.

    Args:
        args: the options that are given. Also `training_arguments`, the words of the command line that are left for
            DeCoDetrTrainingArguments, and `words`, all of them.
    """
    given = vars(args)
    left, words = given.pop("training_arguments"), given.pop("words")
    options, stored = read_options(given)
    if options.plan:
        return _plan(options, stored | read_fields(left))
    _check_required(options, left)
    _check_apart(options)
    from decodetr.training.options.device import device_fields
    from decodetr.training.results.output import output_fields

    findings = Problems()
    said = findings.call(read_fields, left)
    arguments = None if said is None else stored | said
    if arguments is not None and (found := findings.call(device_fields, options.device, arguments)):
        arguments |= found
    if arguments is not None and (found := findings.call(output_fields, options.output_dir, arguments)):
        arguments |= found
    from decodetr.train import TrainingRun
    from decodetr.training.checks.preflight import check

    training = check(options, arguments, findings)
    with claim(training.output_dir if process_rank() == 0 else None, "decodetr train"):
        return TrainingRun(options, training, given=frozenset(arguments or ()), words=words).run()
