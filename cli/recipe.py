"""Recipes: a training run as a YAML file, whose keys are the options of `decodetr train`."""

import argparse
import json
import typing
from dataclasses import fields
from pathlib import Path

from decodetr.cli.parser import ALSO, tell_old
from decodetr.training.options.options import TrainOptions
from decodetr.utils.arguments import options_of
from decodetr.utils.excerpts import short
from decodetr.utils.shipped import HUB_CARDS
from decodetr.utils.spelling import closest
from decodetr.utils.yaml_documents import read_yaml

RECIPE = "recipe.yaml"
# What a starting point is, and what only fits the one it was written for: on the command line, another starting point
# puts all of it aside.
START_KEYS = ("model", "detector", "config")
_OF_THE_START = (*START_KEYS, "reset_semantics", "set", "backbone")
_OWN = tuple(option.name for option in fields(TrainOptions))


def recipe_file(name: str | Path) -> Path:
    """The file of a recipe: a file, a folder with recipe.yaml, or the name of a recipe that decodetr ships."""
    path = Path(name)
    for file in (path, path / RECIPE, HUB_CARDS / str(name) / RECIPE):
        if file.is_file():
            return file
    shipped = sorted(file.parent.name for file in HUB_CARDS.glob(f"*/{RECIPE}"))
    near = closest(str(name), shipped)
    raise FileNotFoundError(f"--recipe {name}: no such file{near}; give one, or one of {', '.join(shipped)}")


def read_recipe(given: dict, own: argparse.ArgumentParser, training: argparse.ArgumentParser) -> tuple[dict, dict]:
    """Read the recipe that the command line names.

    Args:
        given: {option: value} of the command line, `recipe` among them. Another starting point there puts that of the
            recipe aside, and limits of pictures win.
        own: of the command. training: of DeCoDetrTrainingArguments.

    Returns:
        ({field of TrainOptions: value}, {field of DeCoDetrTrainingArguments: value}), of the types of these fields.
        `config` is a path or the mapping that the recipe holds.

    Raises:
        ValueError, OSError: no such recipe, an unknown key, a key that is there twice, or a value of a wrong type. The
        message names the file and the key.
    """
    file = recipe_file(given["recipe"])
    recipe = _by_fields(read_yaml(file, dict), _other_words(own, training), file)
    if any(given.get(key) for key in START_KEYS):
        recipe = {key: value for key, value in recipe.items() if key not in _OF_THE_START}
    if len(starts := [key for key in START_KEYS if recipe.get(key) is not None]) > 1:
        raise ValueError(f"{file}: {' and '.join(starts)}: a run has one starting point")
    options, arguments = {}, {}
    if (config := recipe.pop("config", None)) is not None:
        options["config"] = _config(config, file)
    if isinstance(recipe.get("set"), dict):
        recipe["set"] = [f"{field}={json.dumps(value)}" for field, value in recipe["set"].items()]
    known = options_of(training) | options_of(own)  # output_dir is an option of both, and is the run's
    del known["recipe"]
    mappings = _fields_of_mappings(training)
    for key, value in recipe.items():
        if key not in known:
            raise ValueError(f"{file}: unknown key {key!r}{closest(key, known)}")
        if value is None:
            continue
        value = _value(known[key], value, key in mappings, f"{file}: {key}")
        if key in _OWN:
            options[key] = value
        elif key in options_of(training):
            arguments[key] = value
        elif value is not False and key not in given:  # a limit, which holds as soon as it is read
            _set_limit(known[key], own, value, f"{file}: {key}")
    return options, arguments


def _other_words(*parsers):
    """{word of an option that has several: its field}, with underscores."""
    found = {}
    for parser in parsers:
        for option in (option for word, others in ALSO.items() for option in (word, *others)):
            if (action := parser._option_string_actions.get(option)) is not None:
                found.setdefault(option.removeprefix("--").replace("-", "_"), action.dest)
    return found


def _by_fields(recipe, words, file):
    tell_old(map(str, recipe))
    renamed = {}
    for key, value in recipe.items():
        name = str(key).replace("-", "_")
        name = words.get(name, name)
        if name in renamed:
            raise ValueError(f"{file}: the key {name!r} is there twice, in two spellings; leave one of them out")
        renamed[name] = value
    return renamed


def _config(value, file):
    """The recipe's `config`: a mapping as it is, a file by its path, looked for next to the recipe first."""
    if isinstance(value, str):
        beside = file.parent / value
        return str(beside if beside.is_file() else value)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: config: expected a mapping of DeCoDetrConfig fields or a file, got {short(value)}")
    return value


def _fields_of_mappings(training):
    """Names of the fields of a HfArgumentParser's dataclasses that may be mappings."""
    found = set()
    for kind in training.dataclass_types:
        for name, hint in typing.get_type_hints(kind).items():
            if any((typing.get_origin(part) or part) is dict for part in typing.get_args(hint)):
                found.add(name)
    return found


def _value(action, value, takes_mapping, where):
    """A key's value in the type of its option. ValueError if it has another one, or is none of the choices."""
    if isinstance(value, dict) and takes_mapping:
        return value
    if action.nargs == "+":
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError(f"{where}: expected at least one argument")
        return [_single_value(action, item, where) for item in values]
    return _single_value(action, value, where)


def _single_value(action, value, where):
    kind = getattr(action.type, "__name__", "str")
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
    if action.type is not None:
        try:
            value = action.type(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: invalid {kind} value: {value!r}") from error
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"{where}: invalid choice: {value!r} (choose from {', '.join(map(repr, action.choices))})")
    return value


def _set_limit(action, parser, value, where):
    try:
        action(parser, argparse.Namespace(), value)
    except argparse.ArgumentError as error:
        raise ValueError(f"{where}: {error.message}") from error
