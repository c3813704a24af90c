"""Object detection data sets of the `datasets` library, local or from the Hub, read into `CocoAnnotations`.

Their form is that of the Hub's detection sets (CPPE-5 and others): a column `image` and a column `objects` with `bbox`
and `category` (or `categories`, `label`, `labels`). Images stay in the data set and are decoded when asked for.
"""

import io

import numpy as np

from decodetr.processing.coco import AnnotationIndex, CocoAnnotations
from decodetr.processing.sources import BOX_FORMATS
from decodetr.utils.documents import short

_COLUMNS = ("image_id", "width", "height", "objects")
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
    reader = RowReader(dataset, name, names, box_format)
    images = dataset.select_columns(["image"]).cast_column("image", undecoded_image())
    rest = dataset.select_columns([column for column in _COLUMNS if column in dataset.column_names])
    ids = _image_ids(rest, name)
    entries, rows, boxes, labels, areas, crowds = [], [], [], [], [], []
    for row, values in enumerate(rest):
        stored = StoredImage(images, row, name)
        width, height = image_size(values, stored)
        entries.append({"image_id": ids[row], "file_name": f"{row}", "width": width, "height": height, "path": stored})
        objects = reader.read(values["objects"], width, height, f"{name}, row {row}")
        rows += [row] * len(objects["bbox"])
        boxes.append(objects["bbox"])
        labels += objects["names"]
        areas += objects["area"]
        crowds += objects["iscrowd"]
    names = sorted(set(labels)) if reader.names is None else reader.names
    number_of = {label: number for number, label in enumerate(names)}
    index = AnnotationIndex(
        ids,
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
    The form of a data set, checked, and what reads the objects of its rows. Arguments as of [`read_dataset`]; the data
    set may also be a `datasets.IterableDataset`.

    Attributes:
        names (list[str]): of the categories; None where they are texts and no names were given.
    """

    def __init__(self, dataset, name, names=None, box_format="coco"):
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

    def read(self, objects, width, height, where):
        """
        The objects of one row: bbox (n, 4) float64 x, y, w, h in pixels, and the lists names, area and iscrowd.

        Args:
            objects: the column's value. width, height (int): of the image. where (str): the row, for messages.
        """
        objects = _columns(objects, where)
        boxes = _boxes(objects.get("bbox", []), self.box_format, width, height, where)
        labels = objects.get(self._key, [])
        if len(labels) != len(boxes):
            raise ValueError(f"{where}: expected a {self._key} for each of the {len(boxes)} boxes, got {len(labels)}")
        for label in labels:
            if not (isinstance(label, str) if self._name_of is None else label in self._name_of):
                expected = "a text" if self._name_of is None else f"one of the {len(self.names)} categories"
                raise ValueError(
                    f"{where}: expected {expected}, got {label!r}; correct the row, or give all names (--class-names)"
                )
        return {
            "bbox": boxes,
            "names": list(labels) if self._name_of is None else [self._name_of[label] for label in labels],
            "area": objects.get("area") or (boxes[:, 2] * boxes[:, 3]).tolist(),
            "iscrowd": objects.get("iscrowd") or [0] * len(boxes),
        }


def undecoded_image():
    """The feature of images as bytes: pixels are as stored, EXIF orientation is not applied."""
    import datasets

    return datasets.Image(decode=False)


def _categories(objects, name, names):
    """(key in objects, names, {value: name}) of the feature `objects`; the last two None for texts without names."""
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
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: expected different names, got {short(names)}")
    return key, names, {label: label for label in names} if feature.dtype == "string" else dict(enumerate(names))


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


def image_size(values, stored):
    """(width, height) in pixels: what the row says, else the image's. A ValueError if it cannot be read."""
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
