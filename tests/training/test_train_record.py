"""What a trained model says of its training is what the training was."""

import json
from pathlib import Path

import pytest

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.cli import main
from decodetr.training.options.provenance import check_seen, choose_setting, seen_before
from decodetr.utils.yaml_documents import read_yaml


def _config(output):
    return DeCoDetrConfig.from_pretrained(output)


def _without(one_step, *options):
    one_step = list(one_step)
    for option in options:
        i = one_step.index(option)
        del one_step[i : i + 2]
    return one_step


def _start(one_step):
    return one_step[one_step.index("--data") + 1] + "/config.yaml"


def test_a_run_without_annotations_has_learned_no_boxes(one_step, tmp_path):
    source = one_step[one_step.index("--data") + 1]
    document = json.loads(Path(source, "annotations/train.json").read_text())
    document["info"] = {"image_folder": "train"}
    annotations = ["--train-annotations", str(tmp_path / "annotations" / "none.json")]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "none.json").write_text(json.dumps({**document, "annotations": []}))
    (tmp_path / "train").symlink_to(f"{source}/train")
    run = tmp_path / "run"
    assert main([*one_step, *annotations, "--config", _start(one_step), "--output_dir", str(run)]) == 0
    info = _config(run).training_info
    assert info["annotated_names"] == [] and len(info["training_names"]) > 100
    assert "| annotated names | none |" in (run / "README.md").read_text()
    novel, setting = info["training_names"][:3], choose_setting("V-OVD", info["training_names"][:3])
    seen = seen_before(info, None, {})
    assert seen["detector"] == [] and check_seen(seen, novel, setting, allowed=False) == {}


def test_names_without_a_box_are_none_that_were_seen():
    assert seen_before({"annotated_names": [], "training_names": ["a"]}, None, {}) == {"detector": []}
    pool = {"proposer": "boxes", "proposer_training_info": {"annotated_names": [], "training_names": ["a"]}}
    assert seen_before({"training_names": ["a"]}, pool, {}) == {"detector": ["a"], "proposer": []}


@pytest.mark.slow
def test_a_random_pool_is_said_and_recorded(one_step, tmp_path, caplog):
    start = _without(one_step, "--pool")
    assert (
        main([*start, "--config", _start(one_step), "--streams", "localization", "--output_dir", str(tmp_path / "a")])
        == 0
    )
    assert "random prototypes" not in caplog.text  # nothing learns from them
    assert _config(tmp_path / "a").training_info["pool"] == "random"
    assert main([*start, "--model", str(tmp_path / "a"), "--output_dir", str(tmp_path / "b")]) == 0
    assert "starts with random prototypes" in caplog.text and "give --pool" in caplog.text
    assert _config(tmp_path / "b").training_info["pool"] == "random"
    assert "| pool | random |" in (tmp_path / "b" / "README.md").read_text()
    caplog.clear()
    assert main([*one_step, "--model", str(tmp_path / "b"), "--output_dir", str(tmp_path / "c")]) == 0
    assert "random prototypes" not in caplog.text and "pool" not in _config(tmp_path / "c").training_info


@pytest.mark.slow
def test_a_detector_without_a_pool_is_said(one_step, tmp_path, caplog):
    model = DeCoDetrForObjectDetection(_config_of(one_step))
    model.detector.save_pretrained(tmp_path / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "detector")
    start = [*_without(one_step, "--pool"), "--detector", str(tmp_path / "detector"), "--set", "embedding_dim=16"]
    assert main([*start, "--output_dir", str(tmp_path / "run")]) == 0
    assert "starts with random prototypes" in caplog.text
    assert _config(tmp_path / "run").training_info["pool"] == "random"


def _config_of(one_step):
    return DeCoDetrConfig(**read_yaml(_start(one_step), dict))


def test_the_config_has_the_size_of_the_images_that_were_trained_on(one_step, tmp_path, capsys):
    start = [*one_step, "--config", _start(one_step)]
    assert main([*start, "--image-size", "96", "--output_dir", str(tmp_path / "a")]) == 0
    assert _config(tmp_path / "a").preprocessing == {"size": {"height": 96, "width": 96}}
    assert dict(DeCoDetrImageProcessor.from_pretrained(tmp_path / "a").size) == {"height": 96, "width": 96}
    assert (
        main([*one_step, "--model", str(tmp_path / "a"), "--image-size", "64", "--output_dir", str(tmp_path / "b")])
        == 0
    )
    assert _config(tmp_path / "b").preprocessing["size"] == {"height": 64, "width": 64}
    capsys.readouterr()
    assert main([*start, "--image-size", "0", "--output_dir", str(tmp_path / "c")]) == 1
    assert "--image-size must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--val-share", "0"), ("--val-share", "1")])
def test_a_share_of_nothing_is_refused_not_ignored(one_step, tmp_path, capsys, option, value):
    start = _without(one_step, "--val-annotations")
    data = start.index("--data") + 1
    source = start[data]
    (tmp_path / "annotations").mkdir()
    document = Path(source, "annotations/train.json").read_text()
    (tmp_path / "annotations" / "train.json").write_text(document)
    (tmp_path / "train").symlink_to(f"{source}/train")
    start[data] = str(tmp_path)
    assert main([*start, "--config", _start(one_step), option, value, "--output_dir", str(tmp_path / "run")]) == 1
    assert "--val-share must lie between 0 and 1" in capsys.readouterr().err
