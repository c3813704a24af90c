"""`decodetr train --plan`: what a step costs is counted, and the rest follows by hand."""

import json
import re

import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model, write_tiny_config

from decodetr.__main__ import main
from decodetr.processing import CocoAnnotations
from decodetr.processing.regions import count_regions
from decodetr.training.planning.plan import FIXED, GPUS, LAUNCH, SIZES, UTILISATION, _seconds, parse_machine
from decodetr.training.planning.step_cost import _counted, forward_cost, step_cost


def test_flops_and_kept_bytes_by_hand():
    torch.manual_seed(0)
    layer, rows = torch.nn.Linear(8, 4), torch.randn(5, 8)
    cost = _counted(layer, lambda: layer(rows).sum())
    assert (cost.convolutions, cost.others) == (0, 2 * (2 * 5 * 8 * 4))  # forward, and the gradient of the weights
    assert cost.kept == rows.numel() * 4
    convolution, pixels = torch.nn.Conv2d(3, 6, 1, bias=False), torch.randn(1, 3, 4, 4, requires_grad=True)
    cost = _counted(convolution, lambda: convolution(pixels).sum())
    assert (cost.convolutions, cost.others) == (3 * (2 * 3 * 6 * 16), 0)
    assert cost.kept == pixels.numel() * 4


def test_each_way_to_train_costs_what_it_computes():
    model = tiny_model()
    batch = tiny_batch(batch=1, regions=True)
    labels = [{**label} for label in batch["labels"]]
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    joint, localization, semantic = (
        step_cost(model, batch["pixel_values"], labels, streams) for streams in ("joint", "localization", "semantic")
    )
    forward = forward_cost(model, batch["pixel_values"])
    assert forward.kept == 0 < semantic.kept < localization.kept <= joint.kept
    assert forward.convolutions < semantic.convolutions < localization.convolutions
    assert localization.convolutions <= joint.convolutions
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("word", "expected"), [("8xh100", (8, "h100")), ("A100", (1, "a100")), ("2xL4", (2, "l4"))])
def test_machines(word, expected):
    assert parse_machine(word) == expected


@pytest.mark.parametrize("word", ["8x", "0xh100", "8xb9000", "h100x8"])
def test_other_machines_are_refused(word):
    with pytest.raises(ValueError, match="--plan-gpus .*known: h200, h100"):
        parse_machine(word)


def _rows(text):
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "`--" in line]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_a_plan_for_coco_needs_no_data(tmp_path, capsys):
    config = write_tiny_config(tmp_path)
    words = ["--config", str(config), "--plan", "coco", "--plan-gpus", "2xa100", "--per-device-train-batch-size", "4"]
    assert main(["train", *words, "--num-train-epochs", "3", "--save-total-limit", "1"]) == 0
    text = capsys.readouterr().out
    rows = _rows(text)
    assert list(rows) == [
        "--streams joint",
        "--streams localization",
        "--streams semantic",
        "--streams semantic --cache-features true",
    ]
    assert {row[0] for row in rows.values()} == {"2 x 4"}
    steps = -(-118_287 // 8) * 3
    assert all(row[1] == f"{steps:,}" for row in rows.values())
    # A tiny model waits for its launches, whatever the machine: hours are operations.
    assert rows["--streams joint"][4] == "launches"
    operations = float(rows["--streams joint"][3]) * 3600 / steps / LAUNCH
    assert 500 < operations < 20_000
    # Regions of width 16, features, and a checkpoint and a model of few megabytes.
    disk = rows["--streams semantic --cache-features true"][-1]
    number, unit = disk.split()
    queries, regions = 860_001 + 30 * 118_287, 30 * 118_287 * (4 * 16 + 128)
    a_query = re.search(r"\(37 queries an image, ([\d.]+) kB each as they are", text)[1]
    features = queries * float(a_query) * 1000  # less than 8 GB: as they are
    assert features < 8 * 2**30
    assert unit == "GB" and float(number) == pytest.approx((features + regions) / 1e9, abs=0.2)
    assert "COMPUTED, not measured: coco (118,287 images, 860,001 boxes, 80 names" in text
    assert not list(tmp_path.glob("run*"))


@pytest.mark.slow
def test_cached_queries_take_what_was_asked(tmp_path, capsys):
    words = ["train", "--config", str(write_tiny_config(tmp_path)), "--plan", "coco", "--save-strategy", "no"]
    found = []
    for more in ([], ["--cache-query-bytes", "500"]):
        assert main([*words, "--streams", "semantic", "--cache-features", "true", *more]) == 0
        number, unit = _rows(capsys.readouterr().out)["--streams semantic --cache-features true"][-1].split()
        assert unit == "GB"
        found.append(float(number))
    regions = 30 * 118_287 * (4 * 16 + 128) / 1e9
    assert found[1] < found[0]
    assert found[1] == pytest.approx(regions + (860_001 + 30 * 118_287) * 500 / 1e9, abs=0.1)


def test_arithmetic_bounds_a_large_model():
    cost = step_cost(tiny_model(), *(tiny_batch(batch=1)[key] for key in ("pixel_values", "labels")), "joint")
    expected = (cost.convolutions / 156 + cost.others / 19.5) / UTILISATION / 1e12
    assert _seconds(cost, GPUS["a100"], half=False) == pytest.approx(expected)
    assert _seconds(cost, GPUS["a100"], half=True) == pytest.approx(
        (cost.convolutions + cost.others) / 312 / UTILISATION / 1e12
    )


@pytest.mark.slow
def test_data_of_ones_own_are_counted(tmp_path, capsys, scenes):
    words = ["--config", str(write_tiny_config(tmp_path)), "--plan", "data", "--data", str(scenes)]
    coco = CocoAnnotations.load(scenes / "annotations/train.json")
    boxes = len(coco.annotations_by_image.column("id", crowds=False))
    for more, regions in ([], 30 * 12), (["--regions", str(scenes / "standin/regions")], None):
        assert main(["train", *words, *more]) == 0
        found = re.search(r"\((\d+) images, (\d+) boxes, (\d+) names, (\d+) regions\)", capsys.readouterr().out)
        expected = count_regions(scenes / "standin/regions") if regions is None else regions
        assert [int(number) for number in found.groups()] == [12, boxes, len(coco.names), expected]


@pytest.mark.slow
def test_pictures_have_the_size_of_the_starting_point(tmp_path, capsys, tiny_detector_folder):
    words = ["train", "--model", str(tiny_detector_folder), "--plan", "lvis"]
    assert main(words) == 0
    assert "images of 64 x 64" in capsys.readouterr().out
    assert main([*words, "--image-size", "96"]) == 0
    assert "images of 96 x 96" in capsys.readouterr().out


def test_a_plan_of_data_needs_data(tmp_path, capsys):
    assert main(["train", "--config", str(write_tiny_config(tmp_path)), "--plan", "data"]) == 1
    assert "--plan data: give --data" in capsys.readouterr().err


def test_sizes_are_those_of_the_issue():
    assert SIZES["coco"].regions == 3_548_610 and FIXED == 2**30


def test_a_detector_of_classes_is_planned_with_the_names_of_the_data(tmp_path, capsys):
    config = write_tiny_config(tmp_path)
    fields = json.loads(config.read_text()) | {"class_agnostic": False}
    for name in ("id2label", "label2id", "num_labels"):  # what it classifies follows from the data
        fields["detector_config"].pop(name, None)
    config.write_text(json.dumps(fields))
    words = ["train", "--config", str(config), "--plan", "coco"]
    assert main([*words, "--save-strategy", "no"]) == 0
    assert "80 names" in capsys.readouterr().out
