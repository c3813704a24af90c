"""One word for one thing on all command lines, earlier words for it, and words that nobody knows."""

import argparse
import dataclasses
import logging
import os
import re

import pytest

from decodetr import __version__
from decodetr.cli import COMMANDS, command_parser, main
from decodetr.cli.loudness import loudness
from decodetr.cli.parser import ALSO, NAME_LISTS, OLD, CommandParser, complete, parsers_of
from decodetr.cli.train import read_fields, read_options
from decodetr.cli.train_help import _USUAL, config_texts, more_help
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.device import device_fields
from decodetr.utils.arguments import Joined

PARSERS = {parser.prog: parser for name in COMMANDS for parser in parsers_of(command_parser(name)[1])}
REPLACED = {word for others in ALSO.values() for word in others}


def _options(parser):
    return [a for a in parser._actions if a.option_strings and not isinstance(a, argparse._HelpAction)]


def _leaves():
    """Parsers of commands that do something, by what calls them."""
    only_below = {
        prog for prog, parser in PARSERS.items()
        for a in parser._actions if isinstance(a, argparse._SubParsersAction) and a.required
    }  # fmt: skip
    return {prog: parser for prog, parser in PARSERS.items() if prog not in only_below}


def _fields(*words):
    given, rest = command_parser("train")[1].parse_known_args(words)
    options, stored = read_options(vars(given))
    return options, stored | read_fields(rest)


@pytest.mark.parametrize("prog", PARSERS)
def test_a_command_calls_things_by_our_words_with_dashes(prog):
    shown = {option for action in _options(PARSERS[prog]) for option in action.option_strings}
    assert not shown & REPLACED
    assert not [option for option in shown if "_" in option]


@pytest.mark.parametrize("prog", PARSERS)
def test_underscores_and_earlier_words_mean_the_same(prog):
    parser = PARSERS[prog]
    tried = 0
    for action in _options(parser):
        option = action.option_strings[-1]
        others = [option.replace("-", "_").replace("__", "--", 1)] if "-" in option[2:] else []
        others += [word for word in ALSO.get(option, ()) if word in parser._option_string_actions]
        if action.nargs == 0 or action.choices or action.type not in (None, str):
            words = [] if action.nargs == 0 else [str(next(iter(action.choices or ["1"])))]
        else:
            words = ["x"]
        if isinstance(action, argparse.BooleanOptionalAction) or type(action).__name__ == "_Variable":
            continue
        for other in others:
            found = argparse.Namespace()
            parsed = parser._option_string_actions[parser._with_dashes([other])[0]]
            value = action.type(words[0]) if words and action.type else words[0] if words else []
            parsed(parser, found, [value] if action.nargs in ("+", "*") else value, other)
            assert getattr(found, action.dest, None) is not None
            assert parsed is action, (option, other)
            tried += 1
    assert tried or not any("-" in action.option_strings[-1][2:] for action in _options(parser))


def test_earlier_words_of_today_are_kept():
    for command, words in {
        "eval": ["--num-workers", "2"],
        "calibrate": ["--model", "m", "--num_workers=2"],
        "vocabulary": ["build", "--names", "a", "--text-model", "c", "--output", "o"],
        "predict": ["a.jpg", "--output", "o", "--text_model", "c", "--batch_size", "3"],
        "pool": ["build", "--data", "d", "--captioner", "c", "--clip", "c", "--output", "o", "--min_side", "3"],
    }.items():
        said, rest = command_parser(command)[1].parse_known_args(words)
        assert rest == [], words
        expected = {"eval": ("workers", 2), "calibrate": ("workers", 2), "vocabulary": ("clip", "c")}
        expected |= {"predict": ("batch_size", 3), "pool": ("min_side", 3.0)}
        dest, value = expected[command]
        assert getattr(said, dest) == value


@pytest.mark.parametrize(
    ("plain", "long", "value"),
    [
        ("--batch-size 3", "--per-device-train-batch-size 3", ("per_device_train_batch_size", 3)),
        ("--epochs 2.5", "--num_train_epochs 2.5", ("num_train_epochs", 2.5)),
        ("--workers 1", "--dataloader-num-workers 1", ("dataloader_num_workers", 1)),
        ("--num-workers 1", "--dataloader_num_workers 1", ("dataloader_num_workers", 1)),
        ("--overwrite", "--overwrite-output-dir true", ("overwrite_output_dir", True)),
    ],
)
def test_plain_words_of_train_are_fields_of_the_training_arguments(plain, long, value):
    assert _fields(*plain.split())[1] == _fields(*long.split())[1] == dict([value])
    assert _fields(*plain.split(), *long.split())[1] == dict([value])


def test_two_words_for_one_thing_with_two_values_are_refused(capsys, tmp_path):
    for words in ("--epochs 2 --num-train-epochs 3", "--workers 1 --dataloader_num_workers 2",
                  "--overwrite --overwrite-output-dir false"):  # fmt: skip
        with pytest.raises(ValueError, match="are two words for one thing; give one of them"):
            _fields(*words.split())
    with pytest.raises(SystemExit):
        command_parser("train")[1].parse_known_args(["--output", "a", "--output-dir", "b"])
    assert "--output a and --output-dir b are two words for one thing" in capsys.readouterr().err
    assert _fields("--output", "a", "--output-dir", "a")[0].output_dir == "a"
    assert _fields("--output", "a", "--output", "b")[0].output_dir == "b"  # of one word the last counts


def test_a_recipe_takes_the_words_of_the_command_line(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output: out\nclip: c\nepochs: 3\nbatch-size: 2\nworkers: 1\ndevice: cpu\n")
    options, fields = _fields("--recipe", str(recipe))
    assert (options.output_dir, options.text_model, options.device) == ("out", "c", "cpu")
    assert fields == {"num_train_epochs": 3, "per_device_train_batch_size": 2, "dataloader_num_workers": 1}
    assert _fields("--recipe", str(recipe), "--num-train-epochs", "5")[1]["num_train_epochs"] == 5
    recipe.write_text("epochs: 3\nnum_train_epochs: 4\n")
    with pytest.raises(ValueError, match="'num_train_epochs' is there twice, in two spellings"):
        _fields("--recipe", str(recipe))


def test_the_device_of_train_is_what_the_training_arguments_say_otherwise(monkeypatch):
    assert device_fields(None, {}) == device_fields("auto", {"use_cpu": True}) == {}
    assert device_fields("cpu", {}) == device_fields("cpu", {"use_cpu": True}) == {"use_cpu": True}
    with pytest.raises(ValueError, match="--device cpu and --use-cpu False contradict"):
        device_fields("cpu", {"use_cpu": False})
    with pytest.raises(ValueError, match="--device nonsense: expected one of auto, cpu"):
        device_fields("nonsense", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("decodetr.training.options.device.pick_device", str)
    assert device_fields("cuda:1", {}) == {"use_cpu": False} and os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=6 leaves 1"):
        device_fields("cuda:1", {})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    device_fields("cuda:3", {})
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="each takes its own; give --device cuda"):
        device_fields("cuda:1", {})


def test_lists_of_names_add_up():
    found = 0
    for parser in PARSERS.values():
        for option in NAME_LISTS:
            if (action := parser._option_string_actions.get(option)) is not None:
                assert isinstance(action, Joined), (parser.prog, option)
                found += 1
    assert found > 5
    parser = CommandParser()
    parser.add_argument("--names")
    complete(parser)
    assert parser.parse_args(["--names", 'a,"b, c"', "--names", "d"]).names == 'a,"b, c",d'
    assert parser.parse_args([]).names is None
    with pytest.raises(SystemExit):
        parser.parse_args(["--names", 'a,"b', "--names", 'c"'])


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("evla --model m", "did you mean 'eval'?"),
        ("eval --modle m", "did you mean '--model'?"),
        ("predict a.jpg --output o --treshold 0.5", "did you mean '--threshold'?"),
        ("pool biuld --data d", "did you mean 'build'?"),
        ("scenes measure d --splt test", "did you mean '--split'?"),
        ("scenes measure d --split tset", "did you mean 'test'?"),
        ("eval prepare ov-cco --coco d --output o", "did you mean 'ov-coco'?"),
        ("train --learning-rat 1 --data d --output o --model m", "did you mean '--learning-rate'?"),
        ("train --recipe decodetr-fats --data d --output o", "did you mean 'decodetr-fast'?"),
        ("train --data d --output o --model scenes-decodter --set nms_iuo=0.5", "did you mean 'nms_iou'?"),
        ("info scenes-decodter", "did you mean 'scenes-decodetr'?"),
        ("pool map scenes-pol --output {tmp}/m.png", "did you mean 'scenes-pool'?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(words, near, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "nms_iuo" in words:
        words = words.replace("scenes-decodter", "scenes-decodetr")
    try:
        status = main(words.format(tmp=tmp_path).split())
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status in (1, 2) and near in error, error


def test_no_option_is_abbreviated(capsys):
    for words in (["pool", "map", "p", "--outp", "m.png"], ["scenes", "write", "d", "--tra", "3"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "unrecognized arguments" in (error := capsys.readouterr().err) or "required" in error


def test_every_command_is_quiet_or_verbose_on_request():
    for prog, parser in _leaves().items():
        known = parser._option_string_actions
        assert known["-q"] is known["--quiet"] and known["-v"] is known["--verbose"], prog


def test_loudness_is_set_and_set_back(capsys):
    log, before = logging.getLogger("decodetr.somewhere"), dict(os.environ)
    with loudness(quiet=True):
        log.warning("not this")
        assert os.environ["TQDM_DISABLE"] == "1" and not log.isEnabledFor(logging.WARNING)
    with loudness(verbose=True):
        log.info("but this")
    assert dict(os.environ) == before and log.getEffectiveLevel() == logging.WARNING
    assert capsys.readouterr().err == "decodetr.somewhere: but this\n"


def test_no_bar_is_shown_in_quiet(capsys):
    from tqdm.auto import tqdm

    def drawn():
        assert list(tqdm(range(2), desc="a bar")) + list(tqdm(range(2), desc="a bar", disable=False)) == [0, 1, 0, 1]
        return capsys.readouterr().err.count("2/2")

    with loudness(quiet=True):
        assert drawn() == 0
    assert drawn() == 2


def test_a_folder_to_write_is_a_word_of_its_own_or_output(capsys, tmp_path):
    place = str(tmp_path / "scenes")
    few = ["--train", "1", "--val", "1", "--test", "1", "--image-size", "64", "--workers", "1"]
    assert main(["scenes", "write", "--output", place, *few]) == 0
    assert (tmp_path / "scenes" / "names.json").is_file()
    assert main(["scenes", "write", *few]) == 1
    assert "give one folder to write" in capsys.readouterr().err
    assert main(["scenes", "write", place, "--output", place + "2", *few]) == 1


def test_help_of_train_explains_every_field_of_ours():
    text = " ".join(more_help().split())
    fields = {entry.name: entry for entry in dataclasses.fields(DeCoDetrTrainingArguments)}
    for name in ("streams", "cache_views", "align_weight_shape", "ema_decay", "eval_pictures"):
        assert f"--{name.replace('_', '-')} {name.upper()}" in text
    for option, words in _USUAL.items():  # the defaults that are said are those that hold
        said = words.rpartition("(default: ")[2].rstrip(")") if "(default: " in words else None
        default = fields[option[2:].replace("-", "_")].default
        if said not in (None, "chosen"):
            assert said == str(getattr(default, "value", default)).lower(), option


def test_help_of_train_explains_every_field_of_the_config():
    own = set(DeCoDetrConfig.__annotations__) - {"model_type", "sub_configs"}
    texts = config_texts()
    assert texts.keys() == own and all(len(text) > 10 for text in texts.values())
    assert texts["semantic_dropout"].endswith("Default: 0.3.") and texts["score_bias"] == texts["score_scale"].replace(
        "Default: 1.0.", "Default: 0.0."
    )


def test_version_for_bug_reports(capsys):
    assert main(["--version", "--verbose"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"decodetr", "python", "platform", "torch", "transformers", "accelerate", "datasets", "supervision", "cpu",
            "accelerators"} <= lines.keys()  # fmt: skip
    import torch

    assert lines["torch"] == torch.__version__.partition("+")[0] or lines["torch"] == torch.__version__
    assert main(["--version", "--what"]) == 2


def test_an_old_word_says_what_it_is_called_now(caplog, capsys, tmp_path):
    words = ["vocabulary", "build", "--names", "a", "--text_model=./no", "--output", str(tmp_path / "v")]
    expected = "--text-model is now --clip. decodetr 0.2.0 will not know the old word any more"
    assert main(words) == 1 and [record.message for record in caplog.records] == [expected]
    caplog.clear()
    assert main([word.replace("text_model", "clip") for word in words]) == 1 and not caplog.records
    assert main([*words, "--quiet"]) == 1 and not caplog.records
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("text_model: ./no\n")
    read_options({"recipe": str(recipe)})
    assert [record.message for record in caplog.records] == [expected]


@pytest.mark.parametrize("old", OLD)
def test_an_old_word_goes_when_its_time_has_come(old):
    """Remove it from `OLD`, `ALSO` and docs/command_line.md, and say so in CHANGELOG.md."""
    assert any(old in others for others in ALSO.values())
    assert [int(part) for part in OLD[old].split(".")] > [int(part) for part in re.findall(r"\d+", __version__)[:3]]
