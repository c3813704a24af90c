"""Tiny detectors of every family, built from integers, and DeCo-DETRs around them. No weights are downloaded."""

import json

import torch

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.embedding_space import DEFAULTS, Scales, Tables
from decodetr.modeling_decodetr.semantic_stream import derive

_SIZES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_RESNET = {"model_type": "resnet", **_SIZES, "out_features": ["stage2", "stage3", "stage4"]}
_LAST = {"backbone_config": {**_RESNET, "out_features": ["stage4"]}}
_LAYERS = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 12,
    "num_labels": 1,
    "auxiliary_loss": True,
}
# Two maps, where the published ones have three: what costs time in these families is their number of tensors.
_RT_HEAD = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "feat_strides": [16, 32],
    "encode_proj_layers": [1],
    "num_feature_levels": 2,
    "decoder_in_channels": [32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 12,
    "num_labels": 1,
    "num_denoising": 4,
}
_RT = {
    "backbone_config": {"model_type": "rt_detr_resnet", **_SIZES, "out_features": ["stage3", "stage4"]},
    "encoder_in_channels": [16, 24],
    **_RT_HEAD,
}
_HGNET = {
    "model_type": "hgnet_v2",
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 16, 24],
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 8, 16, 16],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [8, 16, 16, 24],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False] * 4,
    "stage_kernel_size": [3] * 4,
    "stage_numb_of_layers": [1] * 4,
    "out_indices": [3, 4],
}
_GROUPED_HEAD = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 4,
    "num_queries": 12,
    "group_detr": 2,
    "num_labels": 1,
    "hidden_expansion": 0.5,
    "c2f_num_blocks": 1,
}
_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "out_indices": [1, 2], "num_windows": 16}

TINY_DETECTORS = {
    "detr": {**_LAST, "d_model": 32, **_LAYERS},
    "conditional_detr": {**_LAST, "d_model": 32, **_LAYERS},
    "deformable_detr": {"backbone_config": _RESNET, "num_feature_levels": 3, "d_model": 32, **_LAYERS},
    "dab-detr": {**_LAST, "hidden_size": 32, **_LAYERS},
    "rt_detr": _RT,
    "rt_detr_v2": {**_RT, "decoder_n_levels": 2},
    "d_fine": {**_RT, "decoder_n_points": 2},
    "deimv2": {"backbone_config": _HGNET, "encoder_in_channels": [32] * 2, "decoder_n_points": 2, **_RT_HEAD},
    "lw_detr": {
        "backbone_config": {
            "model_type": "lw_detr_vit",
            **_VIT,
            "window_block_indices": [0],
            "image_size": 64,
            "patch_size": 4,
            "pretrain_image_size": 64,
        },
        "projector_scale_factors": [1.0],
        **_GROUPED_HEAD,
    },
    "rf_detr": {
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            **_VIT,
            "num_windows": 2,
            "image_size": 64,
            "patch_size": 8,
        },
        **_GROUPED_HEAD,
    },
}
REQUIRED = ("detr", "deformable_detr", "rt_detr_v2", "d_fine", "lw_detr")
NAMES = ["cat", "salt, pepper", "crème brûlée"]


def tiny_config(family="rt_detr_v2", names=NAMES, detector=None, **fields):
    """A DeCoDetrConfig with d = 16, M = 5 + 7 and 12 queries; images are 64 x 64."""
    small = {"embedding_dim": 16, "semantic_hidden_dim": 16, "region_channels": 16, "semantic_dropout": 0}
    fields = {**small, "num_coarse_prototypes": 5, "num_fine_prototypes": 7, **fields}
    return DeCoDetrConfig(
        detector_config={"model_type": family, **TINY_DETECTORS[family], **(detector or {})},
        id2label=dict(enumerate(names)),
        **fields,
    )


def tiny_model(family="rt_detr_v2", seed=0, **fields):
    """A DeCo-DETR of random weights."""
    torch.manual_seed(seed)
    return DeCoDetrForObjectDetection(tiny_config(family, **fields))


def tiny_batch(seed=0, batch=2, regions=False, dim=16, names=3, size=64):
    """Pixels (B, 3, 64, 64) and labels; the last image of a batch of several has no object."""
    generator = torch.Generator().manual_seed(seed)
    labels = []
    for b in range(batch):
        n = 0 if batch > 1 and b == batch - 1 else 2 + b
        centre, side = (
            torch.rand(n, 2, generator=generator) * 0.4 + 0.3,
            torch.rand(n, 2, generator=generator) * 0.2 + 0.2,
        )
        label = {
            "class_labels": torch.randint(names, (n,), generator=generator),
            "boxes": torch.cat([centre, side], 1),
        }
        if regions:
            boxes = torch.cat([label["boxes"], torch.tensor([[0.5, 0.5, 0.6, 0.6]])])
            embeds = torch.randn(2, n + 1, dim, generator=generator)
            embeds = embeds / embeds.norm(dim=-1, keepdim=True)
            label.update(region_boxes=boxes, region_embeds=embeds[0], region_text_embeds=embeds[1])
        labels.append(label)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator), "labels": labels}


def tables_of(pool, vocabulary, background=None, temperature=0.07, **scales):
    """Tables of a pool and names at one temperature, with a given background (M,), as a model would have them."""
    found = derive(pool, vocabulary)
    closest = found.pop("closest")
    defaults = {name: temperature for name in DEFAULTS if name.endswith("temperature")}
    scales = Scales(**DEFAULTS | defaults | scales)
    background = closest < scales.background_threshold if background is None else background
    return Tables(pool, vocabulary, background=background, scales=scales, **found)


def write_tiny_config(folder):
    """A file with the fields of a tiny DeCoDetrConfig for 64 x 64 images."""
    fields = tiny_config().to_dict()
    kept = ("detector_config", "embedding_dim", "num_coarse_prototypes", "num_fine_prototypes")
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    preset = {"size": {"height": 64, "width": 64}}
    file.write_text(json.dumps({**{name: fields[name] for name in kept}, "preprocessing": preset}))
    return file
