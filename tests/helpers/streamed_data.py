"""Generated rows of `datasets`, whole and as a stream."""

import io

import datasets
import numpy as np
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.annotations.stream import AnnotationStream
from decodetr.processing.streamed_dataset import StreamedDetectionDataset
from helpers.data_forms import NAMES

PROCESSOR = DeCoDetrImageProcessor(size={"height": 64, "width": 64})


def rows_of(count, seed=0):
    """`count` rows: a picture, an image_id, and 0 to 2 objects."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = rng.integers(30, 60, 2).tolist()
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
        boxes = [[2.0, 3.0, 5.5 + number, 6.0], [8.0, 1.0, 12.0, 20.0 + number % 9]][: number % 3]
        objects = {"bbox": boxes, "category": [(number + i) % 2 for i in range(len(boxes))]}
        image = {"bytes": file.getvalue(), "path": None}
        rows.append({"image": image, "image_id": 100 + number, "objects": objects})
    return rows


def data_of(rows, category=None, drop=()):
    objects = {"bbox": datasets.List(datasets.List(datasets.Value("float64")))}
    objects["category"] = datasets.List(category or datasets.ClassLabel(names=NAMES))
    features = {"image": datasets.Image(), "image_id": datasets.Value("int64"), "objects": objects}
    features = datasets.Features({name: feature for name, feature in features.items() if name not in drop})
    rows = [{name: value for name, value in row.items() if name in features} for row in rows]
    return datasets.Dataset.from_list(rows, features=features)


def stream_of(rows, shards=1, **options):
    return AnnotationStream(data_of(rows, **options).to_iterable_dataset(num_shards=shards), "mine (train)")


def streamed(stream, names=NAMES, **options):
    return StreamedDetectionDataset(stream, PROCESSOR, names, **options)
