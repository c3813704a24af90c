"""Embeddings that stay on disk: read in blocks as unit rows, in float32 whatever the precision of the file."""

import io
import math
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from decodetr.utils.preflight import free_bytes, in_units


class EmbeddingFile:
    """
    (n, d) embeddings in a file, which read like an array: `embeddings[rows]`.

    A part of the file is mapped while it is read or written, and at no other time. So what is resident is the part,
    never the file. Scattered rows are not mapped: the system would map up to two megabytes around each.

    Args:
        file (`io.FileIO`): opened without a buffer. Rows lie one after another, without gaps.
        shape (tuple of int): (n, d).
        dtype: float16, whose rows come out at unit length, or float32, whose rows are unit rows already.
        offset (int): bytes before the first row.

    Attributes: shape (n, d), dtype.
    """

    def __init__(self, file: io.FileIO, shape: tuple[int, int], dtype: Any, offset: int = 0) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file, self._offset = file, offset

    @classmethod
    def scratch(cls, folder: Path, shape: tuple[int, int], dtype: Any) -> Self:
        """A new file of zeros, which is gone with this object, also where the process is killed.

        Args:
            folder (Path): where there is room for it.

        Raises:
            OSError: the disk has too little room. Says how much it takes.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        folder.mkdir(parents=True, exist_ok=True)
        if (free := free_bytes(folder)) < size:
            raise OSError(
                f"{folder}: expected room for {in_units(size)}, the embeddings of {shape[0]:,} captions while they "
                f"are clustered, got {in_units(free)}; free some, or choose an --output on another disk"
            )
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # it lives as long as this object
        file.truncate(max(size, 1))
        return cls(file, shape, dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """(m, d) float32 unit rows: of a slice, or of an array of numbers or of bools."""
        return unit_rows(self.stored(rows))

    def stored(self, rows: slice | np.ndarray) -> np.ndarray:
        """(m, d) rows as the file has them."""
        if isinstance(rows, slice):
            return np.array(self._map("r")[rows])
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        found = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        for first, end, place in self._runs(rows):
            self._file.seek(place)
            self._all(self._file.readinto, found[first:end])
        return found

    def put(self, rows: np.ndarray | slice, values: np.ndarray) -> None:
        """Write rows: their numbers (m,), or a slice, and values (m, d)."""
        if isinstance(rows, slice):
            self._map("r+")[rows] = values
            return
        values = np.ascontiguousarray(values, dtype=self.dtype)
        for first, end, place in self._runs(rows):
            self._file.seek(place)
            self._all(self._file.write, values[first:end])

    def _all(self, move, rows):
        """Read or write rows to their end, which the system may do in parts."""
        left = rows.data.cast("B")
        while left:
            if not (moved := move(left)):
                raise OSError(
                    f"the file of {self.shape[0]:,} embeddings of width {self.shape[1]} ends before the rows that are "
                    "asked for: it was cut off; make it again"
                )
            left = left[moved:]

    def _runs(self, rows):
        """(first, end of rows that follow one another, place of the first one in the file)."""
        size = self.shape[1] * self.dtype.itemsize
        edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for first, end in zip(edges, edges[1:]):
            if first < end:
                yield first, end, self._offset + int(rows[first]) * size

    def _map(self, mode):
        return np.memmap(self._file, self.dtype, mode, self._offset, self.shape)


class Chosen:
    """Some rows of embeddings, which read like an array too.

    Args:
        embeddings: (n, d) array or [`EmbeddingFile`]. rows (m,): numbers of rows.
    """

    def __init__(self, embeddings: "np.ndarray | EmbeddingFile", rows: np.ndarray) -> None:
        self.embeddings, self.rows = embeddings, rows
        self.shape = (len(rows), embeddings.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.embeddings[self.rows[rows]]


Embeddings = np.ndarray | EmbeddingFile | Chosen


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(n, d) float32 at unit length of rows in float16. Rows in float32 are such rows, and come back as they are."""
    if rows.dtype == np.float32:
        return rows
    rows = rows.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
