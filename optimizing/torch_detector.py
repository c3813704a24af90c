"""A model in torch, in the place of an exported one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from decodetr.inference.candidates import CandidateLabels
from decodetr.inference.detection import detect
from decodetr.runtime.exported_detector import BATCH_SIZE, check_asked, picture_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection, Vocabulary
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


class TorchDetector:
    """
    Args:
        model (DeCoDetrForObjectDetection): in evaluation mode. image_processor: of the model.
        autocast (torch.dtype, *optional*): of every call.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.image_processor, self.autocast = model, image_processor, autocast
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
        batch_size: int = BATCH_SIZE,
        min_score: float | None = None,
    ) -> list[dict[str, list]]:
        """As [`decodetr.runtime.ExportedDetector.detect`]. Names that the model lacks are embedded by the text model
        that it records. `min_score` is that of [`decodetr.inference.detection.detect`]."""
        check_asked(images, threshold, top_k, batch_size)
        tables = self.model.tables()
        if names is not None:
            vocabulary, _ = self._candidates.vocabulary(tables.vocabulary, names)
            tables = self.model.semantic_stream.tables_with(tables, vocabulary)
        find = partial(detect, self.model, self.image_processor, tables=tables, min_score=min_score)
        waiting, found = iter(images), []
        with torch.autocast(self.model.device.type, self.autocast, enabled=self.autocast is not None):
            while some := list(islice(waiting, batch_size)):
                found += find(map(picture_of, some), threshold, top_k)
        return found
