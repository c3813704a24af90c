"""The small LLaVA of the embedded scenes: an ordinary `LlavaForConditionalGeneration` with its processor. Its vision
tower is the small CLIP's, frozen, as in LLaVA. Projector and language model learn captions of crops."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from decodetr.scenes.captions import PROMPTS, SCENE_TEXTS, SceneTexts
from decodetr.scenes.clip_teacher import CaptionedCrops, begin_with, run
from decodetr.scenes.teacher_data import CROP_SIDE

if TYPE_CHECKING:
    from transformers import CLIPModel

_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
_IMAGE = "<image>"
HIDDEN_SIZE, LAYERS = 128, 3  # of the language model
# The conversation format of LLaVA-1.5.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava_tokenizer(texts: SceneTexts) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for the captions of `SceneTexts`. Any other text is spelled out."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=312 + texts.merges,
        special_tokens=[*_SPECIAL.values(), _IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f"USER: \n{text} ASSISTANT: {text}" for text in texts.every()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, padding_side="left", extra_special_tokens={"image_token": _IMAGE}, **_SPECIAL
    )


def llava_processor(patch_size: int, texts: SceneTexts, class_token: bool = False) -> LlavaProcessor:
    """`LlavaProcessor` for crops of 48 x 48 pixels. class_token: as in [`train_llava`]."""
    side = {"height": CROP_SIDE, "width": CROP_SIDE}
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": CROP_SIDE}, crop_size=side),
        llava_tokenizer(texts),
        patch_size=patch_size,
        vision_feature_select_strategy="full" if class_token else "default",
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=_CHAT_TEMPLATE,
    )


def new_llava(
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    class_token: bool = False,
    hidden_size: int = HIDDEN_SIZE,
    layers: int = LAYERS,
) -> LlavaForConditionalGeneration:
    """A `LlavaForConditionalGeneration` with the vision tower of `clip` and a language model of random weights.
    class_token, hidden_size, layers: as in [`train_llava`]."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = clip.config.vision_config
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision.to_dict(),
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
            image_seq_length=(vision.image_size // vision.patch_size) ** 2 + class_token,
            vision_feature_layer=-1 if class_token else -2,
            vision_feature_select_strategy="full" if class_token else "default",
            tie_word_embeddings=True,
        )
    )
    tower = model.model.vision_tower
    tower.load_state_dict(clip.vision_model.state_dict())
    tower.requires_grad_(False)
    return model


def user_prompt(processor: LlavaProcessor, text: str) -> str:
    """The conversation up to where the captioner answers."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


class CaptionCollate:
    """Batches of `CaptionedCrops` for training: every prompt in turn, labels on the answers alone."""

    def __init__(self, processor: LlavaProcessor) -> None:
        self.processor = processor
        self.prompts = [user_prompt(processor, text) for text in PROMPTS]

    def __call__(self, items: list[dict[str, np.ndarray | str]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        answers = [f" {item['caption']}{tokenizer.eos_token}" for item in items]
        texts = [self.prompts[i % len(self.prompts)] + said for i, said in enumerate(answers)]
        images = [item["image"] for item in items]
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        # Padding is on the left: the answer is the end of its row.
        labels = torch.full_like(inputs["input_ids"], -100)
        for row, said in enumerate(answers):
            length = len(tokenizer(said, add_special_tokens=False).input_ids)
            labels[row, -length:] = inputs["input_ids"][row, -length:]
        return {**inputs, "labels": labels}


def train_llava(
    output: Path,
    clip: CLIPModel,
    crops: np.ndarray,
    names: np.ndarray,
    *,
    steps: int,
    texts: SceneTexts = SCENE_TEXTS,
    start: LlavaForConditionalGeneration | None = None,
    class_token: bool = False,
    hidden_size: int = HIDDEN_SIZE,
    layers: int = LAYERS,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Train the small LLaVA to caption crops and return it with its processor. Arguments as in `train_clip`.

    Args:
        class_token: the language model sees all tokens of CLIP's last layer, the class token too, instead of the
            patches of the layer before, as LLaVA-1.5 does. It helps little (docs/photo_world.md).
        hidden_size, layers: of the language model. hidden_size: a multiple of 8, for its 4 heads.
    """
    torch.manual_seed(seed)
    processor = llava_processor(clip.config.vision_config.patch_size, texts, class_token)
    model = new_llava(clip, processor.tokenizer, class_token, hidden_size, layers)
    if start is not None:
        begin_with(model.model.language_model, start.model.language_model)
    dataset = CaptionedCrops(crops, names, texts.things, texts.answer, seed)
    run(output, model, dataset, CaptionCollate(processor), steps, batch_size, learning_rate, seed)
    return model, processor
