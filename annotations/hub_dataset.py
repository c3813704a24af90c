"""Object detection data sets of the `datasets` library, local or from the Hub, read into `CocoAnnotations`.

Their form is that of the Hub's detection sets (CPPE-5 and others): a column `image` and a column `objects` with `bbox`
and `category` (or `categories`, `label`, `labels`). Images stay in the data set and are decoded when asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco import AnnotationIndex, CocoAnnotations
from decodetr.annotations.coco_checks import is_name
from decodetr.annotations.findings import FirstError
from decodetr.annotations.formats import BOX_FORMATS
from decodetr.annotations.object_area import DONE, object_area
from decodetr.utils.boxes import centers_to_sides, in_pixels, sides_of
from decodetr.utils.excerpts import short
from decodetr.utils.files import regular_file
from decodetr.utils.images import MAX_BYTES, image_header, is_image, upright_size
from decodetr.utils.paths import allow_outside, inside

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    import datasets

    from decodetr.annotations.coco import ImageOfDataset
    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)

_COLUMNS = ("image_id", "width", "height", "objects")
_CATEGORY = ("category", "categories", "category_id", "label", "labels")


class StoredImage:
    """An image of a data set: `source()` gives its bytes or its path. The text is its place."""

    def __init__(
        self, dataset: datasets.Dataset, row: int, name: str, folders: Sequence[str | Path] | None = None
    ) -> None:
        self.dataset, self.row, self.name, self.folders = dataset, row, name, folders

    def source(self) -> bytes | str:
        """Bytes, or the path of a file."""
        return image_source(self.dataset[self.row]["image"], self, self.folders)

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}"


def read_dataset(
    dataset: datasets.Dataset,
    name: str,
    names: list[str] | None = None,
    box_format: str = "coco",
    findings: Findings | None = None,
    folders: Sequence[str | Path] | None = None,
) -> CocoAnnotations:
    """
    A `datasets.Dataset` as annotations.

    Args:
        dataset: with the columns `image` and `objects`, and optionally `image_id` (integers), `width`, `height`.
        name (str): for messages.
        names (list[str], optional): of the categories, where the column is no `ClassLabel` but integers. Text
            categories need none.
        box_format (str): one of BOX_FORMATS.
        findings (Findings, optional): is told of what cannot be used, which is left out then. Default: the first such
            thing is an error, and warnings are logged.
        folders (list, optional): paths of images must lead into one of these. Of a data set that Python made, they may
            lead anywhere.

    Returns:
        CocoAnnotations: category ids are the class numbers. Image ids are `image_id`, or the row's number from 1. File
        names are those of [`picture_name`].

    Raises:
        ValueError: a column is missing or holds something else. The message names data set and row.
    """
    told = FirstError() if findings is None else findings
    dataset = dataset.with_format(None)  # one that was saved with a format gives tensors or tables, or some columns
    reader = RowReader(dataset, name, names, box_format)
    images = dataset.select_columns(["image"]).cast_column("image", undecoded_image())
    rest = dataset.select_columns([column for column in _COLUMNS if column in dataset.column_names])
    ids = _image_ids(rest, name, told)
    places = picture_paths(dataset)
    entries, rows, boxes, labels, areas, crowds = [], [], [], [], [], []
    for row, values in enumerate(rest):
        stored = StoredImage(images, row, name, folders)
        try:
            width, height, declared = image_size(values, stored)
        except (OSError, ValueError) as error:
            told.add("error", "images that cannot be read", str(error), "left out with their objects")
            continue
        objects = reader.read(values["objects"], width, height, f"{name}, row {row}", told)
        rows += [len(entries)] * len(objects["bbox"])
        entry = {
            "image_id": ids[row],
            "file_name": picture_name(places[row], row),
            "width": width,
            "height": height,
            "path": stored,
        }
        entries.append({**entry, "size_declared": declared})
        boxes.append(objects["bbox"])
        labels += objects["names"]
        areas += objects["area"]
        crowds += objects["iscrowd"]
    if findings is None:
        told.warn(logger, name)
    names = sorted(set(labels)) if reader.names is None else reader.names
    number_of = {label: number for number, label in enumerate(names)}
    index = AnnotationIndex(
        [entry["image_id"] for entry in entries],
        np.array(rows, dtype=np.int64),
        np.arange(1, len(rows) + 1),
        np.array([number_of[label] for label in labels], dtype=np.int64),
        np.concatenate([np.zeros((0, 4)), *boxes]),
        np.array(areas, dtype=np.float64),
        np.array(crowds, dtype=np.int64),
    )
    return CocoAnnotations(name, None, names, list(range(len(names))), entries, index)


class RowReader:
    """
    The form of a data set, checked, and what reads the objects of its rows. Arguments as of [`read_dataset`]. The data
    set may also be a `datasets.IterableDataset`.

    Attributes:
        names (list[str]): of the categories. None where they are texts and no names were given.
    """

    def __init__(
        self,
        dataset: datasets.Dataset | datasets.IterableDataset,
        name: str,
        names: list[str] | None = None,
        box_format: str = "coco",
    ) -> None:
        import datasets

        if box_format not in BOX_FORMATS:
            raise ValueError(f"box format must be one of {', '.join(BOX_FORMATS)}, got {box_format!r}")
        if missing := {"image", "objects"} - set(dataset.column_names):
            raise ValueError(
                f"{name}: expected the columns image and objects, {sorted(missing)} missing; it has "
                f"{', '.join(dataset.column_names)}. Rename them (`dataset.rename_column`) and save it"
            )
        if not isinstance(dataset.features["image"], datasets.Image):
            raise ValueError(f"{name}: expected images under image, got {dataset.features['image']}")
        self.box_format = box_format
        self._key, self.names, self._name_of = _categories(dataset.features["objects"], name, names)

    def read(
        self,
        objects: dict[str, list] | list[dict[str, Any]] | None,
        width: int,
        height: int,
        where: str,
        findings: Findings | None = None,
    ) -> dict[str, Any]:
        """
        The objects of one row: bbox (n, 4) float64 x, y, w, h in pixels, and the lists names, area and iscrowd.

        Args:
            objects: the column's value. A row without objects may have none. width, height (int): of the image.
            where (str): the row, for messages.
            findings (Findings, optional): is told of objects that cannot be used, which are left out then. Default:
                the first is a ValueError.
        """
        told = FirstError() if findings is None else findings
        columns = _columns(objects, where, told)
        boxes, labels = columns.get("bbox") or [], columns.get(self._key) or []
        if len(labels) != len(boxes):
            message = f"{where}: expected a {self._key} for each of the {len(boxes)} boxes, got {len(labels)}"
            told.add("error", "rows with more or fewer categories than boxes", message, "their objects are left out")
            boxes, labels = [], []
        written = boxes
        boxes, keep = _boxes(written, self.box_format, width, height, where, told)
        for place, label in enumerate(labels):
            if not (is_name(label) if self._name_of is None else label in self._name_of):
                expected = "a text" if self._name_of is None else f"one of the {len(self.names)} categories"
                message = f"{where}: expected {expected}, got {short(label)}; correct the row, or give all names "
                told.add("error", "categories that are none", message + "(--class-names)", "left out")
                keep[place] = False
        kept = np.flatnonzero(keep).tolist()
        areas = _areas(columns.get("area"), boxes, kept, where, told)
        if self.box_format != "coco":
            pixels = width * height if self.box_format == "yolo" else None
            areas = _areas_of_boxes(areas, [written[place] for place in kept], boxes[kept], pixels, where, told)
        return {
            "bbox": boxes[kept],
            "names": [labels[place] if self._name_of is None else self._name_of[labels[place]] for place in kept],
            "area": areas,
            "iscrowd": _crowds(columns.get("iscrowd"), len(boxes), kept, where, told),
        }


def picture_paths(dataset: datasets.Dataset) -> list[str | None]:
    """The path that each row has for its picture, or None, read without the pictures themselves."""
    images = dataset.with_format(None).select_columns(["image"]).cast_column("image", undecoded_image())
    return images.flatten()["image.path"][:]


def undecoded_image() -> datasets.Image:
    """The feature of images as bytes, for the one opener of pictures (`utils.images`)."""
    import datasets

    return datasets.Image(decode=False)


def picture_name(path: str | None, row: int) -> str:
    """What a picture of a data set is called: the name of the file that it is or was, without folders, which is the
    same wherever the data lie; where there is none, the number of the row, from 0.

    Args:
        path: of the undecoded image, also one inside an archive (zip://a.jpg::train.zip).
    """
    name = (path or "").partition("::")[0].replace("\\", "/").rpartition("/")[2]
    return name if is_image(name) else f"{row}"


def image_source(value: Any, where: object, folders: Sequence[str | Path] | None = None) -> bytes | str:
    """What [`open_image`] takes, of the value of an undecoded image: its bytes, or the path of a file.

    Args:
        value (dict): bytes and path. where: data set and row. folders: as in [`read_dataset`].

    Raises:
        ValueError: it has neither, or its path leads out of the folders or to another machine.
    """
    if not isinstance(value, dict) or (value.get("bytes") is None and value.get("path") is None):
        raise ValueError(f"{where}: expected an image, got {short(value)}; leave the row out or restore its image")
    if value.get("bytes") is not None:
        return value["bytes"]
    path = value["path"]
    if "://" in path:
        return _read_url(path, where, folders)
    return path if folders is None else inside(folders, path, where)


def _read_url(url, where, folders):
    """Bytes of a file of a streamed data set: of the Hub, or in an archive of it or of its folder."""
    import fsspec

    *_, place = url.split("::")
    if "://" not in place or place.startswith("file://"):
        file = place.removeprefix("file://")
        file = regular_file(inside(folders, file, where) if folders is not None else file, MAX_BYTES)
        if "::" not in url:
            return file.read_bytes()
    elif not place.startswith("hf://") and not allow_outside():
        raise ValueError(f"{where}: {url} leads to another machine; if you trust this data set, give --allow-outside")
    try:
        with fsspec.open(url, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"{where}: {url} cannot be read: {type(error).__name__}: {error}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{where}: {url} has more than the {MAX_BYTES:,} bytes that are read at most")
    return content


def _categories(objects, name, names):
    """(key in objects, names, {value: name}) of the feature `objects`. The last two None for texts without names."""
    import datasets

    fields = objects if isinstance(objects, dict) else getattr(objects, "feature", None)
    if (
        not isinstance(fields, dict)
        or "bbox" not in fields
        or not (key := next((k for k in _CATEGORY if k in fields), None))
    ):
        raise ValueError(
            f"{name}: expected objects with bbox and category, got {short(fields)}; see docs/data.md for the form"
        )
    feature = getattr(fields[key], "feature", fields[key])
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
    elif feature.dtype == "string" and names is None:
        return key, None, None
    elif names is None:
        raise ValueError(
            f"{name}: objects.{key} are numbers without names; give --class-names 'cat,dog,...' in their order"
        )
    if len(set(names)) < len(names) or not all(map(is_name, names)):
        raise ValueError(f"{name}: expected different names, none of them blank, got {short(names)}")
    return key, names, {label: label for label in names} if feature.dtype == "string" else dict(enumerate(names))


def _image_ids(dataset, name, findings):
    if "image_id" not in dataset.column_names:
        return list(range(1, len(dataset) + 1))
    ids = dataset["image_id"][:]
    if all(type(value) is int for value in ids) and len(set(ids)) == len(ids):
        return ids
    seen = set()
    for row, value in enumerate(ids):
        if type(value) is not int or value in seen:
            message = f"{name}, row {row}: expected a different integer image_id in every row, got {short(value)}; "
            message += "drop the column to number them"
            findings.add("error", "image ids that repeat or are no integers", message, "all are numbered")
        seen.add(value)
    return list(range(1, len(ids) + 1))


def _columns(objects, where, findings):
    """{key: list} of objects stored either way: a dict of lists, or a list of dicts. Empty where there are none."""
    if objects is None:
        return {}
    if isinstance(objects, list):
        objects = [entry or {} for entry in objects]
        keys = dict.fromkeys(key for entry in objects for key in entry)
        return {key: [entry.get(key) for entry in objects] for key in keys}
    if not isinstance(objects, dict):
        message = f"{where}: expected objects, got {short(objects)}"
        findings.add("error", "rows whose objects are none", message, "left out")
        return {}
    return objects


def _areas(areas, boxes, kept, where, findings):
    """Areas of the boxes that are kept, that of the box where there is none."""
    of_boxes = (boxes[:, 2] * boxes[:, 3]).tolist()
    if areas and len(areas) != len(boxes):
        message = f"{where}: expected an area for each of the {len(boxes)} boxes, got {len(areas)}"
        findings.add("warning", "rows with more or fewer areas than boxes", message, "those of the boxes")
        areas = None
    for place in kept if areas else ():
        area = areas[place]
        if area is not None and not (type(area) in (int, float) and 0 <= area < np.inf):
            message = f"{where}: expected an area of 0 or more, got {short(area)}; correct it"
            findings.add("error", "areas that are no numbers of 0 or more", message, "that of the box")
        elif area is not None:
            of_boxes[place] = area
    return [of_boxes[place] for place in kept]


def _areas_of_boxes(areas, written, boxes, pixels, where, findings):
    """Areas, put right where they are of the boxes as they are written, not as they are read."""
    mended = []
    for given, *parts in zip(areas, written, boxes.tolist()):
        area, wrong = object_area(given, *parts, pixels)
        if wrong:
            message = f"{where}: {given:g} of {short(parts[1])}"
            findings.add("warning", wrong, message, DONE.get(wrong, "that of the box"))
        mended.append(area)
    return mended


def _crowds(crowds, count, kept, where, findings):
    """iscrowd of the boxes that are kept, 0 where there is none."""
    crowds = crowds or [0] * count
    if len(crowds) != count:
        message = f"{where}: expected iscrowd for each of the {count} boxes, got {len(crowds)}"
        findings.add("error", "rows with more or fewer iscrowd than boxes", message, "0")
        return [0] * len(kept)
    for place in kept:
        if crowds[place] not in (0, 1, None):
            message = f"{where}: expected iscrowd 0 or 1, got {short(crowds[place])}; correct it"
            findings.add("error", "iscrowd that is neither 0 nor 1", message, "0")
    return [int(crowds[place] == 1) for place in kept]


def image_size(values: dict[str, Any], stored: ImageOfDataset) -> tuple[int, int, bool]:
    """(width, height, whether the row says so) in pixels: else that of the image as EXIF turns it.

    Raises:
        FileNotFoundError, ValueError: the image cannot be read.
    """
    if values.get("width") and values.get("height"):
        return int(values["width"]), int(values["height"]), True
    return *upright_size(*image_header(stored.source(), stored)), False


def _boxes(boxes, box_format, width, height, where, findings):
    """(n, 4) x, y, w, h in pixels, and (n,) whether a box can be used."""
    keep = np.ones(len(boxes), dtype=bool)
    for place, box in enumerate(boxes):
        if not (isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)):
            message = f"{where}: expected boxes of four numbers, got {short(box)}"
            findings.add("error", "boxes that are not four numbers", message, "left out")
            keep[place] = False
    boxes = [box if usable else [0.0] * 4 for box, usable in zip(boxes, keep)]
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if box_format == "pascal_voc":
        boxes = sides_of(boxes)
    elif box_format == "yolo":
        boxes = in_pixels(centers_to_sides(boxes), width, height)
    for place in np.flatnonzero(~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1)):
        message = (
            f"{where}: expected finite boxes without negative size, got {boxes[place].tolist()} as x, y, w, h; is "
            f"--box-format {box_format} right? Others are {', '.join(sorted(set(BOX_FORMATS) - {box_format}))}"
        )
        findings.add("error", "boxes of negative or infinite size", message, "left out")
        keep[place] = False
    return boxes, keep
