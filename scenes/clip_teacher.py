"""The small CLIP of the embedded scenes: an ordinary `CLIPModel` with its processor, trained by `transformers.Trainer`
with CLIP's own contrastive loss."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch.utils.data import Dataset
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from decodetr.scenes.captions import SCENE_TEXTS, SceneTexts
from decodetr.scenes.teacher_data import CROP_SIDE

_TEXT_LENGTH = 24


def clip_tokenizer(texts: SceneTexts) -> CLIPTokenizer:
    """CLIP's own tokenizer class with a vocabulary for the captions of `SceneTexts`. Any other text is spelled out."""
    bpe = CLIPTokenizer()._tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=512 + texts.merges, end_of_word_suffix="</w>", initial_alphabet=_bytes(), show_progress=False
    )
    bpe.train_from_iterator(texts.every(), trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    alphabet = sorted(_bytes())
    # As in CLIP: every byte, every byte at the end of a word, the merges, the two special tokens.
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=_TEXT_LENGTH)


def _bytes():
    return ByteLevel.alphabet()


def clip_processor(texts: SceneTexts) -> CLIPProcessor:
    """`CLIPProcessor` for crops of 48 x 48 pixels."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": CROP_SIDE}, crop_size={"height": CROP_SIDE, "width": CROP_SIDE}
    )
    return CLIPProcessor(image_processor, clip_tokenizer(texts))


def new_clip(tokenizer: CLIPTokenizer, embedding_dim: int = 64) -> CLIPModel:
    """A `CLIPModel` of about 1.5 M parameters with random weights."""
    tower = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
    vision = {**tower, "num_hidden_layers": 5, "image_size": CROP_SIDE, "patch_size": 8}
    text = {
        **tower,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": _TEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=embedding_dim))


class CaptionedCrops(Dataset):
    """Items of crops (n, S, S, 3) uint8 with a fresh caption each time: `image`, `caption`.

    Args:
        things, write_caption: names[i] is a place in `things`, or -1. The caption is write_caption(thing, rng), of
            None for -1.
    """

    def __init__(
        self, crops: np.ndarray, names: np.ndarray, things: Sequence, write_caption: Callable[..., str], seed: int = 0
    ) -> None:
        self.crops, self.names, self.things, self.write_caption = crops, names, things, write_caption
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, i: int) -> dict[str, np.ndarray | str]:
        thing = None if self.names[i] < 0 else self.things[self.names[i]]
        return {"image": self.crops[i], "caption": self.write_caption(thing, self.rng)}


def train_clip(
    output: Path,
    crops: np.ndarray,
    names: np.ndarray,
    *,
    steps: int,
    texts: SceneTexts = SCENE_TEXTS,
    embedding_dim: int = 64,
    start: CLIPModel | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> tuple[CLIPModel, CLIPProcessor]:
    """Train the small CLIP on (crop, caption) pairs and return it with its processor.

    Args:
        output: folder of the trainer's checkpoints. A run that was stopped goes on from the last one.
        crops (n, 48, 48, 3) uint8, names (n,): of [`teacher_crops`].
        texts: `SceneTexts`, or those of another world.
        start (CLIPModel, *optional*): one of other words or width. What of it has the same shape is begun with.
    """
    torch.manual_seed(seed)
    processor = clip_processor(texts)
    model = new_clip(processor.tokenizer, embedding_dim)
    begin_with(model, start)

    def collate(items):
        inputs = processor(
            text=[item["caption"] for item in items],
            images=[item["image"] for item in items],
            padding=True,
            truncation=True,
            return_tensors="pt",
        )
        return {**inputs, "return_loss": True}

    run(
        output,
        model,
        CaptionedCrops(crops, names, texts.things, texts.clip_caption, seed),
        collate,
        steps,
        batch_size,
        learning_rate,
        seed,
    )
    return model, processor


def begin_with(model: torch.nn.Module, start: torch.nn.Module | None) -> None:
    """Give `model` the weights of another one of its kind that have the same name and shape, if there is one."""
    if start is not None:
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        given = {name: value for name, value in start.state_dict().items() if value.shape == shapes.get(name)}
        model.load_state_dict(given, strict=False)


def run(
    output: Path,
    model: PreTrainedModel,
    dataset: Dataset,
    collate: Callable[[list[dict]], dict],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> None:
    """One `transformers.Trainer` run, resumed from its last checkpoint if there is one."""
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.05,
        warmup_steps=min(100, steps // 10),
        lr_scheduler_type="cosine",
        logging_steps=50,
        save_steps=500,
        save_total_limit=1,
        seed=seed,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=dataset)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.is_dir() else None)
    model.eval()
