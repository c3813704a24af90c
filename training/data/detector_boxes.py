"""What the detector that a localization starts from sees in the training images, before it learns there that whatever
has no box is background.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision.ops import box_iou

from decodetr.processing.detection_dataset import apart_from

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.processing import RegionTable

# Share of the annotated objects that it finds, from which on a detector is right about others, and from which on it
# is not mostly wrong: docs/training.md has the measurement.
_RIGHT, _NOT_WRONG = 0.8, 0.5
_SAME = 0.5  # IoU
_ARE = {
    "objects": "objects too, without a name",
    "ignore": "neither objects nor background",
    "none": "background, as everything without a box",
}


@dataclass(frozen=True)
class DetectorBoxes:
    """
    What a detector is sure of, counted.

    Args:
        annotated, found (int): annotated objects, and those of them that it is sure of.
        others, images (int): things without a box that it is sure of, and the images that show one.
    """

    annotated: int
    found: int
    others: int
    images: int

    @classmethod
    def count(cls, coco: "CocoAnnotations", regions: "RegionTable") -> "DetectorBoxes":
        """Of all regions that it is sure of, see `self_regions`, in annotated images."""
        annotated = found = others = images = 0
        for image in coco.images:
            boxes = torch.from_numpy(regions.boxes(image["image_id"]))
            objects = torch.from_numpy(coco.annotations_by_image.corners(image["image_id"], crowds=False)).float()
            annotated += len(objects)
            if len(objects) and len(boxes):
                found += int((box_iou(objects, boxes).amax(1) >= _SAME).sum())
            apart = int(apart_from(objects, boxes).sum())
            others, images = others + apart, images + (apart > 0)
        return cls(annotated, found, others, images)

    def use(self, class_agnostic: bool) -> str:
        """What the others are to be: "objects", "ignore" or "none", background, by the share of the annotated objects
        that it finds. Only a class-agnostic detector can learn objects without a name. Nothing annotated tells nothing
        of it: "none"."""
        if not self.annotated or self.found < _NOT_WRONG * self.annotated:
            return "none"
        return "objects" if class_agnostic and self.found >= _RIGHT * self.annotated else "ignore"

    def describe(self, score: float, use: str) -> str:
        """What it saw, and what that is to the localization, in three sentences."""
        return (
            f"The starting detector finds {self.found:,} of the {self.annotated:,} annotated objects by a score of at "
            f"least {score:g}. So it sees {self.others:,} things without a box, in {self.images:,} images. They are "
            f"{_ARE[use]} (--pseudo-boxes {use})"
        )
