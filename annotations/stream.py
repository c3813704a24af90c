"""AnnotationStream: a data set of `datasets` that is streamed, read row by row, never held or listed whole."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco import read_annotated
from decodetr.annotations.hub_dataset import RowReader, image_size, image_source, picture_name, undecoded_image

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import datasets
    import PIL.Image


class AnnotationStream:
    """
    A `datasets.IterableDataset` as a stream of annotated images: what `CocoAnnotations` is to data read whole.

    Args:
        dataset: with the columns of [`read_dataset`]. Without the column `image_id`, ids are the rows' numbers from 1.
            Every reader must then go through all shards to count them.
        name (str): for messages.
        class_names, box_format, folders: as `names`, `box_format` and `folders` of [`read_dataset`].

    Attributes:
        names (list[str]): of the categories. None where they are texts that nothing declares.

    Raises:
        ValueError: a column is missing or holds something else.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        name: str,
        class_names: list[str] | None = None,
        box_format: str = "coco",
        folders: Sequence[str | Path] | None = None,
    ) -> None:
        import datasets

        if dataset.features is None:
            raise ValueError(
                f"{name}: expected a stream that declares its columns, got one without features; give them with "
                "`dataset.cast(datasets.Features(...))`, or train without streaming"
            )
        self.name, self._folders = name, folders
        self._reader = RowReader(dataset, name, class_names, box_format)
        self.names = self._reader.names
        columns = [c for c in ("image", "image_id", "width", "height", "objects") if c in dataset.column_names]
        self._has_ids = "image_id" in columns
        dataset = dataset.with_format(None).select_columns(columns).cast_column("image", undecoded_image())
        count = dataset.num_shards if self._has_ids else 1
        parts = [(number, dataset.shard(count, number) if count > 1 else dataset) for number in range(count)]
        # As a generator, because only within one shard is the place of a row the same for all readers.
        self._rows = datasets.IterableDataset.from_generator(_numbered_rows, gen_kwargs={"parts": parts})
        self._kept: set[str] | None = None

    def select(self, names: Collection[str]) -> AnnotationStream:
        """
        A stream with the annotations of `names` only. All images stay. As `CocoAnnotations.select`.

        Raises:
            ValueError: names are declared, and these are not among them.
        """
        stream = object.__new__(AnnotationStream)
        stream.__dict__.update(self.__dict__)
        stream.names = [name for name in dict.fromkeys(names) if self.names is None or name in self.names]
        if not stream.names:
            raise ValueError(
                f"{self.name}: expected categories such as {list(names)[:3]}, got {self.names[:3]}; give the names "
                "split that belongs to this data set"
            )
        stream._kept = set(stream.names)
        return stream

    def rows(self, order: list[int], shuffle_buffer: int, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        """
        Rows of one epoch that are `reader`'s out of `readers`, for `read`.

        Args:
            order (list[int]): seed of the shuffle. The same for all readers.
            shuffle_buffer (int): rows to draw from. 0 leaves rows and shards in their order.
        """
        from datasets.distributed import split_dataset_by_node

        rows = self._rows
        if shuffle_buffer:
            rows = rows.shuffle(generator=np.random.default_rng(order), buffer_size=shuffle_buffer)
        if readers > 1:
            by_shard = rows.num_shards >= readers
            rows = rows.shard(readers, reader) if by_shard else split_dataset_by_node(rows, reader, readers)
        for batch in rows.iter(batch_size=1):  # a plain loop would split once more between workers
            yield {column: values[0] for column, values in batch.items()}

    def place(self, row: dict[str, Any]) -> str:
        """The row's place in the data set, for messages."""
        shard = f", shard {row['shard']}" if self._rows.num_shards > 1 else ""
        return f"{self.name}{shard}, row {row['row']}"

    def file_name(self, row: dict[str, Any]) -> str:
        """The name of the row's picture, as [`picture_name`] has it."""
        return picture_name((row["values"]["image"] or {}).get("path"), row["row"])

    def read(self, row: dict[str, Any]) -> tuple[PIL.Image.Image, int, list[str], dict[str, np.ndarray]]:
        """
        One row of `rows`: (PIL.Image, image id, names of its n objects, {"bbox": (n, 4) float64 x, y, w, h in pixels,
        "iscrowd": (n,) int64}).

        Raises:
            ValueError, FileNotFoundError: what is wrong with the row. The message names it.
        """
        values, place = row["values"], self.place(row)
        image_id = values["image_id"] if self._has_ids else row["row"] + 1
        if type(image_id) is not int:
            raise ValueError(
                f"{place}: expected an integer image_id, got {image_id!r}; correct it, or drop the column: rows are "
                "numbered then"
            )
        stored = _StreamedImage(values["image"], place, self._folders)
        width, height, declared = image_size(values, stored)
        found = self._reader.read(values["objects"], width, height, place)
        entry = {"path": stored, "image_id": image_id, "width": width, "height": height, "size_declared": declared}
        image = read_annotated(entry, self.name)
        keep = [self._kept is None or name in self._kept for name in found["names"]]
        names = list(itertools.compress(found["names"], keep))
        crowds = np.array(found["iscrowd"], dtype=np.int64)
        return image, image_id, names, {"bbox": found["bbox"][keep], "iscrowd": crowds[keep]}


def _numbered_rows(parts):
    for shard, part in parts:
        for row, batch in enumerate(part.iter(batch_size=1)):
            yield {"shard": shard, "row": row, "values": {column: values[0] for column, values in batch.items()}}


class _StreamedImage:
    """An image in a row. `source()` gives its bytes or its path, as that of `StoredImage` does."""

    def __init__(self, value: Any, where: str, folders: Sequence[str | Path] | None) -> None:
        self.value, self.where, self.folders = value, where, folders

    def source(self) -> bytes | str:
        """Bytes, which are read once, or the path of a file."""
        found = image_source(self.value, self.where, self.folders)
        if isinstance(found, bytes):
            self.value = {"bytes": found}
        return found

    def __str__(self) -> str:
        return self.where
