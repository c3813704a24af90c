"""Shipped recipes with tiny sizes and everything local; their keys stay."""

import copy

import timm
import yaml
from safetensors.torch import save_file
from timm.models import _registry, swin_transformer, swin_transformer_v2
from transformers import AutoConfig, AutoModelForObjectDetection

from decodetr import DeCoDetrImageProcessor
from decodetr.cli.recipe import recipe_file
from decodetr.utils.yaml_documents import read_yaml
from helpers.tiny_models import TINY_DETECTORS

SWIN, SWIN2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
_SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 2), "num_heads": (1, 1, 2, 2), "window_size": 4, "img_size": 128}
_DETECTOR = {
    **{"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12},
}
# Of the same kind: batch norms apart from their activations, or one with them.
_BACKBONES = {"resnet50": "test_resnet", "resnet50d": "test_resnet", "resnet50_clip": "test_byobnet", SWIN: SWIN}


def small_swins(monkeypatch):
    """timm's Swins by their names, with few channels, for squares of 128 pixels."""
    for name, make in (
        (SWIN, swin_transformer._create_swin_transformer),
        (SWIN2, swin_transformer_v2._create_swin_transformer_v2),
    ):

        def small_one(pretrained=False, make=make, name=name, **kwargs):
            return make(name, pretrained=pretrained, **_SWIN | kwargs)

        monkeypatch.setitem(_registry._model_entrypoints, name, small_one)


def write_shrunk(name, folder, batch=4):
    """Write recipe.yaml, and what it starts from, into a folder. Returns the file."""
    recipe = copy.deepcopy(read_yaml(recipe_file(name), dict))
    recipe |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    recipe |= {"dataloader_num_workers": 0, "report_to": "none", "max_steps": 2, "logging_steps": 1}
    recipe |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    if "config" in recipe:
        recipe["config"]["embedding_dim"] = 16
        detector = recipe["config"]["detector_config"]
        backbone = detector["backbone_config"]
        backbone["backbone"] = _BACKBONES[backbone["backbone"]]
        if detector["model_type"] == "rt_detr_v2":
            recipe["config"]["preprocessing"]["size"] = {"height": 64, "width": 64}
            backbone["out_indices"] = [3, 4]
            detector |= TINY_DETECTORS["rt_detr_v2"] | {"backbone_config": backbone}
            made = timm.create_model(backbone["backbone"], features_only=True, out_indices=[3, 4])
            detector["encoder_in_channels"] = made.feature_info.channels()
        else:
            recipe["config"]["preprocessing"]["size"] = {"shortest_edge": 64, "longest_edge": 64}
            detector |= _DETECTOR
        recipe["backbone"] = str(folder / "weights.safetensors")
        save_file(timm.create_model(backbone["backbone"]).state_dict(), recipe["backbone"])
    else:
        recipe["detector"] = str(write_detector(folder / "detector"))
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def write_detector(folder):
    """A tiny RT-DETRv2 of 80 names, as a published one is. Returns the folder."""
    config = AutoConfig.for_model("rt_detr_v2", **TINY_DETECTORS["rt_detr_v2"] | {"num_labels": 80})
    AutoModelForObjectDetection.from_config(config).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
