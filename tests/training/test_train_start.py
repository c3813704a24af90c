"""Starting points of `decodetr train`: a saved model, its semantic stream anew, changed fields of the config."""

import pytest
import torch
import yaml
from standin import write_standin
from tiny_models import tiny_config

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """`decodetr train` of one step on a few scenes, without starting point and output."""
    folder = tmp_path_factory.mktemp("start")
    data = folder / "data"
    write_scenes(data, SceneSettings(train=8, val=1, test=1, image_size=64, seed=1))
    write_standin(data, data / "standin", dim=16)
    fields = tiny_config().to_dict()
    kept = ("detector_config", "embedding_dim", "region_channels", "region_grid")
    config = {**{name: fields[name] for name in kept}, "preprocessing": {"size": {"height": 64, "width": 64}}}
    (data / "config.yaml").write_text(yaml.safe_dump(config))
    options = {
        "--data": data,
        "--pool": data / "standin/pool",
        "--vocabulary": data / "standin/vocabulary-base",
        "--regions": data / "standin/regions",
        "--val-annotations": "none",
        "--max_steps": 1,
        "--per_device_train_batch_size": 4,
        "--report_to": "none",
    }
    return ["train", *(str(word) for pair in options.items() for word in pair)]


@pytest.fixture(scope="module")
def first(words, tmp_path_factory):
    """A model from a config file, one of whose fields was changed on the command line."""
    output = tmp_path_factory.mktemp("first")
    config = words[words.index("--data") + 1] + "/config.yaml"
    assert main([*words, "--config", config, "--set", "nms_iou=0.7", "--output_dir", str(output)]) == 0
    return output


def _load(folder):
    return DeCoDetrForObjectDetection.from_pretrained(folder)


def _equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_saved_model_goes_on_with_changed_fields(words, first, tmp_path):
    assert _load(first).config.nms_iou == 0.7
    start = ["--model", str(first), "--set", "nms_iou=null", "background_level=0.25", "--streams", "semantic"]
    assert main([*words, *start, "--semantic_learning_rate", "1e-9", "--output_dir", str(tmp_path)]) == 0
    old, new = _load(first), _load(tmp_path)
    assert (new.config.nms_iou, new.config.background_level) == (None, 0.25)
    assert _equal(old.detector, new.detector)
    old, new = (model.semantic_stream.residual[1].weight for model in (old, new))
    assert (old - new).abs().max() < 1e-6


def test_reset_semantics_keeps_the_detector_alone(words, first, tmp_path):
    """Also where the new semantic stream has other shapes."""
    start = ["--model", str(first), "--reset-semantics", "--set", "semantic_hidden_dim=24", "--streams", "semantic"]
    assert main([*words, *start, "--semantic_learning_rate", "1e-9", "--output_dir", str(tmp_path)]) == 0
    old, new = _load(first), _load(tmp_path)
    assert _equal(old.detector, new.detector) and new.config.nms_iou == 0.7
    assert new.semantic_stream.residual[1].weight.shape[0] == 24
    old, new = (model.semantic_stream.region_pooling.projections[0].weight for model in (old, new))
    assert (old - new).abs().mean() > 0.01  # far more than a step of 1e-9 moves


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "nms_iou"], "--set nms_iou: expected FIELD=VALUE"),
        (["--set", "mns_iou=0.6"], "DeCoDetrConfig has no field 'mns_iou'"),
        (["--set", "nms_iou=1.6"], r"nms_iou must lie in (0, 1]"),
    ],
)
def test_a_wrong_field_is_an_error(words, first, tmp_path, capsys, more, message):
    assert main([*words, "--model", str(first), *more, "--output_dir", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_reset_semantics_needs_a_model(words, tmp_path, capsys):
    config = words[words.index("--data") + 1] + "/config.yaml"
    assert main([*words, "--config", config, "--reset-semantics", "--output_dir", str(tmp_path)]) == 1
    assert "--reset-semantics needs --model" in capsys.readouterr().err
