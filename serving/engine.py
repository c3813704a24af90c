"""What a server asks of a model, whatever runs it.

Names are of a request. They never become the model's, so that requests with other names go on meanwhile. What follows
from a set of names is kept for the next request that has it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

    from PIL import Image


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
        """What is said of the model: "model", "names", "threshold", "device", ... "top_k", where it is there and not
        None, is the most detections of a picture that it gives."""

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

    def detect(
        self, pictures: Sequence[Prepared], search: Search, top_k: int, min_score: float
    ) -> list[dict[str, list]]:
        """The best detections of pictures with equal keys: "names", "scores" and "boxes" (x0, y0, x1, y1 in pixels),
        best first. Where nothing scores above `min_score` there is the best one; other lower ones may be missing."""


class KeptSearches:
    """
    Searches of earlier calls.

    Args:
        make (callable): names to their [`Search`]. most (int): names that are kept together.
    """

    def __init__(self, make: Callable[[tuple[str, ...]], Search], most: int) -> None:
        self.make, self.most = make, most
        self._kept: OrderedDict[tuple[str, ...], Search] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, names: Sequence[str]) -> bool:
        return tuple(names) in self._kept

    def __len__(self) -> int:
        """Names of all searches together."""
        return sum(map(len, self._kept))

    def get(self, names: Sequence[str]) -> Search:
        """The search for some names, in their order. Raises as `make`."""
        key = tuple(names)
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
        made = self.make(key)
        with self._lock:  # of two that came at once, the first one is kept
            found = self._kept.setdefault(key, made)
            while len(self._kept) > 1 and len(self) > self.most:
                self._kept.popitem(last=False)
        return found
