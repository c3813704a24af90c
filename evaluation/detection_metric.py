"""`DetectionMetric`: open-vocabulary AP as an `evaluate.Metric`, for code that speaks that library's interface.

The numbers come from `DetectionEvaluator`. Here only references become ground truth. It is a file of
its own because its base class imports `evaluate` and `datasets`, while `eval.py` must import nothing heavy for
`--help` to be instant. Nothing is downloaded: construct the class instead of calling `evaluate.load`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from decodetr.evaluation.coco_matching import compact_prediction
from decodetr.evaluation.detection_evaluator import DetectionEvaluator

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from decodetr.processing.detection_dataset import DetectionDataset
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

_INPUTS = """
Args:
    predictions: dicts with "scores" (n,), "labels" (n,) indices into `names`, "boxes" (n, 4) xyxy pixels.
    references: dicts with "image_id" (int), "boxes" (m, 4) xyxy pixels, "labels" (m,), and optionally "iscrowd" (m,)
        and "area" (m,) in square pixels (default: of the box).
Returns:
    AP, AP50, AP75, AP_small, AP_medium, AP_large, AR<max_detections>, AR50 and, with novel names, AP_novel,
    AP50_novel, AP_base, AP50_base: percent, NaN without ground truth.
"""


class DetectionMetric(evaluate.Metric):
    """COCO AP over a vocabulary.

    Args:
        names: the vocabulary. Labels of predictions and references are indices into it.
        novel_names: names whose AP is also reported apart.
        max_detections: predictions kept per image, dropped before they are stored.
        kwargs: those of `evaluate.Metric` (`cache_dir`, `keep_in_memory`, `num_process`, `experiment_id`, ...).

    ```python
    metric = DetectionMetric(names=["cat", "dog"], novel_names=["dog"])
    metric.add_batch(predictions=[...], references=[...])
    metric.compute()["AP50_novel"]
    ```
    """

    def __init__(
        self, names: Sequence[str], novel_names: Sequence[str] | None = None, max_detections: int = 100, **kwargs: Any
    ) -> None:
        self.names, self.novel_names, self.max_detections = list(names), novel_names, max_detections
        super().__init__(**kwargs)

    def _info(self):
        boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float64"), length=4))
        labels = datasets.Sequence(datasets.Value("int64"))
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="COCO average precision over the names of an open vocabulary.",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": {"scores": numbers, "labels": labels, "boxes": boxes},
                    "references": {
                        "image_id": datasets.Value("int64"),
                        "boxes": boxes,
                        "labels": labels,
                        "iscrowd": labels,
                        "area": numbers,
                    },
                }
            ),
        )

    def add_batch(self, *, predictions: Sequence[dict], references: Sequence[dict]) -> None:
        """Check and add a batch; only the best `max_detections` predictions of an image are stored."""
        if len(predictions) != len(references):
            raise ValueError(f"got {len(predictions)} predictions and {len(references)} references; expected as many")
        rows = [self._encode(*pair) for pair in zip(predictions, references)]
        super().add_batch(predictions=[row[0] for row in rows], references=[row[1] for row in rows])

    def add(self, *, prediction: dict, reference: dict) -> None:
        """Add one image."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute_metrics(
        self, image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil, dataset: DetectionDataset
    ) -> Callable[[EvalPrediction, bool], dict[str, float]]:
        """A `compute_metrics` for `transformers.Trainer` with `batch_eval_metrics=True`, on one process.

        Evaluate with `trainer.evaluate(ignore_keys=["loss_dict"])`: predictions are then the outputs from `logits` and
        `pred_boxes` on. `DeCoDetrTrainer` evaluates by itself, also on several processes.

        Args:
            image_processor: the model's. dataset: the evaluated `DetectionDataset`. Objects are looked up in it
                by image id, because Trainer cuts the tensors of labels to the length of the last batch.
        """
        coco = dataset.coco
        entries = {entry["image_id"]: entry for entry in coco.images}
        label_of = {name: label for label, name in enumerate(self.names)}
        if missing := [name for name in coco.names if name not in label_of]:
            raise ValueError(f"{coco.file}: the metric has no names {missing[:10]}; give it those of the data set")

        def metrics(evaluated, compute_result):
            logits, boxes = evaluated.predictions[:2]
            labels = evaluated.label_ids[0] if isinstance(evaluated.label_ids, tuple) else evaluated.label_ids
            shown = [entries[int(label["image_id"])] for label in labels]
            predictions = image_processor.post_process_object_detection(
                {"logits": logits, "pred_boxes": boxes},
                threshold=0.0,
                target_sizes=[(entry["height"], entry["width"]) for entry in shown],
                top_k=self.max_detections,
            )
            references = []
            for entry in shown:
                rows = coco.annotations_by_image.arrays(entry["image_id"])
                corners = coco.annotations_by_image.corners(entry["image_id"])
                names = [label_of[coco.names[category]] for category in rows["category"]]
                reference = {"image_id": entry["image_id"], "boxes": corners, "labels": names}
                references.append(reference | {key: rows[key] for key in ("area", "iscrowd")})
            self.add_batch(predictions=predictions, references=references)
            return self.compute() if compute_result else {}

        return metrics

    def _encode(self, prediction, reference):
        """Plain lists of one image, of which the arrow writer makes rows."""
        image_id = int(reference["image_id"])
        scores, labels, boxes = compact_prediction(prediction, self.max_detections, len(self.names), image_id)
        prediction = {"scores": scores.tolist(), "labels": labels.tolist(), "boxes": boxes.tolist()}
        truth = {
            key: value.tolist() if hasattr(value, "tolist") else list(value)
            for key, value in reference.items()
            if key in ("boxes", "labels", "iscrowd", "area") and value is not None
        }
        count = len(truth.get("labels", ()))
        compact_prediction({"scores": [1.0] * count, **truth}, None, len(self.names), f"{image_id} (reference)")
        for key in ("iscrowd", "area"):
            if key in truth and len(truth[key]) != count:
                raise ValueError(
                    f"image {image_id!r} (reference): expected {count} entries under {key}, got {len(truth[key])}"
                )
        if set(truth.get("iscrowd", ())) - {0, 1} or not all(
            0 <= area < float("inf") for area in truth.get("area", ())
        ):
            raise ValueError(f"image {image_id!r} (reference): expected iscrowd 0 or 1 and finite areas of 0 or more")
        truth.setdefault("iscrowd", [0] * count)
        truth.setdefault("area", [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in truth["boxes"]])
        return prediction, {"image_id": image_id, **truth}

    def _compute(self, predictions, references):
        annotations = {}
        for row in references:
            if row["image_id"] in annotations:
                raise ValueError(f"image id {row['image_id']} was added twice; each image counts once")
            annotations[row["image_id"]] = [
                {"category": label, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area, "iscrowd": crowd}
                for label, (x0, y0, x1, y1), area, crowd in zip(
                    row["labels"], row["boxes"], row["area"], row["iscrowd"]
                )
            ]
        truth = SimpleNamespace(
            names=self.names, images=[{"image_id": key} for key in annotations], annotations_by_image=annotations
        )
        evaluator = DetectionEvaluator(truth, self.names, self.novel_names, self.max_detections)
        evaluator.update(list(annotations), predictions)
        return evaluator.compute()
