"""An exported model in the place of a DeCo-DETR, for `decodetr predict`. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from decodetr.runtime.description import GRAPH_FILES, digest_of
from decodetr.runtime.exported_detector import ExportedDetector

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import PIL.Image

    from decodetr.runtime.description import Description


class ExportedNames(NamedTuple):
    """What a run asks of a vocabulary.

    Attributes:
        names (list[str]), info (dict): who embedded them.
    """

    names: list[str]
    info: dict[str, Any]


class ExportedModel:
    """
    Args:
        place: folder of an exported model, or the graph in it.
        names ({name: texts} of `--names`, or "pool", *optional*): which of its names, or of those of `vocabulary`, are
            looked for.
        vocabulary (*optional*): folder of a vocabulary that replaces the stored one.
        providers (list[str], *optional*), threads (int, *optional*): see [`ExportedDetector`].

    Raises:
        ValueError: names that it cannot look for, and as [`ExportedDetector`].
    """

    def __init__(
        self,
        place: str | Path,
        names: Mapping[str, Sequence[str]] | str | None = None,
        vocabulary: str | Path | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self.detector = ExportedDetector(place, threads, providers)
        if isinstance(names, str):
            raise ValueError("--names pool: an exported model has no captions; give the model itself")
        if own := [name for name, texts in (names or {}).items() if list(texts) != [name]]:
            raise ValueError(
                f"--names-file: an exported model embeds no texts, and {own[0]!r} has some; give --vocabulary, as "
                "`decodetr vocabulary build` makes it"
            )
        if names is not None or vocabulary is not None:
            self.detector.set_names(None if names is None else list(names), vocabulary)

    @property
    def config(self) -> Description:
        """Thresholds and calibration."""
        return self.detector.description

    @property
    def vocabulary(self) -> ExportedNames:
        """The names."""
        return ExportedNames(self.detector.names, self.detector.vocabulary_info)

    def find(self, images: Sequence[PIL.Image.Image], threshold: float, top_k: int) -> list[dict[str, list]]:
        """Detections of pictures, as [`ExportedDetector.detect`] gives them."""
        return self.detector.detect(images, threshold=threshold, top_k=top_k, batch_size=len(images))

    def digest(self) -> str:
        """SHA-256 of what decides the detections: the graph, in which weights and most settings of the config are, and
        what it reads of pictures and names."""
        own = self.config
        digest = hashlib.sha256(json.dumps([own.runtime, own.dtype, own.preprocessing]).encode())
        for name in GRAPH_FILES:
            if name in own.files:  # compared with the file when it was loaded
                digest.update(name.encode() + bytes.fromhex(own.files[name]["sha256"]))
            elif (file := self.detector.folder / name).is_file():
                digest.update(name.encode() + bytes.fromhex(digest_of(file)))
        for values in self.detector.name_inputs().values():
            digest.update(values.tobytes())
        return digest.hexdigest()
