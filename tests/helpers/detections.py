"""Ground truth and predictions by hand and at random, and their evaluation."""

from types import SimpleNamespace

import numpy as np

from decodetr.evaluation import DetectionEvaluator

BOX = [10.0, 10.0, 60.0, 60.0]  # xyxy
FAR = [100.0, 100.0, 150.0, 160.0]


def truth(names, rows_by_image):
    """Ground truth as CocoAnnotations has it; a row is (name, xyxy) or (name, xyxy, iscrowd)."""
    annotations = {}
    for image_id, rows in rows_by_image.items():
        annotations[image_id] = [
            {
                "category": names.index(name),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": (x1 - x0) * (y1 - y0),
                "iscrowd": int(bool(crowd)),
            }
            for name, (x0, y0, x1, y1), *crowd in rows
        ]
    return SimpleNamespace(
        names=names, images=[{"image_id": i} for i in rows_by_image], annotations_by_image=annotations
    )


def prediction(*rows):
    """Rows of (label, score, xyxy)."""
    return {
        "labels": [row[0] for row in rows],
        "scores": [row[1] for row in rows],
        "boxes": [row[2] for row in rows],
    }


def random_world(seed, images=40, names=6):
    """Noisy predictions with ties, wrong names, crowds, areas of segments, images without objects, ids with gaps."""
    rng = np.random.default_rng(seed)
    annotations, predictions = {}, []
    for image in range(images):
        rows, found = [], []
        for _ in range(rng.integers(0, 9)):
            corner, size, category = rng.uniform(0, 150, 2), rng.uniform(5, 130, 2), int(rng.integers(names))
            area = float(size.prod() * rng.uniform(0.4, 1))
            crowd = int(rng.random() < 0.1)
            rows.append({"category": category, "bbox": [*corner, *size], "area": area, "iscrowd": crowd})
            for _ in range(3):
                start = corner + rng.normal(0, 6, 2)
                label = category if rng.random() < 0.8 else int(rng.integers(names))
                end = start + np.maximum(size + rng.normal(0, 6, 2), 1)
                found.append((label, round(rng.random(), 2), [*start, *end]))
        annotations[3 * image] = rows
        predictions.append(prediction(*found))
    coco = SimpleNamespace(
        names=[f"name {i}" for i in range(names)],
        images=[{"image_id": i} for i in annotations],
        annotations_by_image=annotations,
    )
    return coco, predictions


def evaluate(coco, predictions, names=None, novel_names=None, per_name=False, **options):
    evaluator = DetectionEvaluator(coco, names or coco.names, novel_names, **options)
    for image, row in zip(coco.images, predictions):
        evaluator.update([image["image_id"]], [row])
    return evaluator.compute(per_name=per_name)


def evaluated(coco, predictions, **options):
    evaluator = DetectionEvaluator(coco, coco.names, **options)
    evaluator.update([image["image_id"] for image in coco.images], predictions)
    return evaluator
