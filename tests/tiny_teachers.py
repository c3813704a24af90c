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
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = "a photo of red green blue dotted striped star circle square cat dog cup".split()
CHAT_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def _image_processor(side):
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def write_tiny_clip(folder, side=16, dim=8, seed=0):
    """CLIPModel and CLIPProcessor: crops of side x side, embeddings of width dim. Returns the folder."""
    bpe = CLIPTokenizer()._tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)
    text = {
        **_TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**_TOWER, "image_size": side, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).save_pretrained(folder)
    CLIPProcessor(_image_processor(side), tokenizer).save_pretrained(folder)
    return folder


def write_tiny_llava(folder, side=24, seed=0):
    """LlavaForConditionalGeneration and LlavaProcessor with a chat template: crops of side x side, captions of WORDS
    that depend on the picture. Returns the folder."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    tokens = [*special, *WORDS, "USER", "ASSISTANT", ":", "Describe", "this", ".", "in", "few", "words", "the"]
    tokens = {token: i for i, token in enumerate(tokens)}
    words = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="right",  # as some published processors have it; the captioner must not rely on it
    )
    text = LlamaConfig(
        **_TOWER,
        vocab_size=len(tokens),
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    vision = CLIPVisionConfig(**{**_TOWER, "num_hidden_layers": 2}, image_size=side, patch_size=8)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, image_seq_length=(side // 8) ** 2)
    )
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.mul_(40)  # else the picture is lost among the words
        model.lm_head.weight[: len(special)] = 0  # speaks words
    model.save_pretrained(folder)
    LlavaProcessor(
        _image_processor(side),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder
