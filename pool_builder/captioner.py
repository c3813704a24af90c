"""LLaVA's captions of crops (PAPER.md 1.2): greedy, in left-padded batches, through the model's own chat template."""

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from decodetr.pool_builder.crops import processor_size


class Captioner:
    """A LLaVA-like model and its processor, in the precision of its weights.

    Attributes: `size`, side in pixels of the crops that it takes.

    Args:
        name_or_path (`str`): folder or Hub name of a `LlavaForConditionalGeneration` with a chat template.
        prompt (`str`): what it is asked about every crop.
        device: where it runs.
        max_new_tokens (`int`): longest caption in tokens.

    Raises:
        ValueError: no image-text-to-text model, no chat template, or an image processor that makes no squares.
    """

    def __init__(self, name_or_path, *, prompt, max_new_tokens, device="cpu", revision=None):
        self.processor = AutoProcessor.from_pretrained(name_or_path, revision=revision)
        # A decoder goes on from the last position, which must be a token of the prompt.
        self.processor.tokenizer.padding_side = "left"
        model = AutoModelForImageTextToText.from_pretrained(name_or_path, revision=revision, dtype="auto")
        self.model = model.to(device).eval()
        self.max_new_tokens = max_new_tokens
        self.size = processor_size(self.processor.image_processor)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        self.text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    @property
    def info(self) -> dict:
        """`captioner` (name or path as it was loaded) and `captioner_revision` (the Hub's commit, or None)."""
        config = self.model.config
        return {"captioner": config.name_or_path, "captioner_revision": getattr(config, "_commit_hash", None)}

    def caption(self, crops):
        """Captions of n PIL crops of `size` x `size`: see [`Captioner.describe`]."""
        return self.describe(crops)[0]

    @torch.inference_mode()
    def describe(self, crops):
        """Captions of n PIL crops of `size` x `size`, white space tidied; "" where the model says nothing.

        Returns:
            (`list[str]` of length n, `list[bool]`: whether each came to its end before the longest length).
        """
        tokenizer = self.processor.tokenizer
        begun = tokenizer.bos_token is not None and self.text.startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=[self.text] * len(crops),
            images=crops,
            padding=True,
            add_special_tokens=not begun,  # a template that writes the first token itself must not get a second one
            return_tensors="pt",
        )
        if not inputs["attention_mask"][:, -1].all():
            raise ValueError(
                f"{self.model.config.name_or_path}: expected a tokenizer that pads on the left, got padding after the "
                "prompt; give a LLaVA whose processor honours padding_side"
            )
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        tokens = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        captions = [" ".join(text.split()) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        ends = torch.tensor(self._end_tokens(), device=new.device)
        whole = (new[:, :, None] == ends).any(2).any(1) if new.shape[1] == self.max_new_tokens else None
        return captions, [True] * len(captions) if whole is None else whole.tolist()

    def _end_tokens(self):
        end = self.model.generation_config.eos_token_id
        return end if isinstance(end, list) else [] if end is None else [end]
