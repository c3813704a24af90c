"""The regions data set: what the offline teacher (proposals, LLaVA, CLIP) says about regions of training images.

Numbered Parquet shards, `regions-00000-of-00003.parquet`, one row a region (docs/data.md):

    image_id int64, file_name string, box [x0, y0, x1, y1] pixels, proposal_score float, caption string,
    image_embed (d) and text_embed (d), unit length, float16 or float32, clip_score float, kept bool

Kept rows are used, and of the others, where they are asked for, box and image embedding: a caption that failed the
filter says nothing against CLIP's view of the region itself (paper 1.4 filters what is clustered alone). Columns stay
flat, and embeddings in the precision of the file until an image is asked for. Embeddings describe the region of the
un-augmented image.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from decodetr.utils.files import committed, reading

logger = logging.getLogger(__name__)

COLUMNS = (
    "image_id", "file_name", "box", "proposal_score", "caption", "image_embed", "text_embed", "clip_score", "kept",
)  # fmt: skip
_READ = ("image_id", "box", "proposal_score", "image_embed", "text_embed", "clip_score", "kept")
_SHARD = re.compile(r"regions-(\d{5,})-of-(\d{5,})\.parquet")
_UNIT_TOLERANCE = 1e-2  # float16 keeps lengths to about 1e-3
_CHECKED_ROWS = 65536  # rows whose embeddings are in float32 at once while they are checked


class RegionTable:
    """
    The kept regions of a data set, by image. Made by `RegionTable.load`.

    `len(table)` is the number of its regions, `image_id in table` says if an image has any, `embedding_dim` is d.
    """

    def __init__(self, source: str | Path, columns: Mapping[str, np.ndarray]) -> None:
        columns = {"kept": np.ones(len(columns["box"]), dtype=bool), **columns}
        order = np.argsort(columns["image_id"], kind="stable")
        ids, starts = np.unique(columns["image_id"][order], return_index=True)
        ends = np.append(starts[1:], len(order))
        self.source = source
        self.embedding_dim = columns["image_embed"].shape[1]
        self._columns = {
            name: values if (order[1:] > order[:-1]).all() else values[order]  # shards are usually in order: no copy
            for name, values in columns.items()
            if name != "image_id"
        }
        self._spans = dict(zip(ids.tolist(), zip(starts.tolist(), ends.tolist())))

    def __len__(self) -> int:
        return len(self._columns["box"])

    def __contains__(self, image_id: int) -> bool:
        return int(image_id) in self._spans

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images that have kept regions, ascending."""
        return list(self._spans)

    def digest(self) -> str:
        """12 hexadecimal digits of a SHA-256 over ids, boxes, scores and one embedding in a hundred: tells one table
        from another without going through gigabytes. CLIP scores come from the embeddings."""
        digest = hashlib.sha256(json.dumps(list(self._spans.items())).encode())
        for name in ("box", "proposal_score", "clip_score"):
            digest.update(np.ascontiguousarray(self._columns[name]).tobytes())
        for name in ("image_embed", "text_embed"):
            digest.update(np.ascontiguousarray(self._columns[name][::100]).tobytes())
        return digest.hexdigest()[:12]

    def get(self, image_id: int) -> dict[str, np.ndarray]:
        """
        Kept regions of an image: "boxes" (R, 4) x0, y0, x1, y1 pixels, "image_embeds" and "text_embeds" (R, d) unit
        rows, "scores" (R,) CLIP scores, "proposal_scores" (R,); numpy float32 copies; R is 0 where there are none.
        """
        start, end = self._spans.get(int(image_id), (0, 0))
        names = {
            "boxes": "box",
            "image_embeds": "image_embed",
            "text_embeds": "text_embed",
            "scores": "clip_score",
            "proposal_scores": "proposal_score",
        }
        return {key: self._columns[column][start:end].astype(np.float32) for key, column in names.items()}

    def kept(self, image_id: int) -> np.ndarray:
        """(R,) bool: which regions of an image have a caption that passed the filter."""
        start, end = self._spans.get(int(image_id), (0, 0))
        return self._columns["kept"][start:end].copy()

    @classmethod
    def load(cls, folder_or_file: str | Path, unkept: bool = False) -> Self:
        """
        Read all shards of a folder, or one file.

        Args:
            unkept (bool): with the regions whose caption failed the filter, if they have a box, a score and an image
                embedding. Their text embeddings are zeros.

        Raises:
            FileNotFoundError: nothing there, or a shard of the `-of-` number is missing.
            ValueError: a shard cannot be read, or has wrong columns, boxes or embeddings. The message names shard and
                row.
        """
        source = Path(folder_or_file)
        with reading(source):
            return cls._load(source, unkept)

    @classmethod
    def _load(cls, source, unkept):
        parts, dim = [], None
        for file in _find_shards(source):
            part = _read_shard(file, unkept)
            if dim is None:
                dim, first = part["image_embed"].shape[1], file
            if part["image_embed"].shape[1] != dim:
                raise ValueError(
                    f"{file}: expected embeddings of length {dim} as in {first.name}, got "
                    f"{part['image_embed'].shape[1]}; the shards come from different encoders: build the regions again"
                )
            parts.append(part)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not len(columns["image_id"]):
            logger.warning("%s: no region is kept; nothing will be distilled", source)
        return cls(source, columns)


def captioned_regions(folder: str | Path, most: int) -> dict[str, Any]:
    """Kept regions of a folder with the words of their captions, which a `RegionTable` does not hold.

    Args:
        folder: of shards. most (int): at most so many, evenly drawn.

    Returns:
        dict: "image_embeds" and "text_embeds" (R, d) numpy float32, "captions" (list of R strings).
    """
    files = _find_shards(Path(folder))
    rows = [np.flatnonzero(pq.read_table(file, columns=["kept"])["kept"].to_numpy()) for file in files]
    step = max(-(-sum(map(len, rows)) // most), 1)
    found, first = {"image_embeds": [], "text_embeds": [], "captions": []}, 0
    for file, kept in zip(files, rows):
        mine, first = kept[-first % step :: step], first + len(kept)
        table = pq.read_table(file, columns=["image_embed", "text_embed", "caption"]).take(mine)
        for key, name in (("image_embeds", "image_embed"), ("text_embeds", "text_embed")):
            values = pc.list_flatten(table[name]).to_numpy().astype(np.float32)
            found[key].append(values.reshape(len(table), -1))
        found["captions"] += table["caption"].to_pylist()
    return {key: values if key == "captions" else np.concatenate(values) for key, values in found.items()}


def write_regions(
    folder: str | Path,
    rows: Iterable[Mapping[str, Any]] | dict[str, Sequence[Any] | np.ndarray],
    shard_size: int = 50_000,
    embedding_dtype: str = "float16",
    overwrite: bool = False,
) -> list[Path]:
    """
    Write the regions data set.

    Args:
        folder: made if needed.
        rows: an iterable of dicts, or a dict of columns, with the nine columns named above.
        shard_size (int): rows a shard.
        embedding_dtype ("float16" or "float32"): on disk.
        overwrite (bool): replace the shards that are already there.

    Returns:
        list[Path]: the shards. All of them get there together, or, after a broken run, none.

    Raises:
        FileExistsError: there are shards already. ValueError: a row is wrong (named by its number over all rows).
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    if embedding_dtype not in ("float16", "float32"):
        raise ValueError(f"embedding_dtype must be 'float16' or 'float32', got {embedding_dtype!r}")
    folder, existing = Path(folder), []
    with reading(folder):
        if folder.is_dir():
            existing = [file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name)]
    if existing and not overwrite:
        raise FileExistsError(
            f"{folder}: expected no regions, got {len(existing)} shards; choose another folder or overwrite"
        )
    rows = _rows_of_columns(rows) if isinstance(rows, dict) else iter(rows)
    written, start, dim = 0, 0, None
    with committed(folder, remove=existing) as staging:
        while chunk := list(islice(rows, shard_size)):
            columns = _columns_of_rows(chunk, start, dim, embedding_dtype)
            dim = columns["image_embed"].shape[1]
            pq.write_table(_to_arrow(columns), staging / f"{written}.parquet")
            written, start = written + 1, start + len(chunk)
        if not written:
            raise ValueError(
                "expected at least one region, got no rows; a data set without regions needs no regions file"
            )
        names = [f"regions-{i:05d}-of-{written:05d}.parquet" for i in range(written)]
        for i, name in enumerate(names):  # how many there are is known now
            (staging / f"{i}.parquet").rename(staging / name)
    return [folder / name for name in names]


def _rows_of_columns(columns):
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected columns of one length, got {lengths}")
    return (dict(zip(columns, values)) for values in zip(*columns.values()))


def _columns_of_rows(rows, start, dim, embedding_dtype):
    for number, row in enumerate(rows, start):
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(
                f"row {number}: expected the columns {', '.join(COLUMNS)}, got none of {missing}; add them"
            )
    dim = len(rows[0]["image_embed"]) if dim is None else dim
    for number, row in enumerate(rows, start):
        for name, length in (("box", 4), ("image_embed", dim), ("text_embed", dim)):
            if len(row[name]) != length:
                raise ValueError(f"row {number}: expected a {name} of {length} numbers, got {len(row[name])}")
    columns = {
        name: np.array([np.asarray(row[name], dtype=np.float32) for row in rows])
        for name in ("box", "image_embed", "text_embed", "proposal_score", "clip_score")
    }
    columns["image_id"] = np.array([row["image_id"] for row in rows], dtype=np.int64)
    columns["kept"] = np.array([bool(row["kept"]) for row in rows])
    _check_rows(f"row {start} and after", columns, np.arange(start, start + len(rows)))
    for name in ("image_embed", "text_embed"):
        columns[name] = columns[name].astype(embedding_dtype)
    for name in ("file_name", "caption"):
        columns[name] = [row[name] for row in rows]
    return columns


def _to_arrow(columns):
    arrays = {}
    for name in COLUMNS:
        values = columns[name]
        if isinstance(values, np.ndarray) and values.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        else:
            arrays[name] = pa.array(values, type=pa.string() if isinstance(values, list) else None)
    return pa.table(arrays)


def count_regions(source: str | Path) -> int:
    """Number of rows of a regions data set, a folder or file, of which only the ends of its files are read.

    Raises:
        FileNotFoundError, ValueError: see [`RegionTable.load`].
    """
    return sum(pq.read_metadata(file).num_rows for file in _find_shards(Path(source)))


def _find_shards(source):
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such regions folder or file; `decodetr pool` writes one")
    found = {}
    for file in sorted(source.iterdir()):
        match = _SHARD.fullmatch(file.name)
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


def _read_shard(file, unkept):
    """Checked columns of the kept rows of one shard, as numpy arrays. With `unkept` of the others after them."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            missing = [name for name in _READ if name not in names]
            if missing:
                raise ValueError(
                    f"{file}: expected the columns {', '.join(COLUMNS)}, got none of {missing} (there are {names}); "
                    "rename them or write the regions with write_regions"
                )
            table = parquet.read(columns=list(_READ))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file}: expected a whole Parquet shard, got {type(error).__name__}: {error}; it is cut off or damaged: "
            "write it again"
        ) from error
    kept = pc.fill_null(table["kept"], False).combine_chunks()
    columns = _columns_of_shard(file, table.filter(kept), np.flatnonzero(np.asarray(kept)), _READ[:-1])
    if columns["text_embed"].shape[1] != columns["image_embed"].shape[1]:
        raise ValueError(
            f"{file}: expected image_embed and text_embed of one length, got {columns['image_embed'].shape[1]} and "
            f"{columns['text_embed'].shape[1]}; both must come from one CLIP"
        )
    columns["kept"] = np.ones(len(columns["box"]), dtype=bool)
    if not unkept:
        return columns
    parts = [columns, _unkept(file, table, columns["image_embed"].shape[1])]
    parts = [part for part in parts if len(part["box"])] or parts[:1]  # an empty list has no width
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def _unkept(file, table, width):
    """Columns of the rows that are not kept and can be used all the same: with a box, a score and an image embedding
    of `width` numbers (0: as many as the first has). The others are left out, as those who marked them wanted."""
    names = ("image_id", "box", "proposal_score", "image_embed")
    there = pc.fill_null(pc.invert(table["kept"].combine_chunks()), False)
    for name in names:
        there = pc.and_(there, pc.is_valid(table[name]).combine_chunks())
    for name, length in (("box", 4), ("image_embed", width)):
        lengths = pc.fill_null(pc.list_value_length(table[name]).combine_chunks(), 0)
        length = length or next(iter(pc.filter(lengths, there).to_pylist()), 0)
        there = pc.and_(there, pc.equal(lengths, length))
    rows, table = np.flatnonzero(np.asarray(there)), table.filter(there)
    columns = {name: _to_numpy(file, name, table[name], rows) for name in names}
    box, norm = columns["box"], _norms(columns["image_embed"])
    usable = np.isfinite(box).all(axis=1) & (box[:, :2] < box[:, 2:]).all(axis=1)
    usable &= np.isfinite(columns["proposal_score"]) & (np.abs(norm - 1) < _UNIT_TOLERANCE)
    columns = {name: values[usable] for name, values in columns.items()}
    columns["image_id"] = columns["image_id"].astype(np.int64)
    return columns | {
        "text_embed": np.zeros_like(columns["image_embed"]),
        "clip_score": np.zeros(len(columns["box"]), dtype=np.float32),
        "kept": np.zeros(len(columns["box"]), dtype=bool),
    }


def _columns_of_shard(file, table, rows, names):
    """Checked columns of some rows, whose numbers in the file are `rows`."""
    columns = {name: _to_numpy(file, name, table[name], rows) for name in names}
    columns["image_id"] = columns["image_id"].astype(np.int64)
    _check_rows(file, columns, rows)
    return columns


def _to_numpy(file, name, column, rows):
    """One column without nulls: (n,), or (n, length) for lists, which must be of one length."""
    is_list = name in ("box", "image_embed", "text_embed")
    if is_list != (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise ValueError(f"{file}: expected {name} to be {'lists' if is_list else 'numbers'}, got {column.type}")
    if column.null_count:
        row = rows[int(np.argmax(np.asarray(column.is_null())))]
        raise ValueError(f"{file}: row {row}: expected a {name}, got null; fill it or mark the row as not kept")
    if not is_list:
        return column.to_numpy()
    lengths = np.asarray(pc.list_value_length(column))
    if pa.types.is_fixed_size_list(column.type):
        length = column.type.list_size
    else:
        length = int(lengths[0]) if len(lengths) else 0
    length = 4 if name == "box" else length
    if (lengths != length).any():
        i = int((lengths != length).argmax())
        raise ValueError(f"{file}: row {rows[i]}: expected a {name} of {length} numbers, got {lengths[i]}")
    return pc.list_flatten(column).to_numpy().reshape(len(lengths), length)


def _check_rows(where, columns, rows):
    """Values of some rows. `rows` are their numbers in the file."""
    for name in (name for name in ("box", "proposal_score", "clip_score") if name in columns):
        finite = np.isfinite(columns[name])
        _raise_first(
            where, ~(finite.all(axis=1) if finite.ndim == 2 else finite), columns, rows, name, "finite numbers"
        )
    box = columns["box"]
    swapped = (box[:, 0] >= box[:, 2]) | (box[:, 1] >= box[:, 3])
    _raise_first(where, swapped, columns, rows, "box", "x0 < x1 and y0 < y1 (corners in pixels, not x, y, w, h)")
    for name in (name for name in ("image_embed", "text_embed") if name in columns):
        bad = ~(np.abs(_norms(columns[name]) - 1) < _UNIT_TOLERANCE)
        _raise_first(where, bad, columns, rows, name, "finite numbers of unit length")


def _norms(embeds):
    """(n,) lengths of rows (n, d), of a part of them at a time: as float32 they take twice the memory."""
    parts = (embeds[start : start + _CHECKED_ROWS] for start in range(0, len(embeds), _CHECKED_ROWS))
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
