"""What a server asks of a model, and a DeCo-DETR that answers it.

Names are of a request. They never become the model's, so that requests with other names go on meanwhile. What follows
from a set of names is kept for the next request that has it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from PIL import Image

from decodetr.inference.candidates import CandidateLabels, name_of
from decodetr.inference.detection import forward
from decodetr.processing.picture_modes import to_rgb

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path
    from typing import Any

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.embedding_space import Tables
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


@dataclass(frozen=True)
class Prepared:
    """A picture as a model takes it.

    Attributes:
        inputs: what an engine made of it. key: pictures with equal ones can be one batch.
        size: (width, height) in pixels. turned: whether its EXIF orientation was applied.
    """

    inputs: Any
    key: Hashable
    size: tuple[int, int]
    turned: bool = False


@dataclass(eq=False)
class Search:
    """Names to look for. Equal to itself alone, which makes it the key of a batch.

    Attributes:
        names (list[str]): as the request has them. stands_for (list[str]): as the model's thresholds have them.
        tables: what an engine needs to score them.
    """

    names: list[str]
    stands_for: list[str] = field(repr=False)
    tables: Any = field(default=None, repr=False)


class Engine(Protocol):
    """What a server needs of a model. All of it may be called by several threads, `detect` by one at a time."""

    def facts(self) -> dict[str, Any]:
        """What is said of the model: "model", "names", "threshold", "device", ..."""

    def knows(self, names: Sequence[str] | None) -> bool:
        """Whether `search` of these names needs no text model."""

    def search(self, names: Sequence[str] | None) -> Search:
        """The search for some names, or, with None, for the model's own.

        Raises:
            ValueError: names without an embedding that cannot get one.
        """

    def least(self, search: Search, threshold: float | None) -> Mapping[str, float]:
        """{name: the score that a detection must exceed}."""

    def prepare(self, picture: Image.Image) -> Prepared:
        """An RGB picture for `detect`."""

    def detect(self, pictures: Sequence[Prepared], search: Search, top_k: int) -> list[dict[str, list]]:
        """The best detections of pictures with equal keys, whatever their score: "names", "scores" and "boxes" (x0,
        y0, x1, y1 in pixels), best first."""


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
        self.kept_names = kept_names
        self._candidates = CandidateLabels(text_model, kept_names)
        self._tables: Tables = model.tables()
        names = list(self._tables.vocabulary.names)
        self._stored = {stored: place for place, stored in reversed(list(enumerate(names)))}
        self._own = Search(names, names, self._tables)
        self._kept: OrderedDict[tuple[str, ...], Search] = OrderedDict()
        self._lock = threading.Lock()

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
        if names is None or tuple(names) in self._kept:
            return True
        return all(name_of(name, self._stored) in self._stored for name in names)

    def search(self, names: Sequence[str] | None) -> Search:
        """See [`Engine`]. What was asked for lately is kept, up to `kept_names` names together."""
        if names is None:
            return self._own
        key = tuple(names)
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
        vocabulary, stands_for = self._candidates.vocabulary(self._tables.vocabulary, key)
        tables = self.model.semantic_stream.tables_with(self._tables, vocabulary)
        with self._lock:  # of two that came at once, the first one is kept
            found = self._kept.setdefault(key, Search(list(key), stands_for, tables))
            while len(self._kept) > 1 and sum(map(len, self._kept)) > self.kept_names:
                self._kept.popitem(last=False)
        return found

    def least(self, search: Search, threshold: float | None) -> Mapping[str, float]:
        """See [`Engine`]."""
        return dict(zip(search.names, self.model.config.thresholds(search.stands_for, threshold)))

    def prepare(self, picture: Image.Image) -> Prepared:
        """See [`Engine`]: `pixel_values` (1, 3, H, W) and, where the image processor pads, `pixel_mask` (1, H, W)."""
        batch = self.image_processor(images=[to_rgb(picture)], return_tensors="pt")
        inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
        return Prepared(inputs, tuple(inputs["pixel_values"].shape), picture.size, "orientation" in picture.info)

    def detect(self, pictures: Sequence[Prepared], search: Search, top_k: int) -> list[dict[str, list]]:
        """See [`Engine`]."""
        batch = {name: torch.cat([one.inputs[name] for one in pictures]) for name in pictures[0].inputs}
        with torch.inference_mode():
            outputs = forward(self.model, batch, tables=search.tables)
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
