"""A model that `decodetr export` wrote, and that answers a server without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from decodetr.serving.engine import KeptSearches, Prepared, Search

if TYPE_CHECKING:
    from typing import Any

    from PIL import Image

    from decodetr.runtime.exported_detector import ExportedDetector


class ExportedEngine:
    """
    Args:
        detector ([`ExportedDetector`]). name: what it was loaded from. kept_names (int): names of earlier calls that
            are kept.
    """

    def __init__(self, detector: ExportedDetector, name: str, kept_names: int = 20_000) -> None:
        self.detector, self.name = detector, name
        self._own = Search(detector.names, detector.names)
        self.kept = KeptSearches(self._make, kept_names)

    def facts(self) -> dict[str, Any]:
        """Of the model: where it is from, names, thresholds, runtime, and how many detections its graph gives."""
        own = self.detector.description
        return {
            "model": self.name,
            "names": self._own.names,
            "threshold": own.common_threshold,
            "name_thresholds": own.name_thresholds or {},
            "text_model": None,
            "device": own.runtime,
            "top_k": own.top_k,
        }

    def knows(self, names: Sequence[str] | None) -> bool:
        """An exported model never needs a text model: what it does not know it refuses."""
        return True

    def search(self, names: Sequence[str] | None) -> Search:
        """See [`Engine`]. Only names that are stored, of a graph that reads its names."""
        return self._own if names is None else self.kept.get(names)

    def _make(self, names):
        return Search(list(names), list(names), self.detector.tables_of(names))

    def least(self, search: Search, threshold: float | None) -> Mapping[str, float]:
        """See [`Engine`]."""
        return dict(zip(search.names, self.detector.description.thresholds(search.names, threshold)))

    def prepare(self, picture: Image.Image) -> Prepared:
        """See [`Engine`]: the picture as large as the graph takes it, which a large one no longer is."""
        resized = self.detector.resized(picture)
        return Prepared(resized, resized.shape[1::-1], picture.size, "orientation" in picture.info)

    def detect(
        self, pictures: Sequence[Prepared], search: Search, top_k: int, min_score: float
    ) -> list[dict[str, list]]:
        """See [`Engine`]."""
        resized, sizes = [one.inputs for one in pictures], [one.size for one in pictures]
        return self.detector.detect_resized(resized, sizes, search.tables, 0.0, top_k)
