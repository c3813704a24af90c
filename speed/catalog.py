"""What is measured without a folder: our models and other zero-shot detectors, of random weights and published sizes.

Shapes decide times, not values. This file imports nothing, so that the help of commands is instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True)
class Entry:
    """A row of the tables.

    Attributes:
        title: for reports. fields: of its config. In ours of the detector's.
        size: of the pictures that it was published with: height and width in pixels, or the shortest and the longest
            edge of an image that keeps its shape.
        published: millions of parameters that its authors or its page of the Hub give. None: ours.
    """

    title: str
    fields: dict[str, Any] = field(default_factory=dict)
    size: dict[str, int] = field(default_factory=lambda: {"height": 640, "width": 640})
    published: float | None = None


# The first is what the others are compared with: the detector of the recipe decodetr-fast. DETR-R50 is the paper's,
# and the default of DeCoDetrConfig. The other two are the defaults of transformers: RT-DETRv2-R50, and D-FINE with the
# HGNetV2-B4 of D-FINE-L. None of them loads weights.
OURS = {
    "rt_detr_v2": Entry("RT-DETRv2-R50", {"model_type": "rt_detr_v2", "num_labels": 1}),
    "d_fine": Entry("D-FINE-L", {"model_type": "d_fine", "num_labels": 1}),
    "detr": Entry("DETR-R50", {"model_type": "detr", "auxiliary_loss": True, "num_labels": 1}),
}
# Ways to run them (ways.py), under the names that they have in `decodetr.optimize`.
HOWS = ("eager", "channels-last", "bfloat16", "compile", "openvino", "openvino-bfloat16")
# Of DeCoDetrConfig, beside the detector: its defaults, as in the paper.
STREAM = {"embedding_dim": 512, "num_coarse_prototypes": 1203, "num_fine_prototypes": 4800}

_SWIN_T = {
    "model_type": "swin",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
}
_DINO = {
    "backbone_config": {**_SWIN_T, "image_size": 224, "out_indices": [2, 3, 4]},
    "text_config": {"model_type": "bert"},  # its defaults are BERT-base
    "num_queries": 900,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "d_model": 256,
    "max_text_len": 256,
}
_DINO_SIZE = {"shortest_edge": 800, "longest_edge": 1333}
# By the model type of transformers. Text towers are its defaults: BERT-base, and the texts of CLIP ViT-B (512 wide, 12
# layers; of OWLv2 16 tokens long). OmDet-Turbo's backbone is by default timm's Swin-T.
PEERS = {
    "grounding-dino": Entry("Grounding DINO-T", _DINO, _DINO_SIZE, 172),
    "mm-grounding-dino": Entry("MM-Grounding-DINO-T", _DINO, _DINO_SIZE, 173),
    "owlv2": Entry(
        "OWLv2-B/16",
        {"text_config": {}, "vision_config": {"image_size": 960, "patch_size": 16}},
        {"height": 960, "width": 960},
        155,
    ),
    "omdet-turbo": Entry(
        "OmDet-Turbo-T",
        {"text_config": {"model_type": "clip_text_model"}, "image_size": 640, "num_queries": 900},
        {"height": 640, "width": 640},
        115,
    ),
}
