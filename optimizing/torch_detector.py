"""A model in torch, in the place of an exported one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from decodetr.inference.candidates import CandidateLabels
from decodetr.inference.detection import detect
from decodetr.utils.images import open_image

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection, Vocabulary
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


class TorchDetector:
    """
    Args:
        model (DeCoDetrForObjectDetection): in evaluation mode. image_processor: of the model.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    ) -> None:
        self.model, self.image_processor = model, image_processor
        self._candidates = CandidateLabels()

    @property
    def names(self) -> list[str]:
        """The names that are looked for, in the order of the labels."""
        return self.model.vocabulary.names

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Look for other names from now on."""
        self.model.set_vocabulary(vocabulary)

    def detect(
        self,
        images: Iterable[PIL.Image.Image | np.ndarray | str | Path],
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        top_k: int = 100,
        min_score: float | None = None,
    ) -> list[dict[str, list]]:
        """As [`decodetr.runtime.ExportedDetector.detect`]. Names that the model lacks are embedded by the text model
        that it records. `min_score` is that of [`decodetr.inference.detection.detect`]."""
        tables = self.model.tables()
        if names is not None:
            vocabulary, _ = self._candidates.vocabulary(tables.vocabulary, names)
            tables = self.model.semantic_stream.tables_with(tables, vocabulary)
        pictures = [_opened(image) for image in images]
        return detect(self.model, self.image_processor, pictures, threshold, top_k, tables=tables, min_score=min_score)


def _opened(image):
    if isinstance(image, str | os.PathLike):
        return open_image(os.fspath(image))
    return PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image
