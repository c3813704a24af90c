"""Recipes: a training run as a YAML file, whose keys are the words of `decodetr train`.

Nothing heavy is imported here before a recipe is read, because `decodetr train --help` must not.
"""

import argparse
import difflib
import itertools
import json
import typing
from pathlib import Path

from decodetr.utils.arguments import as_defaults, extend_lists
from decodetr.utils.documents import read_yaml, short
from decodetr.utils.shipped import HUB_CARDS

RECIPE = "recipe.yaml"
# What a starting point is, and what only fits the one it was written for: on the command line, another starting point
# puts all of it aside.
START_KEYS = ("model", "detector", "config")
_OF_THE_START = (*START_KEYS, "reset_semantics", "set", "backbone")


def recipe_file(name) -> Path:
    """The file of a recipe: a file, a folder with recipe.yaml, or the name of a recipe that decodetr ships."""
    path = Path(name)
    for file in (path, path / RECIPE, HUB_CARDS / str(name) / RECIPE):
        if file.is_file():
            return file
    shipped = sorted(file.parent.name for file in HUB_CARDS.glob(f"*/{RECIPE}"))
    raise FileNotFoundError(f"--recipe {name}: no such file; give one, or one of {', '.join(shipped)}")


def closest(word, known) -> str:
    """ "; did you mean ...?" for an unknown word, or nothing if no known one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def parse_with_recipe(words, add_arguments):
    """Parse the words of `decodetr train` over the values of the recipe that they name; words win.

    Args:
        words (`list[str]`): of the command line.
        add_arguments: of the command, without required arguments.

    Returns:
        `argparse.Namespace`: the command's own arguments, `config` a path or the mapping that the recipe holds,
        `training_arguments`, words for DeCoDetrTrainingArguments, and `words`.

    Raises:
        ValueError, OSError: no such recipe; an unknown key, or one that is there twice; a value of a wrong type. The
        message names the file and the key.
    """
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_arguments(parser)
    extend_lists(parser)
    said, _ = parser.parse_known_args(words)
    file = recipe_file(said.recipe)
    recipe = _with_underscores(read_yaml(file, dict), file)
    if any(getattr(said, key) for key in START_KEYS):
        recipe = {key: value for key, value in recipe.items() if key not in _OF_THE_START}
    if len(starts := [key for key in START_KEYS if recipe.get(key) is not None]) > 1:
        raise ValueError(f"{file}: {' and '.join(starts)}: a run has one starting point")
    config = recipe.pop("config", None)
    if isinstance(recipe.get("set"), dict):
        recipe["set"] = [f"{field}={json.dumps(value)}" for field, value in recipe["set"].items()]
    own, training = _as_words(recipe, parser, file)
    stored = as_defaults(parser.parse_known_args(own)[0])
    if config is not None:
        stored.config = _config(config, file)
    fields = stored.set
    args, rest = parser.parse_known_args(words, stored)
    args.set = [*fields, *said.set]
    # A list on the command line takes the place of the recipe's; of other words the last one counts.
    again = {word.split("=")[0] for word in rest}
    kept = [said for key, said in training if key.nargs != "+" or not again.intersection(key.option_strings)]
    args.training_arguments, args.words = [*itertools.chain(*kept), *rest], words
    return args


def _with_underscores(recipe, file):
    renamed = {}
    for key, value in recipe.items():
        name = str(key).replace("-", "_")
        if name in renamed:
            raise ValueError(f"{file}: the key {name!r} is there twice, with a dash and with an underscore")
        renamed[name] = value
    return renamed


def _config(value, file):
    """The recipe's `config`: a mapping as it is, a file by its path, looked for beside the recipe first."""
    if isinstance(value, str):
        beside = file.parent / value
        return str(beside if beside.is_file() else value)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: config: expected a mapping of DeCoDetrConfig fields or a file, got {short(value)}")
    return value


def _as_words(recipe, parser, file):
    """What the recipe says as words: (those for the command, [(argparse action, its words)] for
    DeCoDetrTrainingArguments)."""
    import transformers

    from decodetr.training.arguments import DeCoDetrTrainingArguments

    hints = typing.get_type_hints(DeCoDetrTrainingArguments)
    fields = transformers.HfArgumentParser(DeCoDetrTrainingArguments, exit_on_error=False, allow_abbrev=False)
    options = {}
    for one in (fields, parser):  # output_dir is an argument of both; the command passes its own on
        for action in reversed(one._actions):  # an option's complement (--no-...) comes after it
            options[action.dest] = (one, action)
    for key in ("help", "recipe"):
        del options[key]
    own, training = [], []
    for key, value in recipe.items():
        if key not in options:
            raise ValueError(f"{file}: unknown key {key!r}{closest(key, [*options, 'config'])}")
        if value is None:
            continue
        one, action = options[key]
        kinds = typing.get_args(hints[key]) if one is fields else ()
        takes_mapping = any((typing.get_origin(kind) or kind) is dict for kind in kinds)
        said = [action.option_strings[0], *_values(action, value, takes_mapping, f"{file}: {key}")]
        if action.nargs == 0:  # a flag; --no-... is the last option of one that has it
            no = action.option_strings[-1:] if isinstance(action, argparse.BooleanOptionalAction) else []
            said = said[:1] if value else no
        try:
            one.parse_known_args(said)
        except argparse.ArgumentError as error:
            raise ValueError(f"{file}: {key}: {error.message}") from error
        if one is parser:
            own += said
        else:
            training.append((action, said))
    return own, training


def _values(action, value, takes_mapping, where):
    """The words of a value; ValueError if its type is not the option's."""
    kind = getattr(action.type, "__name__", "str")
    if isinstance(value, dict) and takes_mapping:
        return [json.dumps(value)]
    if isinstance(value, list) and action.nargs == "+":
        return [word for item in value for word in _values(action, item, False, where)]
    if action.nargs == 0 or kind == "string_to_bool":
        expected, right = "true or false", isinstance(value, bool)
    elif kind in ("int", "float"):
        number = int if kind == "int" else int | float
        expected = "a whole number" if kind == "int" else "a number"
        right = isinstance(value, number) and not isinstance(value, bool)
    else:
        expected, right = "a text", isinstance(value, str)
    if not right:
        raise ValueError(f"{where}: expected {expected}, got {short(value)}")
    return [str(value).lower() if isinstance(value, bool) else str(value)]
