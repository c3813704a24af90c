"""Who proposes regions: a DeCo-DETR, any detector of transformers, the RPN of torchvision's Faster R-CNN, or a grid.

A proposer is called with PIL images and gives of each its boxes (N, 4), x0, y0, x1, y1 in pixels, and their scores
(N,) in 0..1, float32 on the CPU. proposals.py selects among them. What a proposer has seen in training is part of the
pool's provenance: one that learned boxes of 80 classes of COCO has seen the novel names of OV-COCO.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
import torchvision
from torchvision.transforms.functional import to_tensor
from transformers import (
    MODEL_FOR_OBJECT_DETECTION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
)

from decodetr import DeCoDetrConfig  # also makes it known to AutoConfig
from decodetr.inference.detection import forward
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.pool_builder.lazy_model import Model
from decodetr.utils.box_tensors import pixel_corners
from decodetr.utils.model_identity import model_identity, without_place

if TYPE_CHECKING:
    from PIL import Image
    from torchvision.models import WeightsEnum
    from torchvision.models.detection import FasterRCNN
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

    from decodetr import DeCoDetrForObjectDetection

GRID, TORCHVISION = "grid", "torchvision:"
_SHARES, _RATIOS = (1.0, 0.5, 0.25), (1.0, 0.5, 2.0)  # of the grid's windows: side / that of the image, width / height


def proposer_model(name: str, device: str | torch.device) -> Model:
    """The proposer called `name`.

    Args:
        name: "grid", or "torchvision:NAME", a Faster R-CNN of torchvision such as fasterrcnn_resnet50_fpn_v2, else
            folder or Hub name of a DeCo-DETR or of any model of `AutoModelForObjectDetection`.
        device: where it runs.

    Returns:
        [`Model`]. Its identity says what it has seen in training.

    Raises:
        ValueError: torchvision has no such Faster R-CNN, or the model is no detector. OSError: there is no such model.
    """
    if name == GRID:
        return replace(_model({"name": GRID}, None, GridProposer), devices=0)
    if name.startswith(TORCHVISION):
        weights = _torchvision_weights(name.removeprefix(TORCHVISION))
        categories = [c for c in weights.meta["categories"] if c not in ("__background__", "N/A")]
        return _model(
            {"name": name, "weights": str(weights)},
            {"pretrained_detector_names": categories},
            lambda: RpnProposer.from_torchvision(weights, device),
        )
    config = load_safely(AutoConfig, name)
    found = model_identity(name)
    if isinstance(config, DeCoDetrConfig):
        known = without_place(config.training_info)
        return _model(found, known, lambda: DecodetrProposer(*load_model(name, device=device)))
    if type(config) not in MODEL_FOR_OBJECT_DETECTION_MAPPING:
        raise ValueError(
            f"{name} holds a model of type {config.model_type!r}, expected a detector of transformers or a DeCo-DETR"
        )
    seen = {"pretrained_detector": found["name"], "pretrained_detector_names": list(config.id2label.values())}
    return _model(found, seen, lambda: DetectorProposer.from_pretrained(name, device))


def _model(identity, seen, load):
    name = identity.pop("name")
    return Model({"proposer": name, "proposer_model": identity or None, "proposer_training_info": seen}, load)


class DecodetrProposer:
    """The localization stream of a DeCo-DETR: every box with its objectness.

    Args:
        detector (DeCoDetrForObjectDetection), image_processor: see `decodetr.inference.loading.load_model`.
    """

    def __init__(self, detector: DeCoDetrForObjectDetection, image_processor: BaseImageProcessor) -> None:
        self.detector, self.image_processor = detector, image_processor

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batch = self.image_processor(images=images, return_tensors="pt")
        outputs = forward(self.detector, batch, localization_only=True)
        objectness = outputs["objectness_logits"].float().sigmoid().cpu()
        found = zip(images, outputs["pred_boxes"].float().cpu(), objectness)
        return [(pixel_corners(boxes, image.width, image.height), scores) for image, boxes, scores in found]


class DetectorProposer:
    """A detector of transformers, taken without its classes: a box scores as its best class does.

    Args:
        detector: of `AutoModelForObjectDetection`, in evaluation mode. image_processor: its own.
    """

    def __init__(self, detector: PreTrainedModel, image_processor: BaseImageProcessor) -> None:
        self.detector, self.image_processor = detector, image_processor

    @classmethod
    def from_pretrained(cls, name: str, device: str | torch.device) -> Self:
        """From a folder or the Hub."""
        detector = load_safely(AutoModelForObjectDetection, name).to(device).eval()
        return cls(detector, load_safely(AutoImageProcessor, name))

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = self.image_processor(images=images, return_tensors="pt").to(self.detector.device)
        outputs = self.detector(**inputs)
        sizes = [(image.height, image.width) for image in images]
        found = self.image_processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        return [(one["boxes"].float().cpu(), one["scores"].float().cpu()) for one in found]


class RpnProposer:
    """The region proposal network of a Faster R-CNN, as in the paper (paper 1.1).

    Args:
        detector (torchvision.models.detection.FasterRCNN): in evaluation mode.
    """

    def __init__(self, detector: FasterRCNN) -> None:
        self.detector = detector
        self._found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # boxes and scores of each picture
        # The RPN gives its boxes away without their scores; this is where both are known.
        self._select, detector.rpn.filter_proposals = detector.rpn.filter_proposals, self._keep

    @classmethod
    def from_torchvision(cls, weights: WeightsEnum, device: str | torch.device) -> Self:
        """With weights of torchvision, downloaded once and checked by their hash.

        Raises:
            OSError: they cannot be downloaded.
        """
        name = next(n for n in _faster_rcnns() if torchvision.models.get_model_weights(n) is type(weights))
        detector = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        try:
            state = weights.get_state_dict(check_hash=True, weights_only=True)
        except OSError as error:  # of the network, which names nothing
            raise OSError(
                f"--detector {TORCHVISION}{name}: expected its weights from {weights.url} or in {torch.hub.get_dir()}/"
                f"checkpoints, got: {error}; connect to the network, put the file there, or give another --detector"
            ) from error
        detector.load_state_dict(state)
        return cls(detector.to(device).eval())

    def _keep(self, *args):
        self._found = self._select(*args)
        return self._found

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        device = next(self.detector.parameters()).device
        batch, _ = self.detector.transform([to_tensor(image).to(device) for image in images])
        self.detector.rpn(batch, self.detector.backbone(batch.tensors))
        found = []
        for image, (height, width), boxes, scores in zip(images, batch.image_sizes, *self._found):
            scale = torch.tensor([image.width / width, image.height / height] * 2)
            found.append((boxes.float().cpu() * scale, scores.float().cpu()))
        return found


class GridProposer:
    """Windows of three sizes and three shapes, half a window apart: without a model, and with as little knowledge. The
    larger ones come first."""

    def __call__(self, images: list[Image.Image]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [self._windows(image.width, image.height) for image in images]

    def _windows(self, width, height):
        boxes, scores = [], []
        for share in _SHARES:
            for ratio in _RATIOS if share < 1 else (1.0,):
                w, h = share * min(ratio, 1.0), share * min(1 / ratio, 1.0)
                across, down = round(2 / w) - 1, round(2 / h) - 1
                steps = [(x * w / 2, y * h / 2) for y in range(down) for x in range(across)]
                boxes += [(x * width, y * height, (x + w) * width, (y + h) * height) for x, y in steps]
                scores += [0.5 * (w * h) ** 0.5] * len(steps)
        return torch.tensor(boxes), torch.tensor(scores)


def _faster_rcnns():
    return torchvision.models.list_models(torchvision.models.detection, include="fasterrcnn*")


def _torchvision_weights(name):
    if name not in _faster_rcnns():
        raise ValueError(f"torchvision has no Faster R-CNN {name!r}; it has {', '.join(_faster_rcnns())}")
    return torchvision.models.get_model_weights(name).DEFAULT
