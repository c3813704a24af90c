"""Recipes: YAML files of `decodetr train`, and those that are shipped."""

import argparse
import importlib
import json
import math
import os
import re
import shlex

import pytest
import torch
import yaml
from helpers.shrunk_recipes import small_swins, write_shrunk
from helpers.tiny_models import TINY_DETECTORS, tiny_config
from recipe_cards import RECIPES as RECIPE_CARDS
from recipe_cards import commands
from standin import write_standin
from transformers import AutoConfig

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import COMMANDS, command_parser, main
from decodetr.cli.recipe import recipe_file
from decodetr.cli.train import read_fields, read_options
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes
from decodetr.training.options.options import TrainOptions
from decodetr.training.start.starting_point import make_config, starting_config
from decodetr.utils.shipped import HUB_CARDS
from decodetr.utils.yaml_documents import parse_yaml, read_yaml

RECIPES = sorted(file.parent.name for file in HUB_CARDS.glob("*/recipe.yaml"))
# Millions of parameters: detector from, to; and all up to. Their papers give DETR-R50 41, Deformable DETR-R50 40 and
# RT-DETRv2-R50 42; the semantic stream adds 1 (which reads the query alone) to 5.
SIZES = {
    "decodetr-r50": (41, 42, 47),
    "decodetr-r50-paper": (41, 42, 43),
    "decodetr-fast": (42, 43, 47),
    "decodetr-clip-r50": (40, 41, 45),
    "decodetr-swin-t": (44, 46, 51),
    "decodetr-fast-ov": (42, 44, 48),
}


def _write(folder, content):
    file = folder / "recipe.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file


def _parse(file, *words):
    """(TrainOptions, {field of DeCoDetrTrainingArguments: value}) of a recipe and words of the command line."""
    given, rest = command_parser("train")[1].parse_known_args(["--recipe", str(file), *words])
    options, stored = read_options(vars(given))
    return options, stored | read_fields(rest)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5e1", 5.0),
        ("3", 3),
        ("0.1", 0.1),
        ("1e", "1e"),
        ("e5", "e5"),
        ('"1e-4"', "1e-4"),
        ('{"a": 1e-05, "b": [1E2]}', {"a": 1e-5, "b": [100.0]}),
        ("a: &x {lr: 1}\nb: {<<: *x, lr: 2}", {"a": {"lr": 1}, "b": {"lr": 2}}),
    ],
)
def test_numbers_are_numbers(text, value):
    found = parse_yaml(text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}", "file.yaml: line 3: the key 'c' is there twice"),
        ("a: [", "file.yaml: line 2: expected YAML, got: did not find expected node content"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: the tag !!python/object"),
        ("- a", r"file.yaml: expected a mapping \(name: value\), got \['a'\]"),
    ],
)
def test_what_is_no_mapping_is_an_error(tmp_path, text, message):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yaml(tmp_path / "file.yaml", dict)


def test_words_win_over_the_recipe(tmp_path):
    recipe = {
        "data": "there",
        "output-dir": "out",
        "config": {"nms_iou": 0.7, "embedding_dim": 32},
        "set": {"nms_iou": 0.6, "background_level": None, "pool_use": "none"},
        "backbone": "weights",
        "blur": 2,
        "no-augmentation": True,
        "reset_semantics": False,
        "learning_rate": 1e-4,
        "lr-scheduler-kwargs": {"num_cycles": 2},
        "bf16": False,
        "max_steps": None,
    }
    file = _write(tmp_path, recipe)
    args, fields = _parse(file)
    assert (args.data, args.output_dir, args.blur, args.no_augmentation) == ("there", "out", 2.0, True)
    assert (args.config, args.backbone, args.reset_semantics, args.noise) == (recipe["config"], "weights", False, 0.0)
    assert args.set == ["nms_iou=0.6", "background_level=null", 'pool_use="none"']
    assert fields == {"learning_rate": 1e-4, "lr_scheduler_kwargs": {"num_cycles": 2}, "bf16": False}
    args, fields = _parse(file, "--blur", "0", "--data", "here", "--set", "nms_iou=0.5", "--learning_rate", "3")
    assert (args.blur, args.data, args.output_dir, args.set[-1]) == (0.0, "here", "out", "nms_iou=0.5")
    assert fields["learning_rate"] == 3 and len(fields) == 3
    args, _ = _parse(file, "--model", "mine")
    assert (args.model, args.config, args.backbone, args.set, args.blur) == ("mine", None, None, [], 2.0)


def test_limits_of_pictures_hold_from_a_recipe_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DECODETR_MAX_IMAGE_PIXELS", "9")
    monkeypatch.delenv("DECODETR_ALLOW_OUTSIDE", raising=False)
    file = _write(tmp_path, {"max-image-pixels": 5, "allow_outside": False, "data": "there"})
    assert _parse(file)[0].data == "there" and os.environ["DECODETR_MAX_IMAGE_PIXELS"] == "5"
    _parse(file, "--max-image-pixels", "7")  # words win
    assert os.environ["DECODETR_MAX_IMAGE_PIXELS"] == "7" and "DECODETR_ALLOW_OUTSIDE" not in os.environ
    with monkeypatch.context() as patch:
        patch.setenv("DECODETR_ALLOW_OUTSIDE", "0")
        _parse(_write(tmp_path, {"allow-outside": True}))
        assert os.environ["DECODETR_ALLOW_OUTSIDE"] == "1"
    with pytest.raises(ValueError, match="max_image_pixels: expected a number of at least 1, got 0"):
        _parse(_write(tmp_path, {"max_image_pixels": 0}))


def test_a_config_file_lies_beside_its_recipe(tmp_path):
    (tmp_path / "config.yaml").write_text("embedding_dim: 16")
    assert _parse(_write(tmp_path, {"config": "config.yaml"}))[0].config == str(tmp_path / "config.yaml")
    assert _parse(_write(tmp_path, {"config": "elsewhere.yaml"}))[0].config == "elsewhere.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step: 3", "unknown key 'max_step'; did you mean 'max_steps'?"),
        ("confg: {}", "unknown key 'confg'; did you mean 'config'?"),
        ("recipe: other", "unknown key 'recipe'"),
        ("image-size: 3\nimage_size: 4", "the key 'image_size' is there twice, in two spellings"),
        ("max_steps: 1.5", "max_steps: expected a whole number, got 1.5"),
        ("max_steps: true", "max_steps: expected a whole number, got True"),
        ("learning_rate: fast", "learning_rate: expected a number, got 'fast'"),
        ("bf16: 1", "bf16: expected true or false, got 1"),
        ("no-augmentation: 1", "no_augmentation: expected true or false, got 1"),
        ("data: 5", "data: expected a text, got 5"),
        ("pool: [a, b]", "pool: expected a text, got ['a', 'b']"),
        ("optim: adam", "optim: invalid choice: 'adam'"),
        ("box-format: xyz", "box_format: invalid choice: 'xyz'"),
        ("config: 3", "config: expected a mapping of DeCoDetrConfig fields or a file, got 3"),
        ("model: a\ndetector: b", "model and detector: a run has one starting point"),
    ],
)
def test_errors_name_file_and_key(tmp_path, text, message):
    file = _write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        _parse(file)
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nms_io": 0.5}, "DeCoDetrConfig has no field 'nms_io'; did you mean 'nms_iou'?"),
        ({"nms_iou": 3}, r"nms_iou must lie in (0, 1]"),
        ({"embedding_dim": "x"}, "embedding_dim"),
        ({"detector_config": {"model_type": "detr", "num_querys": 9}}, "did you mean 'num_queries'?"),
        ({"detector_config": {"num_queries": 9}}, "detector_config: model_type must be one of"),
        (
            {
                "detector_config": {
                    "model_type": "detr",
                    "backbone_config": {"model_type": "timm_backbone", "bakbone": 1},
                }
            },
            "detector_config: backbone_config: TimmBackboneConfig has no field 'bakbone'; did you mean 'backbone'?",
        ),
    ],
)
def test_configs_take_no_key_that_means_nothing(fields, message):
    with pytest.raises(ValueError) as caught:
        make_config(fields, "file: config")
    assert str(caught.value).startswith("file: config: ") and message in str(caught.value)


@pytest.mark.parametrize("family", sorted(TINY_DETECTORS))
def test_saved_configs_pass(family):
    saved = tiny_config(family, nms_iou=0.4).to_json_string(use_diff=False)
    assert make_config(parse_yaml(saved, "saved"), "saved").nms_iou == 0.4
    whole = AutoConfig.for_model(family, num_labels=1).to_dict()
    assert make_config({"detector_config": whole}, "whole").detector_config.model_type == family


def test_what_a_run_needs_may_come_from_either(tmp_path, capsys, monkeypatch):
    file = str(_write(tmp_path, {"max_steps": 1, "data": str(tmp_path / "none")}))
    assert main(["train", "--recipe", file, "--output_dir", "x"]) == 1
    assert "give a starting point (--model, --detector or --config), on the command" in capsys.readouterr().err
    assert main(["train"]) == 1
    assert "give --data and --output and a starting point" in capsys.readouterr().err
    assert main(["train", "recipe.yaml"]) == 1  # as scripts of the field take it
    assert "recipe.yaml: a file of options is given by --recipe recipe.yaml" in capsys.readouterr().err
    assert main(["train", "--recipe", "decodetr-r51"]) == 1
    assert (
        "--recipe decodetr-r51: no such file; did you mean 'decodetr-r50'?; give one, or one of decodetr-"
        in capsys.readouterr().err
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decodetr-r50").mkdir()  # an output folder of that name hides nothing
    assert recipe_file("decodetr-r50") == HUB_CARDS / "decodetr-r50" / "recipe.yaml"


# The shipped ones


def test_the_shipped_recipes_are_these_and_have_cards():
    assert sorted(SIZES) == RECIPES
    for name in RECIPES:
        card = (HUB_CARDS / name / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: decodetr") and "No weights" in card
        assert f"--recipe {name}" in card
        for line in (line for data in RECIPE_CARDS[name][1] for line in commands(name, data)):
            _check_command(line)


def _check_command(line):
    """Parse a command of a card as its program would."""
    words = shlex.split(re.sub(r"accelerate launch --num_processes \d+ -m decodetr\.", "decodetr ", line))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    importlib.import_module(COMMANDS[words[1]][0]).add_arguments(parser)
    args, rest = parser.parse_known_args(words[2:])
    if words[1] == "train":
        assert read_options(vars(args))[0].data == args.data
        rest = [
            word for word in rest if word not in ("--streams", "localization", "--gradient-accumulation-steps", "8")
        ]
    assert rest == []


def _config_of(args):
    """The full-size config of a recipe. Of a published detector only its own config is missing: here its library's
    defaults, which are those of RT-DETRv2-R50."""
    if args.config is not None:
        return make_config(args.config, args.recipe)
    assert args.detector == "PekingU/rtdetr_v2_r50vd"
    fields = {name: yaml.safe_load(value) for name, value in (word.split("=", 1) for word in args.set)}
    return make_config({"detector_config": {"model_type": "rt_detr_v2", "num_labels": 1}, **fields}, args.recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_build_their_model(name):
    config = _config_of(_parse(name)[0])
    with torch.device("meta"):
        model = DeCoDetrForObjectDetection(config)
    assert sum(p.numel() for p in model.parameters() if p.is_meta) > 40e6  # nothing of size was made
    least, most, whole = SIZES[name]
    assert least < sum(p.numel() for p in model.detector.parameters()) / 1e6 < most
    assert most < sum(p.numel() for p in model.parameters()) / 1e6 < whole
    assert len(model.prototype_pool) == 1203 + 4800 and config.embedding_dim == 512
    assert config.detector_config.num_queries == 300 and config.detector_config.decoder_layers == 6


def test_the_papers_recipe_has_its_values():
    args, fields = _parse("decodetr-r50-paper")
    config = _config_of(args)
    temperatures = [
        getattr(config, f"{name}_temperature") for name in ("assignment", "teacher", "teacher_name", "name")
    ]
    assert temperatures == [0.07] * 4 and (config.pool_momentum, config.pool_update) == (0.99, "literal")
    assert not config.class_agnostic and config.semantic_inputs == "query" and config.gradient_isolation
    assert (config.pool_use, config.background_threshold, config.annotation_weight) == ("lookup+background", -1, 0)
    assert (config.centred, config.residual_weight, config.background_level) == (False, None, -1)
    assert (args.pseudo_boxes, args.unkept_regions) == ("none", "teach")
    assert fields["per_device_train_batch_size"] * 8 == 64 and fields["gradient_accumulation_steps"] == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tmp_path_factory.mktemp("recipes") / "data"
    write_scenes(data, SceneSettings(train=8, val=2, test=1, image_size=64, seed=1))
    write_standin(data, data / "standin", dim=16)
    return data


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_train(name, data, tmp_path, monkeypatch):
    split = json.loads((data / "names.json").read_text())
    small_swins(monkeypatch)
    file = write_shrunk(name, tmp_path)
    words = ["--data", str(data), "--pool", str(data / "standin/pool"), "--regions", str(data / "standin/regions")]
    words += ["--vocabulary", str(data / "standin/vocabulary"), "--output_dir", str(tmp_path / "run")]
    assert main(["train", "--recipe", str(file), *words]) == 0
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert state["global_step"] == 2 and len(losses) == 2 and all(map(math.isfinite, losses))
    assert any("eval_AP50_base" in row for row in state["log_history"])
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "run")
    full = _config_of(_parse(name)[0])
    assert model.config.detector_config.model_type == full.detector_config.model_type
    assert model.config.class_agnostic == full.class_agnostic and model.config.pool_update == full.pool_update
    info = model.config.training_info
    if name == "decodetr-fast":
        assert len(info["pretrained_detector_names"]) == 80
    else:
        assert info["pretrained_backbone"].endswith("weights.safetensors")
    assert len(model.vocabulary.names) == len(split["base"]) + len(split["novel"])
    if name == "decodetr-r50-paper":
        assert set(model.config.detector_config.id2label.values()) == set(split["base"].values())
        assert "pseudo_boxes" not in info and not model.tables().background.any()


@pytest.mark.parametrize("name", ["decodetr-r50", "decodetr-r50-paper", "decodetr-clip-r50"])
def test_the_number_of_queries_is_a_word_beside_a_recipe(name):
    args, _ = _parse(name, "--set", "detector_config.num_queries=900")
    detector = starting_config(args, ["a", "b"]).detector_config
    assert detector.num_queries == 900 and detector.decoder_layers == 6


def test_a_detector_that_classifies_needs_names_that_the_data_declare():
    config = {"class_agnostic": False, "detector_config": {"model_type": "detr"}}
    args = TrainOptions(config=config, set=["nms_iou=0.5"], recipe="here")
    found = starting_config(args, ["b", "a"]).detector_config
    assert found.id2label == {0: "b", 1: "a"} and found.num_labels == 2
    said = {"model_type": "detr", "id2label": {0: "c"}}
    args.config = config | {"detector_config": said}
    assert starting_config(args, ["b", "a"]).detector_config.id2label == {0: "c"}
    args.config = config | {"class_agnostic": True, "detector_config": {"model_type": "detr", "num_labels": 1}}
    assert starting_config(args, ["b", "a"]).detector_config.num_labels == 1
    args.config = config
    with pytest.raises(ValueError, match="here: config: class_agnostic: false: the training data do not declare"):
        starting_config(args, None)


@pytest.mark.parametrize("value, more, expected", [("true", [], True), ("false", [], False),
                                                   ("false", ["--exhaustive"], True)])  # fmt: skip
def test_a_flag_with_a_complement_can_be_false(tmp_path, value, more, expected):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"model: scenes-decodetr\nexhaustive: {value}\n")
    assert _parse(file, *more)[0].exhaustive is expected
