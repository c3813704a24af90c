"""Pictures of more objects than a detector or an evaluation can find in them: said before the work."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from decodetr.annotations.coco import CocoAnnotations
from decodetr.evaluation.output_evaluator import rules_of
from decodetr.modeling_decodetr.detectors import num_queries

if TYPE_CHECKING:
    from decodetr.annotations.stream import AnnotationStream
    from decodetr.modeling_decodetr import DeCoDetrConfig


def crowded(
    config: "DeCoDetrConfig",
    train: "CocoAnnotations | AnnotationStream",
    val: CocoAnnotations | None,
    max_detections: int | None,
) -> Iterator[str]:
    """A sentence for each limit that pictures exceed. max_detections: as the run was told."""
    queries = num_queries(config.detector_config)
    if isinstance(train, CocoAnnotations) and (found := _more(train, queries)):
        yield (
            f"Of the training data, {found}, and the detector finds one object with each of its {queries} queries: "
            "the others are not learned; cut the pictures into parts, or begin with a detector of more queries "
            "(--set detector_config.num_queries=N, where its weights allow it)"
        )
    if val is None:
        return
    kept = rules_of(val, max_detections)["max_detections"]
    if found := _more(val, min(kept, queries)):
        limit = f"evaluation keeps {kept} detections of an image (--eval-max-detections)"
        limit = limit if kept <= queries else f"the detector has {queries} queries"
        yield f"Of the validation data, {found}, and {limit}: recall cannot be full"


def _more(coco, most):
    """In words, or None where no image has more than `most` objects."""
    objects = coco.annotations_by_image.objects
    if not (count := int((objects > most).sum())):
        return None
    return f"{count:,} of {len(objects):,} images have more than {most} objects, up to {objects.max():,}"
