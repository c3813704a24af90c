"""Backbones of timm with their channels last, Swin's above all: any family, any size, equal after save and load."""

import json

import pytest
import timm
import torch
import yaml
from helpers.shrunk_recipes import SWIN, SWIN2, small_swins
from helpers.tiny_models import TINY_DETECTORS, tiny_config
from safetensors.torch import save_file
from standin import write_standin
from torch.nn.functional import grid_sample

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.modeling_decodetr.detectors import feature_channels, run_detector
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes
from decodetr.training.start.timm_backbone import load_timm_weights, timm_backbone

FAMILIES = ("detr", "conditional_detr", "deformable_detr", "dab-detr", "rt_detr", "rt_detr_v2", "d_fine", "deimv2")
OTHERS = (SWIN2, "test_mambaout")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_swins(monkeypatch)


def _fields(family, name, **more):
    tiny = TINY_DETECTORS[family]["backbone_config"]
    stages = [1, 2, 3][-len(tiny.get("out_features") or tiny["out_indices"]) :]
    backbone = {"model_type": "timm_backbone", "backbone": name, "out_indices": stages}
    detector = {"model_type": family, **TINY_DETECTORS[family], "backbone_config": backbone}
    if family in ("rt_detr", "rt_detr_v2", "d_fine"):
        detector["encoder_in_channels"] = timm.create_model(
            name, features_only=True, out_indices=stages
        ).feature_info.channels()
    return {"detector": detector, "embedding_dim": 16, "num_coarse_prototypes": 5, "num_fine_prototypes": 7, **more}


def _model(family, name):
    torch.manual_seed(0)
    return DeCoDetrForObjectDetection(tiny_config(family, **_fields(family, name))).eval()


def _pixels(family, height, width):
    if family in ("rt_detr", "rt_detr_v2", "d_fine", "deimv2"):
        height, width = (-(-side // 32) * 32 for side in (height, width))
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def _of_timm(model, name, pixels):
    """The maps of timm's own model of any size with the same weights, (B, H, W, C)."""
    features, _ = timm_backbone(model)
    options = {} if name == "test_mambaout" else {"strict_img_size": False, "always_partition": True}
    own = timm.create_model(name, features_only=True, out_indices=features.feature_info.out_indices, **options)
    if options:
        own.patch_embed.dynamic_img_pad = True
    own.load_state_dict(features.state_dict())
    with torch.no_grad():
        return own.eval()(pixels)


@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, SWIN) for family in FAMILIES), *((family, name) for family in FAMILIES[::4] for name in OTHERS)],
)
def test_maps_are_those_of_timm_with_channels_first(family, name, tmp_path):
    model = _model(family, name)
    pixels = _pixels(family, 70, 110)  # no multiple of a window or of a patch, and not what it was built for
    features, _ = timm_backbone(model)
    with torch.no_grad():
        found = features(pixels)
    for one, right in zip(found, _of_timm(model, name, pixels), strict=True):
        torch.testing.assert_close(one, right.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
    if family != "deimv2":  # it projects them inside
        with torch.no_grad():
            _, maps = run_detector(model.detector, pixels)
        assert [level.shape[1] for level in maps] == feature_channels(model.detector)

    # The library fills in no buffer of timm's modules: relative positions would be what lay in memory.
    model.save_pretrained(tmp_path)
    again = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
    buffers = dict(again.named_buffers())
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    with torch.no_grad():
        one, other = model(pixels), again(pixels)
    torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.pred_boxes, other.pred_boxes, atol=1e-5, rtol=1e-5)


def test_what_the_semantic_stream_reads_lies_in_the_box():
    model = _model("deformable_detr", SWIN)
    pixels = _pixels("deformable_detr", 128, 96)
    with torch.no_grad():
        _, maps = run_detector(model.detector, pixels)
        pooling = model.semantic_stream.region_pooling
        boxes = torch.tensor([[[0.5, 0.25, 0.25, 0.125]], [[0.25, 0.5, 0.5, 0.25]]])
        samples = pooling.sample(maps, pixels, boxes)
    grid = model.config.region_grid
    steps = (torch.arange(grid) + 0.5) / grid - 0.5
    for level, sampled in zip(_of_timm(model, SWIN, pixels), samples):
        level = level.permute(0, 3, 1, 2)
        for i, (cx, cy, w, h) in enumerate(boxes[:, 0].tolist()):
            y, x = torch.meshgrid(cy + steps * h, cx + steps * w, indexing="ij")
            points = torch.stack([x, y], -1) * 2 - 1
            right = grid_sample(level[i : i + 1], points[None], align_corners=False, padding_mode="border")
            torch.testing.assert_close(sampled[i, 0], right[0].flatten(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["detr", pytest.param("rt_detr_v2", marks=pytest.mark.slow)])
def test_a_run_trains_saves_and_detects(family, tmp_path, capsys):
    data = tmp_path / "data"
    write_scenes(data, SceneSettings(train=8, val=2, test=1, image_size=96, seed=1))
    write_standin(data, data / "standin", dim=16)
    config = _fields(family, SWIN)
    config["detector_config"] = config.pop("detector")
    (data / "config.yaml").write_text(
        yaml.safe_dump({**config, "preprocessing": {"size": {"height": 96, "width": 96}}})
    )
    torch.manual_seed(3)
    weights = timm.create_model(SWIN).state_dict()
    save_file(weights, tmp_path / "swin.safetensors")
    words = ["--data", data, "--config", data / "config.yaml", "--backbone", tmp_path / "swin.safetensors"]
    words += ["--pool", data / "standin/pool", "--vocabulary", data / "standin/vocabulary"]
    words += ["--regions", data / "standin/regions", "--max-steps", 2, "--batch-size", 4, "--learning-rate", "1e-3"]
    words += ["--backbone-learning-rate", "1e-3", "--report-to", "none", "--output", tmp_path / "run"]
    assert main(["train", *map(str, words)]) == 0
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "run")
    features, _ = timm_backbone(model)
    moved = [key for key, value in features.state_dict().items() if not torch.equal(value, weights[_plain(key)])]
    assert any("relative_position_bias_table" in key for key in moved) and any("patch_embed" in key for key in moved)
    assert json.loads((tmp_path / "run/eval_results.json").read_text())["eval_AP"] >= 0
    words = ["eval", "--model", tmp_path / "run", "--data", data, "--output", tmp_path / "report"]
    assert main(list(map(str, words))) == 0
    capsys.readouterr()


def _plain(key):
    return key.replace("layers_", "layers.")


def test_weights_load_by_timms_names(tmp_path):
    torch.manual_seed(3)
    whole = timm.create_model(SWIN, strict_img_size=False, always_partition=True).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    model = _model("detr", SWIN)
    load_timm_weights(model, tmp_path / "model.safetensors")
    pixels = _pixels("detr", 64, 96)
    with torch.no_grad():
        right = whole.forward_intermediates(pixels, indices=[3], intermediates_only=True)[0]
        found = timm_backbone(model)[0](pixels)[0]
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


def test_a_resnet_of_clip_takes_images_of_any_size():
    """A pool on each side of its residual sums: timm rounds one down and the other up, and cannot add odd maps."""
    fields = _fields("deformable_detr", "resnet50_clip")
    # Its batch norms include the activations, which the detector would replace with them.
    fields["detector"]["backbone_config"]["freeze_batch_norm_2d"] = True
    model = DeCoDetrForObjectDetection(tiny_config("deformable_detr", **fields)).eval()
    features, _ = timm_backbone(model)
    with torch.no_grad():
        odd = features(_pixels("deformable_detr", 72, 104))
        even = features(_pixels("deformable_detr", 64, 128))
        own = timm.create_model("resnet50_clip", features_only=True, out_indices=features.feature_info.out_indices)
        own.load_state_dict(features.state_dict())
        right = own.eval()(_pixels("deformable_detr", 64, 128))
        reductions = features.feature_info.reduction()
        assert [one.shape[-2:] for one in odd] == [(-(-72 // r), -(-104 // r)) for r in reductions]
        with pytest.raises(RuntimeError, match="must match"):
            own(_pixels("deformable_detr", 72, 104))
    for one, other in zip(even, right, strict=True):
        assert torch.equal(one, other)
