"""Tiny teachers of random weights, of the real classes, saved as ordinary folders. No weights are downloaded."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WORDS = "a photo of red green blue dotted striped star circle square cat dog cup".split()
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PATCHES = {  # of LLaVA-1.5 and LLaVA-NeXT
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "chat_template": CHAT_TEMPLATE,
}
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def _image_processor(side):
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def write_tiny_clip(folder, side=16, dim=8, seed=0, length=12):
    """CLIPModel and CLIPProcessor: crops of side x side, texts of at most `length` tokens, embeddings of width dim.
    Returns the folder."""
    bpe = CLIPTokenizer()._tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)
    text = {
        **_TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**_TOWER, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).save_pretrained(folder)
    CLIPProcessor(_image_processor(side), tokenizer).save_pretrained(folder)
    return folder


def _word_tokenizer(*special):
    """<pad>, <s>, </s>, <unk> are 0 to 3, then come `special` and WORDS."""
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *special, *WORDS]
    tokens += ["USER", "ASSISTANT", ":", "Describe", "this", ".", "in", "few", "words", "the"]
    tokens = {token: i for i, token in enumerate(tokens)}
    words = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        padding_side="right",  # as some published processors have it; the captioner must not rely on it
    )


def _llama(tokenizer):
    return LlamaConfig(
        **_TOWER,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )


def write_tiny_llava_next(folder, side=24, seed=0):
    """LlavaNextForConditionalGeneration, which tiles a picture by its shape. Returns the folder."""
    tokenizer, tiles = _word_tokenizer("<image>"), [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    vision = CLIPVisionConfig(**{**_TOWER, "num_hidden_layers": 2}, image_size=side, patch_size=8)
    torch.manual_seed(seed)
    config = LlavaNextConfig(
        vision_config=vision, text_config=_llama(tokenizer), image_token_index=4, image_grid_pinpoints=tiles
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    LlavaNextProcessor(
        LlavaNextImageProcessor(**size, image_grid_pinpoints=tiles),
        tokenizer,
        **_PATCHES,
    ).save_pretrained(folder)
    return folder


def write_tiny_qwen(folder, seed=0):
    """Qwen2_5_VLForConditionalGeneration, whose number of image tokens follows the picture's size. Returns the
    folder."""
    tokenizer = _word_tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    text = _llama(tokenizer).to_dict()
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    patches = {"patch_size": 4, "temporal_patch_size": 2}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1], **patches}
    ids = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(merge_size=2, size={"shortest_edge": 16**2, "longest_edge": 64**2}, **patches),
        tokenizer,
        Qwen2VLVideoProcessor(merge_size=2, **patches),
        chat_template=CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    return folder


def write_tiny_siglip(folder, side=16, seed=0):
    """SiglipModel with processor: crops of side x side, texts of at most 12 tokens, embeddings of width 16. Returns
    the folder."""
    tokenizer = _word_tokenizer()
    tokenizer.model_max_length = 12
    text = {**_TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "pad_token_id": 0}
    vision = {**_TOWER, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_tiny_llava(folder, side=24, seed=0):
    """LlavaForConditionalGeneration and LlavaProcessor with a chat template: crops of side x side, captions of WORDS
    that depend on the picture. Returns the folder."""
    tokenizer = _word_tokenizer("<image>")
    text = _llama(tokenizer)
    vision = CLIPVisionConfig(**{**_TOWER, "num_hidden_layers": 2}, image_size=side, patch_size=8)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, image_seq_length=(side // 8) ** 2)
    )
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.mul_(40)  # else the picture is lost among the words
        model.lm_head.weight[:5] = 0  # speaks words
    model.save_pretrained(folder)
    LlavaProcessor(
        _image_processor(side),
        tokenizer,
        **_PATCHES,
    ).save_pretrained(folder)
    return folder


def write_byte_clip(folder, seed=0, dim=16):
    """A CLIP of random weights with a tokenizer that spells words out byte by byte; returns the folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=32)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokens), "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id, **size}
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=text, vision_config={"image_size": 16, "patch_size": 8, **size}, projection_dim=dim
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
