"""CLIP as the teacher: v of a crop and u of a caption (paper 1.3). The paper does not name its CLIP. Any model with
image and text features of one width serves. CLIP and SigLIP are tested."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor

from decodetr.modeling_decodetr.image_encoder import check_image_model, prepare_crops, processor_size
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.modeling_decodetr.text_encoder import encode_texts, encoder_info, load_text_model, text_length
from decodetr.pool_builder.batches import ShrinkingBatches

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature


class ClipEmbedder:
    """A CLIP-like model in float32.

    Attributes: `size`, side in pixels of the crops that it takes. `info`, see text_encoder.encoder_info.

    Args:
        name_or_path (`str`): folder or Hub name.
        device: where it runs.

    Raises:
        ValueError: it has no text or no image features, or its image processor makes no squares.
    """

    def __init__(
        self, name_or_path: str | Path, device: str | torch.device = "cpu", revision: str | None = None
    ) -> None:
        self.model, self.tokenizer = load_text_model(name_or_path, revision=revision, device=device)
        check_image_model(self.model, name_or_path)
        self.image_processor = load_safely(AutoImageProcessor, name_or_path, revision=revision)
        self.size = processor_size(self.image_processor)
        self.info = encoder_info(self.model)
        self.dim = self.embed_texts([""]).shape[1]
        self._batches = ShrinkingBatches(self.prepare, self._embed_images)

    def embed_images(self, crops: list[Image.Image], prepared: BatchFeature | None = None) -> np.ndarray:
        """Unit embeddings (n, d), float32 numpy, of n PIL crops of `size` x `size`. A batch that does not fit into
        memory is halved. `prepared` is what [`ClipEmbedder.prepare`] made of the crops, if that has been done."""
        return np.stack(self._batches(crops, prepared))

    def prepare(self, crops: list[Image.Image]) -> BatchFeature:
        """The image tower's inputs for a batch of crops, on the CPU."""
        return prepare_crops(crops, self.image_processor)

    @torch.inference_mode()
    def _embed_images(self, inputs):
        features = self.model.get_image_features(**inputs.to(self.model.device)).pooler_output
        return list(F.normalize(features.float(), dim=-1).cpu().numpy())

    def embed_texts(self, texts: list[str], progress: bool = False) -> np.ndarray:
        """Unit embeddings (n, d), float32 numpy, of n texts. Equal texts get equal ones."""
        return encode_texts(texts, self.model, self.tokenizer, progress=progress).numpy()

    def count_truncated(self, texts: list[str]) -> int:
        """How many of the texts are longer than the text encoder takes, and are cut off."""
        longest = text_length(self.model, self.tokenizer)
        return sum(len(tokens) > longest for tokens in self.tokenizer(texts, verbose=False)["input_ids"])
