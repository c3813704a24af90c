"""Annotations of many images in flat arrays: a million of them take about 70 MB, which the workers of a DataLoader
share."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.image_entries import ImagePlaces
from decodetr.utils.boxes import corners_of

if TYPE_CHECKING:
    from typing import Any, Self


class AnnotationIndex(Mapping):
    """
    image_id -> list of annotations, a mapping over flat arrays.

    `index[image_id]` makes a list of dicts `{"id", "category" (index into the names), "bbox" [x, y, w, h] in pixels,
    "area", "iscrowd"}`. `index.arrays(image_id)` gives the same as arrays, without making dicts. Arguments: image ids
    in file order, and for each annotation the row of its image, its id, category index, bbox, area and iscrowd.
    """

    def __init__(
        self,
        image_ids: Sequence[int] | np.ndarray,
        image_rows: np.ndarray,
        ids: np.ndarray,
        categories: np.ndarray,
        boxes: np.ndarray,
        areas: np.ndarray,
        crowds: np.ndarray,
    ) -> None:
        order: Any = slice(None)
        if (image_rows[1:] < image_rows[:-1]).any():
            order = np.argsort(image_rows, kind="stable")
        self._places = ImagePlaces(image_ids)
        offsets = np.searchsorted(image_rows[order], np.arange(len(image_ids) + 1))
        self._starts, self._ends = offsets[:-1], offsets[1:]  # of the rows of each image in the columns
        self._columns = {
            "id": ids[order],
            "category": categories[order],
            "bbox": boxes[order],
            "area": areas[order],
            "iscrowd": crowds[order],
        }

    @classmethod
    def from_rows(cls, rows_by_image: Mapping[int, Sequence[Mapping[str, Any]]]) -> Self:
        """Of a mapping image_id -> list of dicts with "category", "bbox" and optionally "id", "area", "iscrowd"."""
        rows = [(image, row) for image, rows in enumerate(rows_by_image.values()) for row in rows]
        boxes = np.array([row["bbox"] for _, row in rows], dtype=np.float64).reshape(-1, 4)
        areas = [row["area"] if row.get("area") is not None else w * h for (_, row), (_, _, w, h) in zip(rows, boxes)]

        def integers(values):
            return np.array(list(values), dtype=np.int64)

        return cls(
            list(rows_by_image),
            integers(image for image, _ in rows),
            integers(row.get("id", number) for number, (_, row) in enumerate(rows, start=1)),
            integers(row["category"] for _, row in rows),
            boxes,
            np.array(areas, dtype=np.float64),
            integers(row.get("iscrowd", 0) for _, row in rows),
        )

    def arrays(self, image_id: int, crowds: bool = True) -> dict[str, np.ndarray]:
        """Arrays of one image: id, category, iscrowd (n,) int64, area (n,), bbox (n, 4) float64, xywh pixels.

        Args:
            crowds: with the crowds. Without them the arrays are copies.
        """
        row = self._places.get(image_id)
        if row is None:
            raise KeyError(image_id)
        start, end = self._starts[row], self._ends[row]
        arrays = {name: column[start:end] for name, column in self._columns.items()}
        if crowds:
            return arrays
        objects = arrays["iscrowd"] == 0
        return {name: column[objects] for name, column in arrays.items()}

    def corners(self, image_id: int, crowds: bool = True) -> np.ndarray:
        """Boxes of one image as corners, (n, 4) float64 x0, y0, x1, y1 in pixels, in the order of `arrays`."""
        return corners_of(self.arrays(image_id, crowds)["bbox"])

    def take(self, rows: np.ndarray, image_ids: Sequence[int] | np.ndarray) -> AnnotationIndex:
        """A new index of the annotations `rows` (positions in `column`). Their images are among `image_ids`."""
        new_row = ImagePlaces(image_ids).of(self._places.ids)
        columns = {name: self.column(name)[rows] for name in self._columns}
        return AnnotationIndex(
            image_ids, new_row[self.image_rows[rows]], columns["id"], columns["category"], columns["bbox"],
            columns["area"], columns["iscrowd"],
        )  # fmt: skip

    def column(self, name: str, crowds: bool = True) -> np.ndarray:
        """One column over all annotations, or all but crowds, ordered by image: id, category, bbox, area, iscrowd."""
        column = self._columns[name]
        counts = self._ends - self._starts
        if counts.sum() < len(column):  # of some images
            column = column[np.repeat(self._ends - np.cumsum(counts), counts) + np.arange(counts.sum())]
        return column if crowds else column[self.column("iscrowd") == 0]

    @property
    def image_rows(self) -> np.ndarray:
        """(n,) int64: of each annotation in the order of `column` the row of its image."""
        return np.repeat(np.arange(len(self)), self._ends - self._starts)

    @property
    def objects(self) -> np.ndarray:
        """(images,) int64: how many annotations each image has, without crowds."""
        return np.bincount(self.image_rows[self.column("iscrowd") == 0], minlength=len(self))

    def of_images(self, rows: np.ndarray) -> AnnotationIndex:
        """A new index of the images `rows` (n,), which shares the annotations with this one."""
        index = copy.copy(self)
        index._places = ImagePlaces(self._places.ids[rows])
        index._starts, index._ends = self._starts[rows], self._ends[rows]
        return index

    def __getitem__(self, image_id: int) -> list[dict[str, Any]]:
        columns = [column.tolist() for column in self.arrays(image_id).values()]
        return [dict(zip(self._columns, values)) for values in zip(*columns)]

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, int) and self._places.get(image_id) is not None

    def __iter__(self) -> Iterator[int]:
        return iter(self._places.ids.tolist())

    def __len__(self) -> int:
        return len(self._places)
