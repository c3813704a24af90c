"""What `decodetr eval` runs over the images: a DeCo-DETR, or an oracle made of one.

A predictor has `names` (its vocabulary), `prepare(image)`, which runs in the workers of a DataLoader, and
`predictor(prepared, entries)`, which gives the detections of a batch. `describe()` is for the report. `peers.py` has
those of other people's detectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

from decodetr.evaluation.output_evaluator import ranked_boxes, results_of
from decodetr.inference.detection import forward
from decodetr.pool_builder.crops import crop_region
from decodetr.processing.detection_dataset import detection_collate
from decodetr.utils.box_tensors import pixel_corners

if TYPE_CHECKING:
    from PIL import Image

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.modeling_decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.output_decodetr import DeCoDetrObjectDetectionOutput
    from decodetr.modeling_decodetr.vocabulary import Vocabulary
    from decodetr.pool_builder.embedder import ClipEmbedder
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

_SUPPRESSED = -25  # log objectness of what `nms_iou` takes out is -30


class DeCoDetrPredictor:
    """
    A DeCo-DETR and its image processor.

    Args:
        model: DeCoDetrForObjectDetection.
        image_processor: its image processor.
        max_detections (int): detections per image over all names.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        max_detections: int = 100,
    ) -> None:
        self.model, self.image_processor, self.max_detections = model, image_processor, max_detections

    @property
    def names(self) -> list[str]:
        """The vocabulary, list[str]."""
        return self.model.vocabulary.names

    def describe(self) -> dict[str, str]:
        """What the report says about it."""
        return {"class": type(self.model).__name__, "detector": self.model.config.detector_config.model_type}

    def prepare(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """Inputs of one PIL image: `pixel_values` (3, H, W) and, where the processor pads, `pixel_mask` (H, W)."""
        inputs = self.image_processor(images=image, return_tensors="pt")
        return {name: inputs[name][0] for name in ("pixel_values", "pixel_mask") if name in inputs}

    def __call__(self, prepared: list[dict[str, torch.Tensor]], entries: list[dict]) -> list[dict]:
        """
        Detections of a batch.

        Args:
            prepared: list of what `prepare` gave. entries: the images' entries of `CocoAnnotations.images`.

        Returns:
            list of dicts, as [`results_of`].
        """
        return self.results(self.forward(prepared), entries)

    def forward(self, prepared: list[dict[str, torch.Tensor]]) -> DeCoDetrObjectDetectionOutput:
        """Outputs of the model."""
        batch = detection_collate([{**inputs, "labels": None} for inputs in prepared])
        with torch.inference_mode():
            # AP counts the least score. A model that only stands for ours has no choice of queries.
            options = {"min_score": 0.0} if hasattr(self.model, "semantic_stream") else {}
            return forward(self.model, batch, **options)

    def results(self, outputs: DeCoDetrObjectDetectionOutput, entries: list[dict]) -> list[dict]:
        """Detections of the outputs. Oracles differ here."""
        sizes = [(entry["height"], entry["width"]) for entry in entries]
        return results_of(outputs, self.image_processor, sizes, self.max_detections)


class _Image(NamedTuple):
    """What an oracle is told of an image: the queries, and the annotated objects."""

    boxes: torch.Tensor  # (N, 4) x0, y0, x1, y1 in pixels
    log_objectness: torch.Tensor  # (N,)
    log_scores: torch.Tensor  # (N, K), of objectness times name probability
    truth: torch.Tensor  # (n, 4), as `boxes`
    labels: torch.Tensor  # (n,), the names of `truth` in the vocabulary, or -1


class _Oracle(DeCoDetrPredictor, ABC):
    """One of the two streams is told the truth: annotations of `coco` that are no crowds."""

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        coco: CocoAnnotations,
        max_detections: int = 100,
    ) -> None:
        super().__init__(model, image_processor, max_detections)
        self.coco = coco
        labels = {name: label for label, name in enumerate(self.names)}
        self._label_of_category = torch.tensor([labels.get(name, -1) for name in coco.names])

    def results(self, outputs: DeCoDetrObjectDetectionOutput, entries: list[dict]) -> list[dict]:
        found = []
        relative, logits, objectness = ranked_boxes(outputs)
        for b, entry in enumerate(entries):
            boxes = pixel_corners(relative[b].float().cpu(), entry["width"], entry["height"])
            truth, labels = annotated(self.coco, entry)
            log_objectness = F.logsigmoid(objectness[b].float().cpu())
            log_scores = F.logsigmoid(self.model.config.uncalibrated(logits[b].float().cpu()))
            image = _Image(boxes, log_objectness, log_scores, truth, self._label_of_category[labels])
            found.append(self.one_image(image))
        return found

    @abstractmethod
    def one_image(self, image: _Image) -> dict[str, torch.Tensor]:
        """Detections of an image: "scores", "labels", "boxes", best first."""


class BoxOracle(_Oracle):
    """Annotated boxes, our names: each takes the name probabilities of the query whose box fits it best, of those that
    are not suppressed as duplicates."""

    def one_image(self, image: _Image) -> dict[str, torch.Tensor]:
        boxes, log_objectness, log_scores, truth, _ = image
        if not len(truth):
            return {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64), "boxes": truth}
        query = box_iou(truth, boxes).masked_fill(log_objectness < _SUPPRESSED, -1).argmax(1)
        probabilities = (log_scores[query] - log_objectness[query, None]).exp().clamp(max=1)
        return best_pairs(probabilities, truth, self.max_detections)


class NameOracle(_Oracle):
    """Our boxes, annotated names: a query that overlaps an object (IoU of at least 0.5) takes the name of the one that
    it fits best, others their own best one. The score is the objectness."""

    def one_image(self, image: _Image) -> dict[str, torch.Tensor]:
        boxes, log_objectness, log_scores, truth, labels = image
        chosen = log_scores.argmax(1)
        if len(truth):
            iou, nearest = box_iou(boxes, truth).max(1)
            named = labels[nearest]
            chosen = torch.where((iou >= 0.5) & (named >= 0), named, chosen)
        scores, order = log_objectness.exp().sort(descending=True, stable=True)
        order = order[: self.max_detections]
        return {"scores": scores[: self.max_detections], "labels": chosen[order], "boxes": boxes[order]}


class TeacherOracle:
    """
    The teacher alone on annotated boxes: CLIP's softmax over the names for each crop.

    Args:
        clip: `pool_builder.embedder.ClipEmbedder`. vocabulary: `Vocabulary` of the same CLIP. coco: CocoAnnotations.
    """

    def __init__(
        self, clip: ClipEmbedder, vocabulary: Vocabulary, coco: CocoAnnotations, max_detections: int = 100
    ) -> None:
        self.clip, self.coco, self.max_detections = clip, coco, max_detections
        self.names, self.embeddings = vocabulary.names, vocabulary.embeddings.cpu()

    def describe(self) -> dict[str, str]:
        """What the report says about it."""
        return {"class": type(self.clip.model).__name__}

    def prepare(self, image: Image.Image) -> Image.Image:
        """The picture itself: crops depend on its annotations."""
        return image

    def __call__(self, prepared: list[Image.Image], entries: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Detections of a batch of pictures: (box, name) pairs."""
        found = []
        for image, entry in zip(prepared, entries):
            boxes, _ = annotated(self.coco, entry)
            boxes = boxes[_with_area(boxes, entry)]
            found.append(
                best_pairs(teacher_probabilities(self.clip, image, boxes, self.embeddings), boxes, self.max_detections)
            )
        return found


class TeacherNamesOracle(DeCoDetrPredictor):
    """
    Our boxes, CLIP's names: its softmax over the names for the crop of each box, times our objectness. What is named
    here and not by the model, its semantic stream did not learn; what is named on annotated boxes and not here, boxes
    that do not fit have cost.

    Args:
        model, image_processor, max_detections: of [`DeCoDetrPredictor`]. clip: `ClipEmbedder` of its vocabulary.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        clip: ClipEmbedder,
        max_detections: int = 100,
    ) -> None:
        super().__init__(model, image_processor, max_detections)
        self.clip, self.embeddings = clip, model.vocabulary.embeddings.cpu()

    def prepare(self, image: Image.Image) -> dict[str, Any]:
        """Inputs of one PIL image, and the picture itself, of which crops are taken."""
        return {**super().prepare(image), "picture": image}

    def __call__(self, prepared: list[dict[str, Any]], entries: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Detections of a batch of pictures: (box, name) pairs."""
        inputs = [{name: value for name, value in image.items() if name != "picture"} for image in prepared]
        boxes, _, objectness = ranked_boxes(self.forward(inputs))
        return [
            named_by_teacher(self.clip, image["picture"], found, logits, self.embeddings, self.max_detections)
            for image, found, logits in zip(prepared, boxes.float().cpu(), objectness.float().cpu())
        ]


def named_by_teacher(
    clip: ClipEmbedder,
    picture: Image.Image,
    boxes: torch.Tensor,
    objectness_logits: torch.Tensor,
    embeddings: torch.Tensor,
    most: int,
) -> dict[str, torch.Tensor]:
    """The best (box, name) pairs of an image's most certain boxes, by objectness times CLIP's softmax over the names.

    Args:
        clip: `ClipEmbedder`. picture: PIL RGB. boxes: (N, 4) cx, cy, w, h in 0..1. objectness_logits: (N,).
        embeddings: (K, d), unit rows. most (int): so many boxes are named, and so many pairs are kept.

    Returns:
        dict: "scores", "labels", "boxes" x0, y0, x1, y1 in pixels, best first.
    """
    corners, log_objectness = pixel_corners(boxes, picture.width, picture.height), F.logsigmoid(objectness_logits)
    shown = _with_area(corners, {"width": picture.width, "height": picture.height})
    usable = (shown & (log_objectness > _SUPPRESSED)).nonzero()[:, 0]
    sure = usable[log_objectness[usable].argsort(descending=True, stable=True)][:most]
    probabilities = teacher_probabilities(clip, picture, corners[sure], embeddings)
    return best_pairs(log_objectness[sure, None].exp() * probabilities, corners[sure], most)


def annotated(coco: CocoAnnotations, entry: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(boxes (n, 4) x0, y0, x1, y1 in pixels, categories (n,)) of an image's annotations that are no crowds."""
    index, image_id = coco.annotations_by_image, entry["image_id"]
    boxes = torch.from_numpy(index.corners(image_id, crowds=False)).float()
    return boxes, torch.from_numpy(index.arrays(image_id, crowds=False)["category"])


def _with_area(boxes, entry):
    limits = torch.tensor([entry["width"], entry["height"]] * 2, dtype=torch.float32)
    inside = boxes.clamp(min=torch.zeros(4), max=limits)
    return (inside[:, 2:] > inside[:, :2]).all(1)


def teacher_probabilities(
    clip: ClipEmbedder, picture: Image.Image, boxes: torch.Tensor, embeddings: torch.Tensor
) -> torch.Tensor:
    """CLIP's softmax over the names for each crop.

    Args:
        clip: `ClipEmbedder`. picture: PIL RGB. boxes: (n, 4) x0, y0, x1, y1 in pixels. embeddings: (K, d), unit rows.

    Returns:
        torch.Tensor (n, K).
    """
    if not len(boxes):
        return torch.zeros(0, len(embeddings))
    crops = [crop_region(picture, box, clip.size) for box in boxes.tolist()]
    similarity = torch.from_numpy(clip.embed_images(crops)) @ embeddings.T
    return (clip.model.logit_scale.exp().item() * similarity).softmax(-1)


def best_pairs(probabilities: torch.Tensor, boxes: torch.Tensor, most: int) -> dict[str, torch.Tensor]:
    """The best (box, name) pairs of an image: "scores", "labels", "boxes", best first.

    Args:
        probabilities: (n, K). boxes: (n, 4). most (int).
    """
    scores, pairs = probabilities.flatten().topk(min(most, probabilities.numel()))
    box, label = pairs // probabilities.shape[1], pairs % probabilities.shape[1]
    return {"scores": scores, "labels": label, "boxes": boxes[box]}
