"""Tiny random detectors of transformers, closed-set and zero-shot, saved with real processors, for test_peers.py."""

from functools import cache
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    BertTokenizer,
    CLIPTokenizer,
    ConditionalDetrImageProcessor,
    DeformableDetrImageProcessor,
    DetrImageProcessor,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    OmDetTurboProcessor,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTImageProcessor,
    OwlViTProcessor,
    RTDetrImageProcessor,
    YolosImageProcessor,
)

from helpers.tiny_models import TINY_DETECTORS

CLASSES = ("person", "crème brûlée", "salt, pepper", "cat")
GAPS = ("N/A", "person", "crème brûlée", "N/A", "salt, pepper", "cat")  # as DETR's classes of COCO
NAMES = ["salt, pepper", "St. Bernard", "crème brûlée", "alarm_clock", "cat"]
FOLDERS = TemporaryDirectory()  # until the end of the process
RANDOM = np.random.default_rng(0)
IMAGES = [
    Image.fromarray(RANDOM.integers(0, 255, (5, 5, 3), np.uint8)).resize(size)
    for size in [(40, 60), (60, 40), (40, 60)]
]
SIZES = [(image.height, image.width) for image in IMAGES]
_FIXED, _KEEP = {"height": 64, "width": 64}, {"shortest_edge": 48, "longest_edge": 80}
CLOSED = {
    "detr": DetrImageProcessor(size=_KEEP),
    "conditional_detr": ConditionalDetrImageProcessor(size=_KEEP),
    "deformable_detr": DeformableDetrImageProcessor(size=_KEEP),
    "rt_detr_v2": RTDetrImageProcessor(size=_FIXED),
    "d_fine": RTDetrImageProcessor(size=_FIXED),
    "yolos": YolosImageProcessor(size=_KEEP),
}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_YOLOS = {**TOWER, "image_size": [48, 80], "patch_size": 16, "num_detection_tokens": 12, "num_labels": 1}
_SWIN = {"model_type": "swin", "image_size": 32, "embed_dim": 8, "window_size": 4, "out_indices": [2, 3, 4]}
_SWIN |= {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
_CLIP_TEXT = {**TOWER, "vocab_size": 514, "max_position_embeddings": 77}
_CLIP_TEXT |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 0}
_DINO = {
    "backbone_config": _SWIN,
    "text_config": {**TOWER, "model_type": "bert", "vocab_size": 2100, "max_position_embeddings": 64},
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 9,
    "max_text_len": 24,
}
_OWL = {
    "text_config": _CLIP_TEXT,
    "vision_config": {**TOWER, "image_size": 64, "patch_size": 16},
    "projection_dim": 16,
}
_OMDET = {
    "backbone_config": _SWIN,
    "apply_layernorm_after_vision_backbone": False,  # for backbones of timm, which give channels last
    "text_config": {**_CLIP_TEXT, "model_type": "clip_text_model"},
    "text_projection_in_dim": 16,
    "text_projection_out_dim": 16,
    "class_embed_dim": 16,
    "task_encoder_hidden_dim": 16,
    "encoder_in_channels": [16, 32, 64],
    "vision_features_channels": [32, 32, 32],
    "encoder_hidden_dim": 32,
    "decoder_hidden_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_num_heads": 2,
    "encoder_dim_feedforward": 16,
    "decoder_dim_feedforward": 16,
    "decoder_num_layers": 2,
    "num_queries": 20,
}
ZERO_SHOT = {
    "grounding-dino": _DINO,
    "mm-grounding-dino": _DINO,
    "owlvit": _OWL,
    "owlv2": _OWL,
    "omdet-turbo": _OMDET,
}


def bert_tokenizer():
    """Special tokens and full stop have the numbers of BERT, which Grounding DINO's code has; in small letters."""
    words = "cat salt pepper st bernard creme bru ##lee , alarm clock".split()
    known = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 1012: ".", 1029: "?"}
    known |= {2000 + i: word for i, word in enumerate(words)}
    vocabulary = {known.get(i, f"[unused{i}]"): i for i in range(2100)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=False, strip_accents=True)


def clip_tokenizer():
    """Every letter is a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token="!")


def processor_of(family):
    if family in CLOSED:
        return CLOSED[family]
    if family == "omdet-turbo":
        return OmDetTurboProcessor(DetrImageProcessor(size=_FIXED), clip_tokenizer())
    if family == "owlvit":
        return OwlViTProcessor(OwlViTImageProcessor(size=_FIXED), clip_tokenizer())
    if family == "owlv2":
        return Owlv2Processor(Owlv2ImageProcessor(size=_FIXED), clip_tokenizer())
    return GroundingDinoProcessor(GroundingDinoImageProcessor(size=_KEEP), bert_tokenizer())


@cache
def folder(family, classes=GAPS, **fields):
    """A saved detector of random weights; its scores and boxes differ from one another enough to be compared."""
    torch.manual_seed(0)
    if family in CLOSED:
        fields = {**(_YOLOS if family == "yolos" else TINY_DETECTORS[family]), **fields}
        del fields["num_labels"]
        config = AutoConfig.for_model(family, **fields, id2label=dict(enumerate(classes)))
        model = AutoModelForObjectDetection.from_config(config)
    else:
        config = AutoConfig.for_model(family, **{**ZERO_SHOT[family], **fields})
        model = AutoModelForZeroShotObjectDetection.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() in (2, 3):
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    path = mkdtemp(dir=FOLDERS.name)
    model.save_pretrained(path)
    processor_of(family).save_pretrained(path)
    return path
