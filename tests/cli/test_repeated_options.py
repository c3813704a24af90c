"""An option that takes several values keeps those of all its places on the command line."""

import argparse
import importlib
import sys

import pytest
import transformers
from helpers import paths

from decodetr.cli import COMMANDS, command_parser
from decodetr.cli.train import read_fields, read_options
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.utils.arguments import Extend, extend_lists

BENCHMARKS = sorted(file.stem for file in paths.BENCHMARKS.glob("*.py") if "nargs=" in file.read_text())
TUPLES = {"--image-size"}  # of benchmarks/overhead.py: a side, or height and width, which is one value


def _parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from _parsers(below)


def _lists(parser):
    return [a for p in _parsers(parser) for a in p._actions if a.option_strings and a.nargs in ("+", "*")]


def test_every_list_of_every_command_is_extended():
    found = [action for command in COMMANDS for action in _lists(command_parser(command)[1])]
    named = {action.option_strings[0] for action in found}
    assert {"--set", "--seen", "--text", "--image", "--variants", "--seeds", "--splits", "--parts"} <= named
    assert all(isinstance(action, Extend) for action in found), named


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_list_of_every_benchmark_is_extended(name, monkeypatch):
    monkeypatch.syspath_prepend(str(paths.BENCHMARKS))
    parser = importlib.import_module(name).parser()
    sys.modules.pop(name, None)
    assert all(isinstance(action, Extend) for action in _lists(parser) if action.option_strings[0] not in TUPLES)


def test_lists_of_training_arguments_are_extended():
    fields = extend_lists(transformers.HfArgumentParser(DeCoDetrTrainingArguments))
    assert fields.parse_args(["--debug", "underflow_overflow", "--debug", "tpu_metrics_debug"]).debug == [
        "underflow_overflow",
        "tpu_metrics_debug",
    ]
    assert fields.parse_args(["--output_dir", "a", "--output_dir", "b"]).output_dir == "b"  # as argparse does


def test_the_default_is_replaced_and_what_is_said_is_kept():
    parser = argparse.ArgumentParser()
    parser.add_argument("--x", nargs="*", type=int, default=[7])
    parser.add_argument("--size", nargs="+", type=int)
    extend_lists(parser, but=["--size"])
    assert parser.parse_args(["--size", "1", "2", "--size", "3"]).size == [3]
    for words, values in (([], [7]), (["--x", "1"], [1]), (["--x", "1", "2", "--x", "3"], [1, 2, 3]), (["--x"], [])):
        assert parser.parse_args(words).x == values
    assert parser.parse_args([]).x == [7]  # the default is as it was


def test_a_command_keeps_what_is_said_twice():
    words = ["--set", "nms_iou=0.5", "--set", "align_weight=2", "region_grid=3", "--seen", "backbone=none"]
    args = command_parser("train")[1].parse_known_args([*words, "--seen", "proposer=a"])[0]
    assert args.set == ["nms_iou=0.5", "align_weight=2", "region_grid=3"]
    assert args.seen == ["backbone=none", "proposer=a"]


def test_a_list_on_the_command_line_replaces_that_of_a_recipe_and_fields_of_the_config_are_joined(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("set: {nms_iou: 0.5, align_weight: 2}\nseen: [backbone=none]\ndebug: [underflow_overflow]\n")
    args, fields = _options(file)
    assert args.set == ["nms_iou=0.5", "align_weight=2"] and args.seen == ["backbone=none"]
    assert fields == {"debug": ["underflow_overflow"]}
    more = ["--set", "nms_iou=0.7", "--set", "region_grid=3", "--seen", "proposer=a", "--seen", "detector=b"]
    args, fields = _options(file, *more, "--debug", "tpu_metrics_debug")
    assert args.set == ["nms_iou=0.5", "align_weight=2", "nms_iou=0.7", "region_grid=3"]  # of one field the last
    assert args.seen == ["proposer=a", "detector=b"] and fields == {"debug": ["tpu_metrics_debug"]}


def _options(file, *words):
    given, rest = command_parser("train")[1].parse_known_args(["--recipe", str(file), *words])
    options, stored = read_options(vars(given))
    return options, stored | read_fields(rest)
