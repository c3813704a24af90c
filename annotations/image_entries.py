"""What is known of many images, in flat arrays: a dict for each of a million images would take a gigabyte in every
process, and loader workers would copy it bit by bit only by looking at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any, Self

_NUMBERS = ("image_id", "width", "height")
_TEXTS = ("file_name", "path")


class Texts(Sequence[str]):
    """Many texts as two arrays: their bytes one after another, and where each begins."""

    def __init__(self, content: np.ndarray, starts: np.ndarray) -> None:
        self.content, self.starts = content, starts

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Of a list. File names that are no UTF-8 are among them."""
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.frombuffer(bytearray(b"".join(parts)), dtype=np.uint8), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, place):
        content = self.content[self.starts[place] : self.starts[place + 1]]
        return content.tobytes().decode("utf-8", "surrogatepass")

    def take(self, rows: np.ndarray) -> Texts:
        """Some of them, in another order."""
        lengths = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Texts(self.content[places], starts)


class ImageEntries(Sequence["dict[str, Any]"]):
    """
    The images of `CocoAnnotations`: a list of dicts, each of which is made when it is asked for.

    Args:
        columns (dict): "image_id", "width" and "height" int64 arrays; "file_name" and "path" `Texts`, or a list where
            a path is an object; "size_declared" bool.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = dict(columns)

    @classmethod
    def of(cls, entries: Sequence[dict[str, Any]]) -> ImageEntries:
        """Of such a list of dicts."""
        if isinstance(entries, ImageEntries):
            return entries
        columns: dict[str, Any] = {
            name: np.array([entry[name] for entry in entries], dtype=np.int64) for name in _NUMBERS
        }
        for name in _TEXTS:
            values = [entry[name] for entry in entries]
            columns[name] = Texts.of(values) if all(type(value) is str for value in values) else values
        declared = (entry.get("size_declared", True) for entry in entries)
        return cls({**columns, "size_declared": np.array(list(declared), dtype=bool)})

    def take(self, rows: np.ndarray) -> ImageEntries:
        """Some images, by their places (n,) int64."""

        def taken(values):
            if isinstance(values, list):
                return [values[row] for row in rows.tolist()]
            return values.take(rows) if isinstance(values, Texts) else values[rows]

        return ImageEntries({name: taken(values) for name, values in self.columns.items()})

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]  # counts negative ones from the end, and raises IndexError
        entry = {name: int(self.columns[name][number]) for name in _NUMBERS}
        entry |= {name: self.columns[name][number] for name in _TEXTS}
        return entry if self.columns["size_declared"][number] else {**entry, "size_declared": False}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class ImagePlaces:
    """Where each image id is in a list of them. A dict's work, in two arrays."""

    def __init__(self, image_ids: Sequence[int] | np.ndarray) -> None:
        self.ids = np.asarray(image_ids, dtype=np.int64)
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, image_ids: np.ndarray) -> np.ndarray:
        """(n,) int64 places of ids (n,), -1 of those that are not there."""
        if not len(self.ids):
            return np.full(len(image_ids), -1)
        found = np.searchsorted(self._sorted, image_ids).clip(max=len(self.ids) - 1)
        return np.where(self._sorted[found] == image_ids, self._order[found], -1)

    def get(self, image_id: int) -> int | None:
        """The place of one id, or None."""
        found = int(np.searchsorted(self._sorted, image_id))
        known = found < len(self.ids) and self._sorted[found] == image_id
        return int(self._order[found]) if known else None


class Federation(Mapping["int", "tuple[np.ndarray, np.ndarray]"]):
    """
    image id -> (categories verified to be absent, categories whose objects are not all annotated), as LVIS has them.

    Args:
        image_ids (n,). absent, not_exhaustive: of all images (values one after another, where each image's begin).
    """

    def __init__(
        self,
        image_ids: Sequence[int] | np.ndarray,
        absent: tuple[np.ndarray, np.ndarray],
        not_exhaustive: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self.places, self.absent, self.not_exhaustive = ImagePlaces(image_ids), absent, not_exhaustive

    @classmethod
    def of(cls, lists: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> Federation:
        """Of a dict."""

        def flat(parts):
            starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
            return np.concatenate([np.zeros(0, dtype=np.int64), *parts]), starts

        return cls(list(lists), flat([one for one, _ in lists.values()]), flat([two for _, two in lists.values()]))

    def __getitem__(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        place = self.places.get(image_id)
        if place is None:
            raise KeyError(image_id)
        (one, ones), (two, twos) = self.absent, self.not_exhaustive
        return one[ones[place] : ones[place + 1]], two[twos[place] : twos[place + 1]]

    def __iter__(self) -> Iterator[int]:
        return iter(self.places.ids.tolist())

    def __len__(self) -> int:
        return len(self.places)
