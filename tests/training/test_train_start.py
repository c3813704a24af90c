"""Starting points of `decodetr train`: a saved model, its semantic stream anew, changed fields of the config."""

import types

import pytest
import torch
from helpers.tiny_models import tiny_config

from decodetr import DeCoDetrForObjectDetection, Vocabulary
from decodetr.cli import main
from decodetr.training.data.names import set_names
from decodetr.training.options.options import TrainOptions
from decodetr.training.start.starting_point import fields_of_new_stream


@pytest.fixture(scope="module")
def first(one_step, tmp_path_factory):
    """A model from a config file, one of whose fields was changed on the command line."""
    output = tmp_path_factory.mktemp("first")
    config = one_step[one_step.index("--data") + 1] + "/config.yaml"
    assert main([*one_step, "--config", config, "--set", "nms_iou=0.7", "--output_dir", str(output)]) == 0
    return output


def _load(folder):
    return DeCoDetrForObjectDetection.from_pretrained(folder)


def _equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_saved_model_goes_on_with_changed_fields(one_step, first, tmp_path):
    assert _load(first).config.nms_iou == 0.7
    start = ["--model", str(first), "--set", "nms_iou=null", "background_level=0.25", "--streams", "semantic"]
    assert main([*one_step, *start, "--semantic_learning_rate", "1e-9", "--output_dir", str(tmp_path)]) == 0
    old, new = _load(first), _load(tmp_path)
    assert (new.config.nms_iou, new.config.background_level) == (None, 0.25)
    assert _equal(old.detector, new.detector)
    old, new = (model.semantic_stream.residual[1].weight for model in (old, new))
    assert (old - new).abs().max() < 1e-6


def test_reset_semantics_keeps_the_detector_alone(one_step, first, tmp_path):
    """The new semantic stream has the default widths, unless --set gives others."""
    widths = ["--set", "semantic_hidden_dim=24", "region_channels=16"]
    start = ["--model", str(first), "--reset-semantics", *widths, "--streams", "semantic"]
    assert main([*one_step, *start, "--semantic_learning_rate", "1e-9", "--output_dir", str(tmp_path)]) == 0
    old, new = _load(first), _load(tmp_path)
    assert _equal(old.detector, new.detector) and new.config.nms_iou == 0.7
    assert new.semantic_stream.residual[1].weight.shape[0] == 24
    old, new = (model.semantic_stream.region_pooling.projections[0].weight for model in (old, new))
    assert (old - new).abs().mean() > 0.01  # far more than a step of 1e-9 moves
    fields = fields_of_new_stream(_load(first).config)
    assert (fields["region_channels"], fields["semantic_hidden_dim"], fields["semantic_dropout"]) == (96, None, 0.3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "nms_iou"], "--set nms_iou: expected FIELD=VALUE"),
        (["--set", "mns_iou=0.6"], "DeCoDetrConfig has no field 'mns_iou'"),
        (["--set", "nms_iou=1.6"], r"nms_iou must lie in (0, 1]"),
    ],
)
def test_a_wrong_field_is_an_error(one_step, first, tmp_path, capsys, more, message):
    assert main([*one_step, "--model", str(first), *more, "--output_dir", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_reset_semantics_needs_a_model(one_step, tmp_path, capsys):
    config = one_step[one_step.index("--data") + 1] + "/config.yaml"
    assert main([*one_step, "--config", config, "--reset-semantics", "--output_dir", str(tmp_path)]) == 1
    assert "--reset-semantics needs --model" in capsys.readouterr().err


def test_names_that_look_equal_to_those_of_the_data_are_spelled_as_these():
    written, typed = "cafe\u0301", "caf\u00e9"
    model = DeCoDetrForObjectDetection(tiny_config())
    model.set_vocabulary(Vocabulary.random([typed, "dog"], model.config.embedding_dim))
    embedding = model.vocabulary[typed]
    data = types.SimpleNamespace(coco=types.SimpleNamespace(names=[written]), novel=None, val=None)
    deployed = set_names(model, TrainOptions(data="x", output_dir="y"), data)
    assert model.vocabulary.names == [written] and deployed.names == [written, "dog"]
    assert torch.equal(model.vocabulary[written], embedding)
