"""A DeCo-DETR that answers a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from decodetr.inference.candidates import CandidateLabels, name_of
from decodetr.inference.detection import forward
from decodetr.processing.picture_modes import to_rgb
from decodetr.serving.engine import KeptSearches, Prepared, Search

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.embedding_space import Tables
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


class ModelEngine:
    """
    A loaded DeCo-DETR.

    Args:
        model, image_processor: of [`load_model`]. name: what it was loaded from.
        text_model (*optional*): of names that the model lacks. Default: the one that the model records.
        kept_names (int): names of earlier calls that are kept.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        name: str,
        text_model: str | Path | None = None,
        kept_names: int = 20_000,
    ) -> None:
        self.model, self.image_processor, self.name = model, image_processor, name
        self._candidates = CandidateLabels(text_model, kept_names)
        self._tables: Tables = model.tables()
        names = list(self._tables.vocabulary.names)
        self._stored = {stored: place for place, stored in reversed(list(enumerate(names)))}
        self._own = Search(names, names, self._tables)
        self.kept = KeptSearches(self._make, kept_names)

    def facts(self) -> dict[str, Any]:
        """Of the model: where it is from, names, thresholds, text model, device, threads."""
        info = self._tables.vocabulary.info
        config = self.model.config
        return {
            "model": self.name,
            "names": self._own.names,
            "threshold": config.common_threshold,
            "name_thresholds": config.name_thresholds or {},
            "text_model": str(self._candidates.text_model or info.get("encoder") or "") or None,
            "device": str(self.model.device),
            "threads": torch.get_num_threads(),
        }

    def knows(self, names: Sequence[str] | None) -> bool:
        """Whether the model has, or this engine has kept, what these names need."""
        if names is None or names in self.kept:
            return True
        return all(name_of(name, self._stored) in self._stored for name in names)

    def search(self, names: Sequence[str] | None) -> Search:
        """See [`Engine`]. What was asked for lately is kept, up to `kept_names` names together."""
        return self._own if names is None else self.kept.get(names)

    def _make(self, names):
        vocabulary, stands_for = self._candidates.vocabulary(self._tables.vocabulary, names)
        tables = self.model.semantic_stream.tables_with(self._tables, vocabulary)
        return Search(list(names), stands_for, tables)

    def least(self, search: Search, threshold: float | None) -> Mapping[str, float]:
        """See [`Engine`]."""
        return dict(zip(search.names, self.model.config.thresholds(search.stands_for, threshold)))

    def prepare(self, picture: Image.Image) -> Prepared:
        """See [`Engine`]: `pixel_values` (1, 3, H, W) and, where the image processor pads, `pixel_mask` (1, H, W)."""
        batch = self.image_processor(images=[to_rgb(picture)], return_tensors="pt")
        inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
        return Prepared(inputs, tuple(inputs["pixel_values"].shape), picture.size, "orientation" in picture.info)

    def detect(
        self, pictures: Sequence[Prepared], search: Search, top_k: int, min_score: float
    ) -> list[dict[str, list]]:
        """See [`Engine`]."""
        batch = {name: torch.cat([one.inputs[name] for one in pictures]) for name in pictures[0].inputs}
        with torch.inference_mode():
            outputs = forward(self.model, batch, tables=search.tables, min_score=min_score)
        sizes = [one.size[::-1] for one in pictures]
        results = self.image_processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=sizes, top_k=top_k
        )
        return [
            {
                "names": [search.names[label] for label in result["labels"].tolist()],
                "scores": result["scores"].tolist(),
                "boxes": result["boxes"].tolist(),
            }
            for result in results
        ]
