"""Parquet shards of the regions data set: found, checked row by row, and read a part at a time.

Errors are ValueErrors with the shard, the row in it, what was expected, what was found and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from typing import Any

COLUMNS = (
    "image_id", "file_name", "box", "proposal_score", "caption", "image_embed", "text_embed", "clip_score", "kept",
)  # fmt: skip
READ = ("image_id", "box", "proposal_score", "image_embed", "text_embed", "clip_score", "kept")
SHARD = re.compile(r"regions-(\d{5,})-of-(\d{5,})\.parquet")
_LISTS = ("box", "image_embed", "text_embed")
_PART = 4096  # rows that are in memory at once
_NAMES_PART = 1 << 16  # the same of names of files alone
_UNIT_TOLERANCE = 1e-2  # float16 keeps lengths to about 1e-3


def find_shards(source: Path) -> list[Path]:
    """The files of a regions data set, a folder or a file, in their order.

    Raises:
        FileNotFoundError, ValueError: see [`RegionTable.load`].
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such regions folder or file; `decodetr pool` writes one")
    found = {}
    for file in sorted(source.iterdir()):
        match = SHARD.fullmatch(file.name)
        if match:
            found.setdefault(int(match[2]), {})[int(match[1])] = file
    if not found:
        raise FileNotFoundError(
            f"{source}: expected shards like regions-00000-of-00003.parquet, got none; `decodetr pool` writes them"
        )
    if len(found) > 1:
        raise ValueError(
            f"{source}: expected the shards of one data set, got some of {sorted(found)} shards; remove the stale ones"
        )
    ((total, shards),) = found.items()
    missing = [f"regions-{i:05d}-of-{total:05d}.parquet" for i in range(total) if i not in shards]
    if missing or len(shards) != total:
        surplus = [file.name for number, file in shards.items() if number >= total]
        raise FileNotFoundError(
            f"{source}: expected {total} shards, got {len(shards)}; missing: {', '.join(missing[:3]) or 'none'}"
            f"{f'; beyond the total: {surplus[:3]}' if surplus else ''}; write the regions again or restore the shards"
        )
    return [shards[number] for number in range(total)]


def read_parts(file: Path, types: dict[str, np.dtype[Any]]) -> Iterator[dict[str, np.ndarray]]:
    """
    The rows of a shard that can be used, some thousands at a time.

    Args:
        file (Path). types: of each column, as [`column_types`] gives them.

    Yields:
        dict of arrays of one length, at least 1: "image_id" (n,) int64, "box" (n, 4), "image_embed" and "text_embed"
        (n, d), "proposal_score", "clip_score" (n,), in the types, and "kept" (n,) bool. The kept rows of a part come
        before the others, which have text embeddings and CLIP scores of zero.

    Raises:
        ValueError: a row that is kept is wrong, or the file is cut off.
    """
    with _whole(file), pq.ParquetFile(file) as parquet:
        width, start = _width(parquet), 0
        for batch in parquet.iter_batches(_PART, columns=list(READ)):
            table = pa.table(batch)
            try:
                parts = [_kept(file, table, start, width), _not_kept(file, table, start, width)]
            except ValueError:  # say it of the whole shard, with the number of such rows
                _kept(file, parquet.read(columns=list(READ)), 0, width)
                raise
            start += len(table)
            for part in parts:
                if len(part["box"]):
                    yield {name: part[name].astype(types[name], copy=False) for name in READ}


def names_of_images(files: list[Path]) -> dict[int, str]:
    """{image id: name of its file} of the images whose rows have one: that of the first row.

    Raises:
        ValueError: a shard is cut off.
    """
    found: dict[int, str] = {}
    for file in files:
        with _whole(file), pq.ParquetFile(file) as parquet:
            kinds = {field.name: field.type for field in parquet.schema_arrow}
            kind = kinds.get("file_name", pa.null())
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                continue
            for batch in parquet.iter_batches(_NAMES_PART, columns=["image_id", "file_name"]):
                rows = pa.table(batch).drop_null()
                ids, firsts = np.unique(rows["image_id"].to_numpy().astype(np.int64), return_index=True)
                names = rows["file_name"].take(pa.array(firsts)).to_pylist()
                for image_id, name in zip(ids.tolist(), names):
                    if name:
                        found.setdefault(image_id, name)
    return found


def column_types(files: list[Path]) -> dict[str, np.dtype[Any]]:
    """What the columns of all shards are read as: the narrowest type that holds those of each.

    Raises:
        ValueError: a shard is cut off, or lacks a column, or has one of another kind.
    """
    found: dict[str, list[Any]] = {name: [] for name in READ}
    for file in files:
        with _whole(file):
            schema = pq.read_schema(file)
        missing = [name for name in READ if name not in schema.names]
        if missing:
            raise ValueError(
                f"{file}: expected the columns {', '.join(COLUMNS)}, got none of {missing} (there are "
                f"{schema.names}); rename them or write the regions with write_regions"
            )
        for name in READ:
            kind = schema.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
            if is_list != (name in _LISTS):
                what = "lists" if name in _LISTS else "numbers"
                raise ValueError(f"{file}: expected {name} to be {what}, got {kind}")
            kind = kind.value_type if is_list else kind
            if not pa.types.is_null(kind):  # a column, or lists, without anything in it
                found[name].append(np.dtype(kind.to_pandas_dtype()))
    types = {name: np.result_type(*kinds) if kinds else np.dtype("float32") for name, kinds in found.items()}
    for name, kind in types.items():
        if kind.kind not in ("biuf" if name != "kept" else "b"):
            raise ValueError(f"{files[0].parent}: expected {name} to be numbers, got {kind}; write the regions again")
    return types | {"image_id": np.dtype("int64")}


def texts_of(table: pa.Table) -> list[str]:
    """The columns of texts. Parquet shall keep dictionaries of them alone: embeddings in one are six times as slow to
    read, and hardly smaller."""
    return [field.name for field in table.schema if pa.types.is_string(field.type)]


def bytes_of_rows(files: list[Path], types: dict[str, np.dtype[Any]]) -> int:
    """Bytes that the rows of all shards take without compression."""
    rows, width = 0, 0
    for file in files:
        with _whole(file), pq.ParquetFile(file) as parquet:
            rows += parquet.metadata.num_rows
            width = width or _width(parquet)
    lengths = {"box": 4, "image_embed": width, "text_embed": width}
    return rows * sum(kind.itemsize * lengths.get(name, 1) for name, kind in types.items())


@contextmanager
def _whole(file):
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file}: expected a whole Parquet shard, got {type(error).__name__}: {error}; it is cut off or damaged: "
            "write it again"
        ) from error


def _width(parquet):
    """Length of the embeddings: of the first row that is kept, else of the first that has one, else 0."""
    kind, other = parquet.schema_arrow.field("image_embed").type, 0
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    for batch in parquet.iter_batches(_PART, columns=["kept", "image_embed"]):
        lengths, kept = pc.list_value_length(batch["image_embed"]), pc.fill_null(batch["kept"], False)
        if pc.any(kept).as_py():
            return lengths.filter(kept)[0].as_py() or 0
        other = other or next(filter(None, lengths.drop_null().to_pylist()), 0)
    return other


def _kept(file, table, start, width):
    """Checked columns of the kept rows of a part of a shard, whose first row is `start`."""
    kept = pc.fill_null(table["kept"], False).combine_chunks()
    rows = start + np.flatnonzero(np.asarray(kept))
    table = table.filter(kept)
    lengths = {"box": 4, "image_embed": width}
    columns = {name: _to_numpy(file, name, table[name], rows, lengths.get(name)) for name in READ[:-1]}
    columns["image_id"] = columns["image_id"].astype(np.int64)
    check_rows(file, columns, rows)
    if columns["text_embed"].shape[1] != width and len(rows):
        raise ValueError(
            f"{file}: expected image_embed and text_embed of one length, got {width} and "
            f"{columns['text_embed'].shape[1]}; both must come from one CLIP"
        )
    return columns | {"kept": np.ones(len(rows), dtype=bool)}


def _not_kept(file, table, start, width):
    """Columns of the rows that are not kept and can be used all the same: with a box, a score and an image embedding
    of `width` numbers. The others are left out, as those who marked them wanted."""
    names = ("image_id", "box", "proposal_score", "image_embed")
    there = pc.fill_null(pc.invert(table["kept"].combine_chunks()), False)
    for name in names:
        there = pc.and_(there, pc.is_valid(table[name]).combine_chunks())
    for name, length in (("box", 4), ("image_embed", width)):
        lengths = pc.fill_null(pc.list_value_length(table[name]).combine_chunks(), 0)
        there = pc.and_(there, pc.equal(lengths, length))
    rows, table = start + np.flatnonzero(np.asarray(there)), table.filter(there)
    lengths = {"box": 4, "image_embed": width}
    columns = {name: _to_numpy(file, name, table[name], rows, lengths.get(name)) for name in names}
    box, norm = columns["box"], _norms(columns["image_embed"])
    usable = np.isfinite(box).all(axis=1) & (box[:, :2] < box[:, 2:]).all(axis=1)
    usable &= np.isfinite(columns["proposal_score"]) & (np.abs(norm - 1) < _UNIT_TOLERANCE)
    columns = {name: values[usable] for name, values in columns.items()}
    return columns | {
        "text_embed": np.zeros_like(columns["image_embed"]),
        "clip_score": np.zeros(len(columns["box"]), dtype=np.float32),
        "kept": np.zeros(len(columns["box"]), dtype=bool),
    }


def _to_numpy(file, name, column, rows, length=None):
    """One column without nulls: (n,), or (n, length) for lists, which must be of one length, or that of the first."""
    if column.null_count:
        row = rows[int(np.argmax(np.asarray(column.is_null())))]
        raise ValueError(f"{file}: row {row}: expected a {name}, got null; fill it or mark the row as not kept")
    if name not in _LISTS:
        return column.to_numpy()
    lengths = np.asarray(pc.list_value_length(column))
    if length is None:
        length = int(lengths[0]) if len(lengths) else 0
    if (lengths != length).any():
        i = int((lengths != length).argmax())
        raise ValueError(f"{file}: row {rows[i]}: expected a {name} of {length} numbers, got {lengths[i]}")
    return pc.list_flatten(column).to_numpy().reshape(len(lengths), length)


def check_rows(where: str | Path, columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """ValueError where boxes, scores or embeddings of some rows are wrong. `rows` are their numbers in the file."""
    for name in (name for name in ("box", "proposal_score", "clip_score") if name in columns):
        finite = np.isfinite(columns[name])
        _raise_first(
            where, ~(finite.all(axis=1) if finite.ndim == 2 else finite), columns, rows, name, "finite numbers"
        )
    box = columns["box"]
    swapped = (box[:, 0] >= box[:, 2]) | (box[:, 1] >= box[:, 3])
    _raise_first(where, swapped, columns, rows, "box", "x0 < x1 and y0 < y1 (corners in pixels, not x, y, w, h)")
    for embed in (name for name in ("image_embed", "text_embed") if name in columns):
        bad = ~(np.abs(_norms(columns[embed]) - 1) < _UNIT_TOLERANCE)
        _raise_first(where, bad, columns, rows, embed, "finite numbers of unit length")


def _norms(embeds):
    """(n,) lengths of rows (n, d), of a part of them at a time: as float32 they take twice the memory."""
    parts = (embeds[start : start + _PART] for start in range(0, len(embeds), _PART))
    norms = [np.linalg.norm(part.astype(np.float32), axis=1) for part in parts]
    return np.concatenate([np.zeros(0, dtype=np.float32), *norms])


def _raise_first(where, bad, columns, rows, name, expected):
    if bad.any():
        i = int(bad.argmax())
        value = columns[name][i]
        got = value.tolist() if name != "image_embed" and name != "text_embed" else None
        if got is None:
            got = f"length {np.linalg.norm(value.astype(np.float32)):.4g}"
        raise ValueError(
            f"{where}: row {rows[i]} (image_id {columns['image_id'][i]}): expected {name} with {expected}, got {got} "
            f"({int(bad.sum())} such rows); write the row again or mark it as not kept"
        )
