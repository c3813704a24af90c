"""The same three pictures and boxes as COCO, as YOLO and as a data set of `datasets`."""

import json

import datasets
import numpy as np
import torch
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.processing import DetectionDataset, detection_collate

NAMES = ["crème brûlée", "salt, pepper"]
SIZES = {"a": (96, 64), "b": (40, 80), "c": (64, 64)}
BOXES = {"a": [(1, [50, 20, 30, 40]), (0, [0, 0, 96, 64])], "b": [(0, [5, 10, 20, 30])], "c": []}  # x, y, w, h


def picture(name):
    rng = np.random.default_rng(ord(name))
    return Image.fromarray(rng.integers(0, 255, (*SIZES[name][::-1], 3), np.uint8))


def write_coco(folder):
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    rows, images = [], []
    for number, (name, boxes) in enumerate(BOXES.items(), start=1):
        picture(name).save(folder / "train" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": SIZES[name][0], "height": SIZES[name][1]})
        rows += [{"image_id": number, "category_id": label, "bbox": box} for label, box in boxes]
    for number, row in enumerate(rows, start=1):
        row["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    document = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    return folder


def write_yolo(folder, **config):
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    for name, boxes in BOXES.items():
        picture(name).save(folder / "images" / "train" / f"{name}.png")
        width, height = SIZES[name]
        lines = [
            f"{label} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
            for label, (x, y, w, h) in boxes
        ]
        if lines:
            (folder / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines) + "\n\n")
    document = {"names": NAMES, "train": "images/train", "nc": 2, **config}
    (folder / "data.yaml").write_text(json.dumps(document))  # JSON is YAML
    return folder


def hub_dataset(box_format="coco", category=None, key="category", as_lists=True, **columns):
    def convert(box, size):
        x, y, w, h = box
        width, height = size
        return {
            "coco": box,
            "pascal_voc": [x, y, x + w, y + h],
            "yolo": [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height],
        }[box_format]

    category = category or datasets.ClassLabel(names=NAMES)
    text = getattr(category, "dtype", "") == "string"
    rows = [
        [{"bbox": convert(box, SIZES[name]), key: NAMES[label] if text else label} for label, box in boxes]
        for name, boxes in BOXES.items()
    ]
    fields = {"bbox": datasets.List(datasets.Value("float32"), length=4), key: category}
    if as_lists:
        rows = [{field: [row[field] for row in one] for field in fields} for one in rows]
        objects = {field: datasets.List(feature) for field, feature in fields.items()}
    else:
        objects = datasets.List(fields)
    features = {"image": datasets.Image(), "objects": objects}
    features |= {name: datasets.Value("int64") for name in columns}
    return datasets.Dataset.from_dict(
        {"image": [picture(name) for name in BOXES], "objects": rows, **columns}, features=datasets.Features(features)
    )


def items(coco):
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    dataset = DetectionDataset(coco, processor, NAMES)
    return detection_collate([dataset[i] for i in range(len(dataset))])


def assert_same(found, expected):
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    for one, other in zip(found["labels"], expected["labels"], strict=True):
        assert one["class_labels"].tolist() == other["class_labels"].tolist()
        assert torch.allclose(one["boxes"], other["boxes"], atol=1e-6)
