"""The regions data set: what the offline teacher (proposals, LLaVA, CLIP) says about regions of training images.

Numbered Parquet shards, `regions-00000-of-00003.parquet`, one row a region (docs/data.md):

    image_id int64, file_name string, box [x0, y0, x1, y1] pixels, proposal_score float, caption string,
    image_embed (d) and text_embed (d), unit length, float16 or float32, clip_score float, kept bool

Kept rows are used, and of the others, where they are asked for, box and image embedding: a caption that failed the
filter says nothing against CLIP's view of the region itself (paper 1.4 filters what is clustered alone). Embeddings
describe the region of the un-augmented image.

Parquet cannot be read at random. So the first who loads the shards checks them (region_shards.py) and writes them once
as Arrow files with an index by image (region_store.py), which are mapped into memory, not read into it.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from decodetr.annotations.image_entries import ImageEntries
from decodetr.processing.embedding_columns import embedding_array
from decodetr.processing.region_names import alike, other_pictures
from decodetr.processing.region_shards import (
    COLUMNS,
    SHARD,
    bytes_of_rows,
    check_rows,
    column_types,
    find_shards,
    names_of_images,
    read_parts,
    texts_of,
)
from decodetr.processing.region_store import ALL, KEPT, SCATTERED, RegionIndex, RegionStore, RegionWriter, write_index
from decodetr.utils.files import committed, file_state, reading
from decodetr.utils.made_once import made_once

logger = logging.getLogger(__name__)

_FORM = "regions-2"  # of what is made of the shards: another number where it changes
_NAMES = {
    "boxes": "box",
    "image_embeds": "image_embed",
    "text_embeds": "text_embed",
    "scores": "clip_score",
    "proposal_scores": "proposal_score",
}


class RegionTable:
    """
    The kept regions of a data set, by image. Made by `RegionTable.load`.

    Regions stay on the disk, and processes share what the system keeps of them in memory. Pickled, a table is a path.
    `len(table)` is the number of its regions, `image_id in table` says if an image has any, `embedding_dim` is d.

    Args:
        source: where the regions are from, for messages. folder (Path): of a [`RegionStore`] with its index.
        unkept (bool): with regions whose caption failed the filter.
    """

    def __init__(self, source: str | Path, folder: Path, unkept: bool = False) -> None:
        self.source = source
        self._index = RegionIndex(folder, ALL if unkept else KEPT)
        self._store = RegionStore(folder)
        self.embedding_dim = self._index.embedding_dim

    def __len__(self) -> int:
        return len(self._index.rows)

    def __contains__(self, image_id: int) -> bool:
        return len(self._index.rows_of(int(image_id))) > 0

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images that have kept regions, ascending."""
        return self._index.ids.tolist()

    def check_images(self, images: ImageEntries, where: object) -> None:
        """
        Whether these are regions of some images: of their ids, and of files of their names where both are known.

        Args:
            images: of `CocoAnnotations`. where: the annotation file, for the message.

        Raises:
            ValueError: no image has any, or the regions of an id are of another file.
        """
        ids, names = images.columns["image_id"], images.columns["file_name"]
        with_regions = np.flatnonzero(np.isin(ids, self._index.ids)).tolist()
        if not with_regions:
            raise ValueError(
                f"{self.source}: expected regions of images of {where}, got none with an image_id of it; build the "
                "regions from the same annotation file"
            )
        named = ((int(ids[row]), self._index.name_of(int(ids[row])), names[row]) for row in with_regions)
        pairs = ((image_id, there, here) for image_id, there, here in named if there and here)
        other = other_pictures(pairs, lambda: self._index.names, lambda: names)
        if other:
            count = f" ({len(other)} of {len(with_regions)} images have those of another picture)"
            raise ValueError(self._of_another_picture(*other[0], where, count))

    def check_image(self, image_id: int, file_name: str, where: object) -> None:
        """The same of one image of a stream, which has regions or not. where: its place, for the message.

        Raises:
            ValueError: its regions are of another file.
        """
        there = self._index.name_of(image_id) if image_id in self else None
        if there and not alike(there, file_name):
            raise ValueError(self._of_another_picture(image_id, there, file_name, where))

    def _of_another_picture(self, image_id, there, here, where, count=""):
        return (
            f"{self.source}: image_id {image_id}: expected regions of {here}, as {where} has it, got those of "
            f"{there}{count}: images came or went since the regions were built, or they are of another form of the "
            "data. Build them again from these data (`decodetr pool build` with another --output, or --overwrite)"
        )

    def digest(self) -> str:
        """12 hexadecimal digits of a SHA-256 over ids, boxes, scores and one embedding in a hundred: tells one table
        from another. CLIP scores come from the embeddings."""
        return self._index.digest

    def get(self, image_id: int) -> dict[str, np.ndarray]:
        """
        Kept regions of an image: "boxes" (R, 4) x0, y0, x1, y1 pixels, "image_embeds" and "text_embeds" (R, d) unit
        rows, "scores" (R,) CLIP scores, "proposal_scores" (R,); numpy float32 copies; R is 0 where there are none.
        """
        return {key: values.astype(np.float32) for key, values in self._read(image_id, _NAMES).items()}

    def boxes(self, image_id: int) -> np.ndarray:
        """The boxes of `get` alone, (R, 4) float32, which is faster."""
        return self._read(image_id, ("boxes",))["boxes"].astype(np.float32)

    def kept(self, image_id: int) -> np.ndarray:
        """(R,) bool: which regions of an image have a caption that passed the filter."""
        rows = self._index.rows_of(int(image_id))
        return self._store.read(rows, ("kept",))["kept"].astype(bool) if len(rows) else np.zeros(0, dtype=bool)

    def rows(self, step: int) -> dict[str, np.ndarray]:
        """Every `step`-th region, in the order of the shards: "image_embed", "text_embed" (R, d) float32."""
        rows, names = np.sort(self._index.rows)[::step], ("image_embed", "text_embed")
        parts = [self._store.read(rows[i : i + SCATTERED], names) for i in range(0, len(rows), SCATTERED)]
        empty = np.zeros((0, self.embedding_dim), dtype=np.float32)
        return {name: np.concatenate([empty, *(part[name] for part in parts)], dtype=np.float32) for name in names}

    def _read(self, image_id, keys):
        rows = self._index.rows_of(int(image_id))
        if not len(rows):
            shapes = {"boxes": (0, 4), "image_embeds": (0, self.embedding_dim), "text_embeds": (0, self.embedding_dim)}
            return {key: np.zeros(shapes.get(key, (0,)), dtype=np.float32) for key in keys}
        found = self._store.read(rows, [_NAMES[key] for key in keys])
        return {key: found[_NAMES[key]] for key in keys}

    @classmethod
    def load(cls, folder_or_file: str | Path, unkept: bool = False) -> Self:
        """
        All shards of a folder, or one file. The first time they are checked, and written to the cache of data sets
        (HF_DATASETS_CACHE, or HF_HOME/datasets) as they are read in training. Later they are found there, unless a
        shard has changed.

        Args:
            unkept (bool): with the regions whose caption failed the filter, if they have a box, a score and an image
                embedding. Their text embeddings are zeros.

        Raises:
            FileNotFoundError: nothing there, or a shard of the `-of-` number is missing.
            ValueError: a shard cannot be read, or has wrong columns, boxes or embeddings. The message names shard and
                row.
            OSError: the cache has no room, or cannot be written.
        """
        source = Path(folder_or_file)
        with reading(source):
            files = find_shards(source)
            folder = made_once(
                _FORM, source, [file_state(file) for file in files], partial(_needed, files), partial(_make, files)
            )
            table = cls(source, folder, unkept)
        if not len(table):
            logger.warning("%s: no region is kept; nothing will be distilled", source)
        return table

    @classmethod
    def of_columns(cls, source: str | Path, folder: str | Path, parts: Iterable[Mapping[str, np.ndarray]]) -> Self:
        """
        A table of arrays, which is written to `folder`.

        Args:
            source: for messages. folder: made if needed. parts (iterable of dict): some rows each, with "image_id"
                (n,), "box" (n, 4), "image_embed" and "text_embed" (n, d), "proposal_score", "clip_score" (n,) and, if
                not all are kept, "kept" (n,).
        """
        with committed(folder) as staging:
            write_part(staging / "0.arrow", parts)
            write_index(staging, staging)
        return cls(source, Path(folder), unkept=True)


def write_part(file: Path, parts: Iterable[Mapping[str, np.ndarray]]) -> None:
    """An Arrow file of a [`RegionStore`] from what [`RegionTable.of_columns`] takes."""
    with RegionWriter(file) as writer:
        for part in parts:
            writer.write({"kept": np.ones(len(part["box"]), dtype=bool), **part})


def _needed(files):
    """Bytes of what `_make` writes: the rows, where they are, twice, and what Arrow adds."""
    return (
        int(1.01 * bytes_of_rows(files, column_types(files)))
        + 48 * sum(pq.read_metadata(file).num_rows for file in files)
        + sum(_bytes_of_names(file) for file in files)
        + (1 << 20)
    )


def _bytes_of_names(file):
    """Bytes that the names of files take in a shard, at most."""
    shard = pq.read_metadata(file)
    groups = (shard.row_group(number) for number in range(shard.num_row_groups))
    columns = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "file_name")


def _make(files, staging):
    """Check all shards, and write them as they are read."""
    types, dim, shards, count = column_types(files), None, [], 0
    with RegionWriter(staging / "regions.arrow") as writer:
        for file in files:
            shards.append(count)
            for part in read_parts(file, types):
                if dim is None:
                    dim, first = part["image_embed"].shape[1], file
                if part["image_embed"].shape[1] != dim:
                    raise ValueError(
                        f"{file}: expected embeddings of length {dim} as in {first.name}, got "
                        f"{part['image_embed'].shape[1]}; the shards come from different encoders: build the regions "
                        "again"
                    )
                writer.write(part)
                count += len(part["box"])
    pa.default_memory_pool().release_unused()  # which Arrow would keep for the next file
    write_index(staging, staging, shards, names_of_images(files))


def captioned_regions(folder: str | Path, most: int) -> dict[str, Any]:
    """Kept regions of a folder with the words of their captions, which a `RegionTable` does not hold.

    Args:
        folder: of shards. most (int): at most so many, evenly drawn.

    Returns:
        dict: "image_embeds" and "text_embeds" (R, d) numpy float32, "captions" (list of R strings).
    """
    table, files, captions = RegionTable.load(folder), find_shards(Path(folder)), []
    step = max(-(-len(table) // most), 1)
    for file in files:
        part = pq.read_table(file, columns=["kept", "caption"])
        captions += part["caption"].filter(pc.fill_null(part["kept"], False)).to_pylist()
    found = table.rows(step)
    return {"image_embeds": found["image_embed"], "text_embeds": found["text_embed"], "captions": captions[::step]}


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
            existing = [file.name for file in folder.iterdir() if SHARD.fullmatch(file.name)]
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
            table = _to_arrow(columns)
            pq.write_table(table, staging / f"{written}.parquet", use_dictionary=texts_of(table))
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
    check_rows(f"row {start} and after", columns, np.arange(start, start + len(rows)))
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
            arrays[name] = embedding_array(values)
        else:
            arrays[name] = pa.array(values, type=pa.string() if isinstance(values, list) else None)
    return pa.table(arrays)


def count_regions(source: str | Path) -> int:
    """Number of rows of a regions data set, a folder or file, of which only the ends of its files are read.

    Raises:
        FileNotFoundError, ValueError: see [`RegionTable.load`].
    """
    return sum(pq.read_metadata(file).num_rows for file in find_shards(Path(source)))
