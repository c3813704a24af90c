"""Object detection data sets of the `datasets` library, local or from the Hub, read into `CocoAnnotations`.

Their form is that of the Hub's detection sets (CPPE-5 and others): a column `image` and a column `objects` with `bbox`
and `category` (or `categories`, `label`, `labels`). Images stay in the data set and are decoded when asked for.
"""

import io

import numpy as np

from decodetr.processing.coco import AnnotationIndex, CocoAnnotations
from decodetr.processing.coco_checks import short
from decodetr.processing.sources import BOX_FORMATS

_CATEGORY = ("category", "categories", "category_id", "label", "labels")


class StoredImage:
    """An image of a data set: `open()` gives its bytes as a file; the text is its place."""

    def __init__(self, dataset, row, name):
        self.dataset, self.row, self.name = dataset, row, name

    def open(self):
        """A binary file object."""
        value = self.dataset[self.row]["image"]
        return io.BytesIO(value["bytes"]) if value.get("bytes") is not None else open(value["path"], "rb")

    def __str__(self):
        return f"{self.name}, row {self.row}"


def read_dataset(dataset, name, names=None, box_format="coco"):
    """
    A `datasets.Dataset` as annotations.

    Args:
        dataset: with the columns `image` and `objects`, and optionally `image_id` (integers), `width`, `height`.
        name (str): for messages.
        names (list[str], optional): of the categories, where the column is no `ClassLabel` but integers; text
            categories need none.
        box_format (str): one of BOX_FORMATS.

    Returns:
        CocoAnnotations: category ids are the class numbers. Image ids are `image_id`, or the row's number from 1.

    Raises:
        ValueError: a column is missing or holds something else; the message names data set and row.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box format must be one of {', '.join(BOX_FORMATS)}, got {box_format!r}")
    images = _image_column(dataset, name)
    key, names, number_of = _categories(dataset, name, names)
    rest = dataset.select_columns([c for c in ("image_id", "width", "height", "objects") if c in dataset.column_names])
    ids = _image_ids(rest, name)
    entries, rows, boxes, categories, areas, crowds = [], [], [], [], [], []
    for row, values in enumerate(rest):
        stored, where = StoredImage(images, row, name), f"{name}, row {row}"
        width, height = _size(values, stored)
        entries.append({"image_id": ids[row], "file_name": f"{row}", "width": width, "height": height, "path": stored})
        objects = _columns(values["objects"], where)
        found = _boxes(objects.get("bbox", []), box_format, width, height, where)
        labels = objects.get(key, [])
        if len(labels) != len(found):
            raise ValueError(f"{where}: expected a {key} for each of the {len(found)} boxes, got {len(labels)}")
        for label in labels:
            if label not in number_of:
                raise ValueError(f"{where}: expected one of the {len(names)} categories, got {label!r}")
        rows += [row] * len(found)
        boxes.append(found)
        categories += [number_of[label] for label in labels]
        areas += objects.get("area") or (found[:, 2] * found[:, 3]).tolist()
        crowds += objects.get("iscrowd") or [0] * len(found)
    index = AnnotationIndex(
        ids,
        np.array(rows, dtype=np.int64),
        np.arange(1, len(rows) + 1),
        np.array(categories, dtype=np.int64),
        np.concatenate([np.zeros((0, 4)), *boxes]),
        np.array(areas, dtype=np.float64),
        np.array(crowds, dtype=np.int64),
    )
    return CocoAnnotations(name, None, names, list(range(len(names))), entries, index)


def _image_column(dataset, name):
    """The column `image`, undecoded: pixels are as stored, EXIF orientation is not applied."""
    import datasets

    if missing := {"image", "objects"} - set(dataset.column_names):
        raise ValueError(
            f"{name}: expected the columns image and objects, {sorted(missing)} missing; it has "
            f"{', '.join(dataset.column_names)}. Rename them (`dataset.rename_column`) and save it"
        )
    if not isinstance(dataset.features["image"], datasets.Image):
        raise ValueError(f"{name}: expected images under image, got {dataset.features['image']}")
    return dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))


def _categories(dataset, name, names):
    """(key in objects, names, {value: number})."""
    import datasets

    objects = dataset.features["objects"]
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
        found = {label for row in dataset.select_columns("objects") for label in _columns(row["objects"], name)[key]}
        names = sorted(found)
    elif names is None:
        raise ValueError(
            f"{name}: objects.{key} are numbers without names; give --class-names 'cat,dog,...' in their order"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: expected different names, got {short(names)}")
    if feature.dtype == "string":
        return key, names, {label: number for number, label in enumerate(names)}
    return key, names, {number: number for number in range(len(names))}


def _image_ids(dataset, name):
    if "image_id" not in dataset.column_names:
        return list(range(1, len(dataset) + 1))
    ids = dataset["image_id"][:]
    if not all(type(value) is int for value in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"{name}: expected a different integer image_id in every row; drop the column to number them")
    return ids


def _columns(objects, where):
    """{key: list} of objects stored either way: a dict of lists, or a list of dicts."""
    if isinstance(objects, list):
        return {key: [entry[key] for entry in objects] for key in (objects[0] if objects else ())}
    if not isinstance(objects, dict):
        raise ValueError(f"{where}: expected objects, got {short(objects)}")
    return objects


def _size(values, stored):
    from PIL import Image

    if values.get("width") and values.get("height"):
        return int(values["width"]), int(values["height"])
    try:
        with stored.open() as file, Image.open(file) as image:
            return image.size
    except Exception as error:  # PIL's decoders raise a dozen types
        raise ValueError(
            f"{stored}: expected a readable image, got {type(error).__name__}: {error}; replace or remove it"
        ) from error


def _boxes(boxes, box_format, width, height, where):
    """(n, 4) x, y, w, h in pixels."""
    try:
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected boxes of four numbers, got {short(boxes)}") from error
    if box_format == "pascal_voc":
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    elif box_format == "yolo":
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1) * [
            width,
            height,
            width,
            height,
        ]
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1)
    if bad.any():
        raise ValueError(
            f"{where}: expected finite boxes without negative size, got {boxes[bad][0].tolist()} as x, y, w, h; is "
            f"--box-format {box_format} right? Others are {', '.join(set(BOX_FORMATS) - {box_format})}"
        )
    return boxes
