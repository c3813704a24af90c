"""Regions on the disk, as they are read in training: Arrow files without compression, and an index by image.

    *.arrow                 one row a region, in the order in which they came; embeddings in the precision they had
    index.json              how many regions, the width of their embeddings, and a digest of each of the two tables
    names-*.npy             names of the files of the images that have one: ids, the bytes of all, where each begins
    kept-*.npy, all-*.npy   of kept regions and, where there are others, of all: ids of images, where the rows of each
                            begin in `rows`, and `rows`, which are numbers of rows of the Arrow files

The Arrow files are mapped into memory, so that all processes share one copy, which the system may drop at any time.
What a process has read of them would count as its own memory for as long as the file is mapped: the pages are given
back after each read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from decodetr.annotations.image_entries import Texts
from decodetr.processing.embedding_columns import embedding_array
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_json

if TYPE_CHECKING:
    from typing import Any

KEPT, ALL, NAMES = "kept", "all", "names"
_INDEX = "index.json"
_PART = 8192  # rows of a record batch that is put together of small ones
_EVERY = 100  # of embeddings, so many are left out of the digest for one that counts
SCATTERED = 64  # rows that are read from all over the file before their pages are given back
_DIGESTED = ("box", "proposal_score", "clip_score"), ("image_embed", "text_embed")


class RegionStore:
    """Rows of the Arrow files of a folder, by their numbers. Pickled, it is the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._maps, self._batches = [], []  # of each record batch its columns, as arrays over the mapped file
        for file in sorted(folder.glob("*.arrow")):
            with file.open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps.append(mapped)
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                self._batches.append({name: _to_numpy(batch.column(name)) for name in batch.schema.names})
        counts = [len(columns["image_id"]) for columns in self._batches]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.drop_pages()

    def __reduce__(self) -> tuple[Any, ...]:
        return RegionStore, (self.folder,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Columns `names` of some rows, at least one, in their order: copies, as they are in the file."""
        spans = self._spans(rows)
        found = {
            name: np.concatenate([self._batches[batch][name][start:end] for batch, start, end in spans])
            for name in names
        }
        self.drop_pages()
        return found

    def column(self, name: str) -> np.ndarray:
        """One column of all rows, at least one."""
        first = self._batches[0][name]
        found = np.empty((len(self), *first.shape[1:]), first.dtype)
        for columns, start, end in zip(self._batches, self._starts[:-1].tolist(), self._starts[1:].tolist()):
            found[start:end] = columns[name]
            self.drop_pages()
        return found

    def drop_pages(self) -> None:
        """Give back the memory of what has been read. It stays in the system's cache of files, while there is room."""
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)

    def _spans(self, rows):
        """[(batch, its first row, the row after the last)] of the runs of rows that follow one another."""
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(batches) != 0)) + 1
        firsts = [0, *breaks.tolist()]
        starts = (rows[firsts] - self._starts[batches[firsts]]).tolist()
        counts = np.diff([*firsts, len(rows)]).tolist()
        return [(batch, at, at + count) for batch, at, count in zip(batches[firsts].tolist(), starts, counts)]


class RegionIndex:
    """Which rows of a store are of which image, and the names of their files (`names`, in the order of ascending ids,
    of images that have one). Pickled, it is the path."""

    def __init__(self, folder: Path, which: str) -> None:
        found = read_json(folder / _INDEX, dict)
        self.folder = folder
        self.which = which if which in found["tables"] else KEPT  # all are kept
        self.embedding_dim: int = found["embedding_dim"]
        self.digest: str = found["tables"][self.which]
        self.ids, self._starts, self.rows = (
            np.load(folder / f"{self.which}-{part}.npy", mmap_mode="r") for part in ("ids", "starts", "rows")
        )
        self._named, content, starts = (
            np.load(folder / f"{NAMES}-{part}.npy", mmap_mode="r") for part in ("ids", "content", "starts")
        )
        self.names = Texts(content, starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return RegionIndex, (self.folder, self.which)

    def rows_of(self, image_id: int) -> np.ndarray:
        """Numbers of the rows of an image, none where it has none."""
        place = int(np.searchsorted(self.ids, image_id))
        if place == len(self.ids) or self.ids[place] != image_id:
            return self.rows[:0]
        return self.rows[self._starts[place] : self._starts[place + 1]]

    def name_of(self, image_id: int) -> str | None:
        """The name of the file of an image, None where it is not known."""
        place = int(np.searchsorted(self._named, image_id))
        return self.names[place] if place < len(self._named) and self._named[place] == image_id else None


class RegionWriter:
    """Writes an Arrow file of a store, a part at a time. A context manager."""

    def __init__(self, file: Path) -> None:
        self._file, self._held, self._count = file, [], 0
        self._sink = self._writer = None

    def __enter__(self) -> RegionWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._held and error[0] is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            self._sink.close()

    def write(self, columns: Mapping[str, np.ndarray]) -> None:
        """Add rows: "image_id", "box", "image_embed", "text_embed", "proposal_score", "clip_score" and "kept"."""
        self._held.append(columns)
        self._count += len(columns["box"])
        if self._count >= _PART:
            self._flush()

    def _flush(self):
        columns = {name: np.concatenate([part[name] for part in self._held]) for name in self._held[0]}
        self._held, self._count = [], 0
        if not len(columns["box"]):
            return
        batch = pa.record_batch({name: _to_arrow(values) for name, values in columns.items()})
        if self._writer is None:
            self._sink = pa.OSFile(str(self._file), "wb")
            self._writer = pa.ipc.new_file(self._sink, batch.schema)
        self._writer.write_batch(batch)


def write_index(
    folder: Path, staging: Path, shards: Iterable[int] = (), names: Mapping[int, str] | None = None
) -> None:
    """
    Write the index of the Arrow files of a folder into `staging`, which may be the same.

    Args:
        shards (ints): the row with which each shard begins. Of one image, regions of an earlier shard come first, and
            of one shard those that are kept.
        names (dict, optional): image id -> name of its file.
    """
    store = RegionStore(folder)
    ids = store.column("image_id") if len(store) else np.zeros(0, dtype=np.int64)
    kept = store.column("kept").astype(bool) if len(store) else np.zeros(0, dtype=bool)
    shard = np.searchsorted(np.array(list(shards), dtype=np.int64), np.arange(len(ids)), side="right")
    order = np.lexsort((~kept, shard, ids))
    del shard
    tables, all_kept = {}, bool(kept.all())
    for which in (KEPT,) if all_kept else (KEPT, ALL):
        rows = order[kept[order]] if which == KEPT and not all_kept else order
        unique, starts = np.unique(ids[rows], return_index=True)
        starts = np.append(starts, len(rows)).astype(np.int64)
        for part, values in (("ids", unique), ("starts", starts), ("rows", rows)):
            np.save(staging / f"{which}-{part}.npy", values)
        tables[which] = _digest(store, rows, unique, starts)
    dim = store.read(order[:1], ("image_embed",))["image_embed"].shape[1] if len(store) else 0
    names = dict(sorted((names or {}).items()))
    texts = Texts.of(list(names.values()))
    named = np.array(list(names), dtype=np.int64)
    for part, values in (("ids", named), ("content", texts.content), ("starts", texts.starts)):
        np.save(staging / f"{NAMES}-{part}.npy", values)
    write_json(staging / _INDEX, {"embedding_dim": dim, "regions": len(ids), "tables": tables})


def _digest(store, rows, ids, starts):
    spans = list(zip(ids.tolist(), zip(starts[:-1].tolist(), starts[1:].tolist())))
    digest = hashlib.sha256(json.dumps(spans).encode())
    for name in _DIGESTED[0] if len(rows) else ():
        column = store.column(name)
        for start in range(0, len(rows), _PART):
            digest.update(np.ascontiguousarray(column[rows[start : start + _PART]]).tobytes())
    for name in _DIGESTED[1]:
        for start in range(0, len(rows), _EVERY * SCATTERED):
            some = rows[start : start + _EVERY * SCATTERED : _EVERY]
            digest.update(np.ascontiguousarray(store.read(some, (name,))[name]).tobytes())
    return digest.hexdigest()[:12]


def _to_numpy(column):
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return column.to_numpy()


def _to_arrow(values):
    if values.ndim == 2:
        return embedding_array(np.ascontiguousarray(values))
    return pa.array(values.astype(np.uint8) if values.dtype == bool else values)  # bits could not be mapped
