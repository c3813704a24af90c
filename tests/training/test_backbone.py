"""timm backbones in every family that takes one: what they compute, pretrained weights, freezing."""

import json

import pytest
import timm
import torch
import yaml
from helpers.tiny_models import TINY_DETECTORS, tiny_config
from safetensors.torch import load_file, save_file
from standin import write_standin

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.modeling_decodetr.detectors import backbone_module, feature_channels
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes
from decodetr.training.start.timm_backbone import load_timm_weights, timm_backbone

FAMILIES = ("detr", "conditional_detr", "deformable_detr", "dab-detr", "rt_detr", "rt_detr_v2", "d_fine", "deimv2")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
CONFIG = {"architecture": "test_resnet", "pretrained_cfg": {"tag": "in9k", "num_classes": 9, "mean": MEAN, "std": STD}}


def _fields(family, backbone="test_resnet", **backbone_fields):
    """A tiny DeCoDetrConfig with a timm backbone, as fields."""
    tiny = TINY_DETECTORS[family]["backbone_config"]
    stages = [2, 3, 4][-len(tiny.get("out_features") or tiny["out_indices"]) :]
    known = {"model_type": "timm_backbone", "backbone": backbone, "out_indices": stages, **backbone_fields}
    detector = {"model_type": family, **TINY_DETECTORS[family], "backbone_config": known}
    if family in ("rt_detr", "rt_detr_v2", "d_fine"):
        channels = timm.create_model(backbone, features_only=True, out_indices=stages).feature_info.channels()
        detector["encoder_in_channels"] = channels
    return {"detector_config": detector, "embedding_dim": 16, "num_coarse_prototypes": 5, "num_fine_prototypes": 7}


def _model(family, backbone="test_resnet", **backbone_fields):
    fields = _fields(family, backbone, **backbone_fields)
    detector = fields.pop("detector_config")
    return DeCoDetrForObjectDetection(tiny_config(family, detector=detector, **fields))


def _trained(architecture, seed=0):
    """A timm model whose batch norms have seen something."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture, num_classes=9)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3), module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of pretrained weights as timm writes them, with its config.json."""
    folder = tmp_path_factory.mktemp("weights")
    save_file(_trained("test_resnet").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def _maps(model, pixels):
    features, _ = timm_backbone(model)
    with torch.no_grad():
        found = features.eval()(pixels)
    return found


def _timm_maps(architecture, weights, pixels, indices):
    whole = timm.create_model(architecture, num_classes=9)
    whole.load_state_dict(weights)
    with torch.no_grad():
        return whole.eval().forward_intermediates(pixels, indices=indices, intermediates_only=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_timm_does(family, weights):
    model = _model(family)
    load_timm_weights(model, weights)
    pixels = torch.randn(1, 3, 64, 64)
    indices = list(timm_backbone(model)[0].feature_info.out_indices)
    expected = _timm_maps("test_resnet", load_file(weights / "model.safetensors"), pixels, indices)
    for found, right in zip(_maps(model, pixels), expected, strict=True):
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    if family != "deimv2":  # it projects them inside
        assert feature_channels(model.detector) == [right.shape[1] for right in expected]


def test_fused_activations_are_not_lost_without_a_word(tmp_path):
    """CLIP's ResNets keep their activations in the batch norms, which the detectors of transformers replace."""
    state = _trained("test_byobnet").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"replaces the batch norms of test_byobnet .* freeze_batch_norm_2d: true"):
        load_timm_weights(_model("detr", "test_byobnet"), tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 64, 64)
    for family in ("detr", "rt_detr_v2"):
        model = _model(family, "test_byobnet", freeze_batch_norm_2d=True)
        load_timm_weights(model, tmp_path / "model.safetensors")
        expected = _timm_maps("test_byobnet", state, pixels, [4])[0]
        torch.testing.assert_close(_maps(model, pixels)[-1], expected, atol=1e-4, rtol=1e-4)
    assert model.config.training_info == {
        "pretrained_backbone": str(tmp_path / "model.safetensors"),
        "pretrained_backbone_data": None,  # nothing says what a lone file was trained on
    }
    assert (expected >= 0).all()  # what the last activation leaves


def test_what_goes_with_the_weights(weights):
    model = _model("rt_detr_v2")
    load_timm_weights(model, str(weights))
    assert model.config.preprocessing == {"image_mean": MEAN, "image_std": STD}
    data = {"architecture": "test_resnet", "tag": "in9k", "num_classes": 9}
    assert model.config.training_info == {"pretrained_backbone": str(weights), "pretrained_backbone_data": data}
    model.config.preprocessing = {"image_mean": [0.5, 0.5, 0.5]}
    with pytest.raises(ValueError, match=r"trained with image_mean \[0.4, 0.5, 0.6\], .*preprocessing has \[0.5"):
        load_timm_weights(model, str(weights))


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k@main"])
def test_weights_of_the_hub_come_from_its_cache(weights, tmp_path, monkeypatch, name):
    snapshot = tmp_path / "models--timm--test_resnet.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"of timm/test_resnet.r160_in1k on the Hub cannot be had"):
        load_timm_weights(_model("detr"), name)
    for file in weights.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    model = _model("detr")
    load_timm_weights(model, name)
    assert torch.equal(
        timm_backbone(model)[0].conv1[0].weight, load_file(weights / "model.safetensors")["conv1.0.weight"]
    )
    said = model.config.training_info["pretrained_backbone_data"]
    assert said["hf_hub_id"] == "timm/test_resnet.r160_in1k"
    assert said["tag"] == ("in9k" if name.startswith("hf-hub") else "r160_in1k")


def _changed(weights, folder, **changes):
    state = load_file(weights / "model.safetensors")
    for key, value in changes.items():
        state.pop(key) if value is None else state.update({key: value})
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.0.weight": None, "bn1.bias": None}, r"missing conv1.0.weight, bn1.bias$"),
        ({"conv9.weight": torch.zeros(2)}, r"unexpected conv9.weight$"),
        ({"bn1.bias": torch.zeros(5)}, r"of another shape bn1.bias \(5,\) instead of \(32,\)$"),
    ],
)
def test_keys_that_do_not_fit_are_named(weights, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_timm_weights(_model("detr"), _changed(weights, tmp_path, **changes))


def test_other_errors_of_users(weights, tmp_path):
    model = _model("detr")
    wrong = {
        "resnet10t": "is a resnet10t, but the config's backbone is a test_resnet",
        "test_resnot": "timm has no 'test_resnot'; did you mean 'test_resnet'",
        "test_resnet.nope": "timm has no such weights on the Hub; it has test_resnet.r160_in1k",
        "no/such/folder": "no such file or folder",
    }
    for name, message in wrong.items():
        with pytest.raises((ValueError, OSError), match=message):
            load_timm_weights(model, name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    for name in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ValueError, match="only safetensors files are. Convert it"):
            load_timm_weights(model, name)
    (tmp_path / "torn.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="torn.safetensors is no safetensors file"):
        load_timm_weights(model, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(ValueError, match="is a resnet18"):
        load_timm_weights(model, tmp_path)
    with pytest.raises(ValueError, match="the config's detector has no timm backbone"):
        load_timm_weights(DeCoDetrForObjectDetection(tiny_config()), weights)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """`decodetr train` of two steps on a few scenes from a config with a timm backbone whose batch norms can learn."""
    data = tmp_path_factory.mktemp("backbone") / "data"
    write_scenes(data, SceneSettings(train=8, val=1, test=1, image_size=64, seed=1))
    write_standin(data, data / "standin", dim=16)
    fields = _fields("rt_detr_v2")
    fields["detector_config"]["freeze_backbone_batch_norms"] = False
    fields["preprocessing"] = {"size": {"height": 64, "width": 64}}
    (data / "config.yaml").write_text(yaml.safe_dump(fields))
    options = {
        "--data": data,
        "--vocabulary": data / "standin/vocabulary-base",
        "--pool": data / "standin/pool",
        "--regions": data / "standin/regions",
        "--val-annotations": "none",
        "--max_steps": 2,
        "--per_device_train_batch_size": 4,
        "--learning_rate": 0.01,
        "--report_to": "none",
        "--save_strategy": "no",
    }
    return ["train", *(str(word) for pair in options.items() for word in pair)]


def _state(folder):
    model = DeCoDetrForObjectDetection.from_pretrained(folder)
    return model, {key: value.clone() for key, value in backbone_module(model.detector).state_dict().items()}


def _differ(one, other):
    return sorted(key for key in one if not torch.equal(one[key], other[key]))


def test_frozen_backbones_stay_to_the_bit(words, weights, tmp_path, capsys):
    config = ["--config", words[words.index("--data") + 1] + "/config.yaml", "--backbone", str(weights)]
    assert main([*words, *config, "--freeze-backbone", "--output_dir", str(tmp_path / "frozen")]) == 0
    model, frozen = _state(tmp_path / "frozen")
    file = load_file(weights / "model.safetensors")
    assert not _differ({key.removeprefix("_backbone."): value for key, value in frozen.items()}, file)
    assert any(key.endswith("running_var") for key in frozen)  # of batch norms that would have learned
    assert model.config.training_info["pretrained_backbone"] == str(weights)
    assert model.config.preprocessing["image_mean"] == MEAN
    stored = json.loads((tmp_path / "frozen" / "preprocessor_config.json").read_text())
    assert stored["image_mean"] == MEAN and stored["size"] == {"height": 64, "width": 64}

    # from a saved model, frozen and not
    start = ["--model", str(tmp_path / "frozen")]
    assert main([*words, *start, "--freeze_backbone", "true", "--output_dir", str(tmp_path / "still")]) == 0
    assert not _differ(frozen, _state(tmp_path / "still")[1])
    again = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "still")
    assert _differ(model.detector.state_dict(), again.detector.state_dict())  # the rest did learn
    free = ["--freeze_backbone", "false", "--learning_rate", "1e-3", "--backbone_learning_rate", "1e-3"]
    assert main([*words, *start, *free, "--output_dir", str(tmp_path / "free")]) == 0
    changed = _differ(frozen, _state(tmp_path / "free")[1])
    assert {key.rpartition(".")[2] for key in changed} == {
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert main([*words, *start, "--backbone", str(weights), "--output_dir", str(tmp_path / "no")]) == 1
    assert "--backbone needs --config" in capsys.readouterr().err
