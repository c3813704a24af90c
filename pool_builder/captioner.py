"""Captions of crops (paper 1.2): greedy, in left-padded batches, through the model's own chat template.

Any model of `AutoModelForImageTextToText` with a chat template will do. LLaVA-1.5, LLaVA-NeXT and Qwen2.5-VL are
tested.
"""

from __future__ import annotations

import importlib.util
import threading
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.pool_builder.batches import ShrinkingBatches
from decodetr.pool_builder.crops import processor_size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from transformers import BatchFeature


class Captioner:
    """An image-text-to-text model and its processor.

    Attributes: `size`, side in pixels of the crops that it takes, or None if it takes them as they are.

    Args:
        name_or_path (`str` or `Path`): folder or Hub name.
        prompt (`str`): what it is asked about every crop.
        max_new_tokens (`int`): longest caption in tokens.
        device: where it runs.
        dtype (`str`): "auto" (that of its weights), "float32", "bfloat16" or "float16".
        bits (`int`): 4 or 8 loads it quantized by bitsandbytes. 0 as it is.
        device_map (`str`, *optional*): spread it over devices by accelerate ("auto"), instead of `device`.

    Raises:
        ValueError: no chat template, or an image processor that makes rectangles.
        ImportError: bits without bitsandbytes.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        prompt: str,
        max_new_tokens: int,
        device: str | torch.device = "cpu",
        dtype: str = "auto",
        bits: int = 0,
        device_map: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.processor = load_safely(AutoProcessor, name_or_path, revision=revision)
        # A decoder goes on from the last position, which must be a token of the prompt.
        self.processor.tokenizer.padding_side = "left"
        placed = {"device_map": device_map or {"": device}} if device_map or bits else {}
        model = load_safely(
            AutoModelForImageTextToText,
            name_or_path,
            revision=revision,
            dtype=dtype,
            quantization_config=_quantization(bits),
            **placed,
        )
        self.model = (model if placed else model.to(device)).eval()
        self.max_new_tokens = max_new_tokens
        self.size = processor_size(self.processor.image_processor)
        self._batches = ShrinkingBatches(self.prepare, self._describe)
        self._tokenizing = threading.Lock()  # a fast tokenizer cannot be used by two threads at once
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        self.text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def caption(self, crops: list[Image.Image]) -> list[str]:
        """Captions of n PIL crops: see [`Captioner.describe`]."""
        return self.describe(crops)[0]

    def describe(self, crops: list[Image.Image], prepared: BatchFeature | None = None) -> tuple[list[str], list[bool]]:
        """Captions of n PIL crops, of `size` x `size` if it has one, white space tidied, or "" where the model says
        nothing. A batch that does not fit into memory is halved.

        Args:
            prepared: what [`Captioner.prepare`] made of the crops, if that has been done already.

        Returns:
            (`list[str]` of length n, `list[bool]`: whether each came to its end before the longest length).
        """
        pairs = self._batches(crops, prepared)
        return [caption for caption, _ in pairs], [whole for _, whole in pairs]

    def prepare(self, crops: list[Image.Image]) -> BatchFeature:
        """The model's inputs for a batch of crops, on the CPU."""
        tokenizer = self.processor.tokenizer
        begun = tokenizer.bos_token is not None and self.text.startswith(tokenizer.bos_token)
        with self._tokenizing:
            inputs = self.processor(
                text=[self.text] * len(crops),
                images=crops,
                padding=True,
                add_special_tokens=not begun,  # a template that writes the first token must not get a second one
                return_tensors="pt",
            )
        if not inputs["attention_mask"][:, -1].all():
            raise ValueError(
                f"{self.model.config.name_or_path}: expected a tokenizer that pads on the left, got padding after the "
                "prompt; give a LLaVA whose processor honours padding_side"
            )
        return inputs

    @torch.inference_mode()
    def _describe(self, inputs):
        """[(caption, whether it is whole)] of one batch."""
        tokenizer = self.processor.tokenizer
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        tokens = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        with self._tokenizing:
            captions = [" ".join(text.split()) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        if new.shape[1] < self.max_new_tokens:
            return [(caption, True) for caption in captions]
        end = self.model.generation_config.eos_token_id
        ends = torch.tensor(end if isinstance(end, list) else [-1 if end is None else end], device=new.device)
        return list(zip(captions, torch.isin(new, ends).any(1).tolist()))


def _quantization(bits):
    if not bits:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(f"{bits}-bit weights need bitsandbytes: pip install 'decodetr[quantized]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
