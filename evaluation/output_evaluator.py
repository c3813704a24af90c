"""Both evaluations of a DeCo-DETR: of the names, and of localization alone (one box per query, ranked by its
objectness, whatever its name). The evaluation loop and the trainer share it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from decodetr.evaluation.detection_evaluator import DetectionEvaluator, metric_names

if TYPE_CHECKING:
    import torch

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.modeling_decodetr.output_decodetr import DeCoDetrObjectDetectionOutput
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

COCO_DETECTIONS, FEDERATED_DETECTIONS = 100, 300  # kept of an image, by COCO's and by LVIS' evaluation


def rules_of(coco: CocoAnnotations | SimpleNamespace, max_detections: int | None = None) -> dict:
    """How a file is evaluated where nobody says: LVIS' rules and 300 detections an image, if its images have LVIS'
    lists of absent and not exhaustively annotated names, else COCO's and 100.

    Args:
        coco (CocoAnnotations). max_detections (int, *optional*): instead of these numbers.

    Returns:
        dict: "federated", "max_detections", options of [`OutputEvaluator`].
    """
    federated = getattr(coco, "federation", None) is not None
    usual = FEDERATED_DETECTIONS if federated else COCO_DETECTIONS
    return {"federated": federated, "max_detections": usual if max_detections is None else max_detections}


def ranked_boxes(outputs: DeCoDetrObjectDetectionOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(boxes, logits of their names, logits of their objectness) of a model's outputs.

    Raises:
        ValueError: they were not computed, as with `losses_only`.
    """
    boxes, logits, objectness = outputs.pred_boxes, outputs.logits, outputs.objectness_logits
    if boxes is None or logits is None or objectness is None:
        raise ValueError("the outputs have no boxes or no names: those of a forward for losses cannot be evaluated")
    return boxes, logits, objectness


def results_of(
    outputs: DeCoDetrObjectDetectionOutput,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    sizes: list[tuple[int, int]],
    max_detections: int,
) -> list[dict]:
    """Detections of a batch by both rankings.

    Args:
        outputs: of the model. image_processor: its image processor.
        sizes: (height, width) in pixels of the original images.
        max_detections: how many are kept of each image.

    Returns:
        list of dicts: "scores", "labels", "boxes" as `post_process_object_detection` gives them at threshold 0, and
        "localization", the same of the boxes alone, all labels 0.
    """

    boxes, logits, objectness = ranked_boxes(outputs)

    def process(logits):
        return image_processor.post_process_object_detection(
            SimpleNamespace(logits=logits, pred_boxes=boxes),
            threshold=0.0,
            target_sizes=sizes,
            top_k=max_detections,
        )

    localized = process(objectness[..., None])
    return [{**named, "localization": alone} for named, alone in zip(process(logits), localized)]


def output_metric_names(max_detections: int, groups: Iterable[str] = (), novel: bool = False) -> list[str]:
    """Names of the metrics that [`OutputEvaluator.compute`] gives of a DeCo-DETR, known before any image.

    Args:
        max_detections (int). groups: names of the groups of names. novel (bool): there are novel names, and so the
            groups "novel" and "base", also of localization.
    """
    split = ("novel", "base") if novel else ()
    localization = metric_names(max_detections, split, class_agnostic=True)
    return [
        *metric_names(max_detections, (*split, *groups)),
        *(f"class_agnostic_{name}" for name in localization if name == "AP50" or name.startswith("AR")),
    ]


class OutputEvaluator:
    """`update` with what `results_of` (or anything with "scores", "labels", "boxes") gives, `merge`, `compute`.

    Args:
        coco, names, novel_names, allow_missing_names, options: see `DetectionEvaluator`.
    """

    def __init__(
        self,
        coco: CocoAnnotations,
        names: Sequence[str],
        novel_names: Iterable[str] | None,
        *,
        allow_missing_names: bool = False,
        groups: Mapping[str, Iterable[str]] | None = None,
        federated: bool = False,
        **options: Any,
    ) -> None:
        self.by_name = DetectionEvaluator(
            coco,
            names,
            novel_names,
            allow_missing_names=allow_missing_names,
            groups=groups,
            federated=federated,
            **options,
        )
        self.localization = DetectionEvaluator(coco, names, novel_names, class_agnostic=True, **options)
        self._seen = set()

    def update(self, image_ids: Sequence[int], results: Sequence[Mapping]) -> None:
        """Add a batch. Of an image that comes again, in this batch too, the first one counts: samplers of several
        processes pad the last batch."""
        fresh = []
        for i, image_id in enumerate(image_ids):
            if image_id not in self._seen:
                self._seen.add(image_id)
                fresh.append(i)
        ids = [image_ids[i] for i in fresh]
        self.by_name.update(ids, [results[i] for i in fresh])
        located = [(image_ids[i], results[i]["localization"]) for i in fresh if "localization" in results[i]]
        self.localization.update([i for i, _ in located], [boxes for _, boxes in located])

    def merge(self, gather: Callable[[list], list]) -> None:
        """Take in the other processes' detections. `gather` joins a list over processes (accelerate's
        gather_object)."""
        for evaluator in (self.by_name, self.localization):
            evaluator.merge([gather(evaluator.state())])

    def compute(self, per_name: bool = False) -> dict:
        """Metrics of `DetectionEvaluator.compute`, and, where boxes were ranked apart, localization as
        "class_agnostic_AP50", "class_agnostic_AR<max_detections>", "class_agnostic_AR50" (with novel names also
        "_novel" and "_base")."""
        metrics = self.by_name.compute(per_name=per_name)
        if not self.localization.state():
            return metrics
        for key, value in self.localization.compute().items():
            if key == "AP50" or key.startswith("AR"):
                metrics[f"class_agnostic_{key}"] = value
        return metrics
