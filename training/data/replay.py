"""Replay: images of an earlier data set among the new ones, so that a fine-tune does not forget.

What it had learned there comes back through regions: their embeddings teach names and prototypes, and the certain ones
are objects to the localization stream. Annotations are not needed, but those of trained names are used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import ConcatDataset

from decodetr.processing.detection_dataset import DetectionDataset

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.processing import DeCoDetrImageProcessor
    from decodetr.processing.detection_dataset import TargetOptions


class ReplayedDataset(ConcatDataset):
    """
    A data set, and after it another that is replayed.

    Args:
        dataset, replay (DetectionDataset): both see the epochs, and the same augmentation.
    """

    def __init__(self, dataset: DetectionDataset, replay: DetectionDataset) -> None:
        super().__init__([dataset, replay])

    @property
    def targets(self) -> "TargetOptions":
        """The options of the first data set. The other one has the same augmentation."""
        return self.datasets[0].targets

    def without_augmentation(self) -> "ReplayedDataset":
        """Return the same data set with all images as they are."""
        return ReplayedDataset(*(dataset.without_augmentation() for dataset in self.datasets))

    def set_epoch(self, epoch: int) -> None:
        """Epoch of the augmentations. transformers' Trainer calls it."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


def replay_dataset(
    coco: "CocoAnnotations",
    image_processor: "DeCoDetrImageProcessor",
    names: Sequence[str],
    targets: "TargetOptions",
    *,
    images: int | None = None,
    seed: int = 0,
) -> DetectionDataset:
    """
    The data set that is replayed.

    Args:
        coco (CocoAnnotations): annotations of other names than `names` are left out.
        image_processor, names: as of [`DetectionDataset`]. targets (TargetOptions): with regions.
        images (int, *optional*): so many of the images that have regions, drawn at random by `seed`. Default: all.

    Raises:
        ValueError: there are no regions, no image has any, or they are of other pictures.
    """
    regions = targets.regions
    if regions is None:
        raise ValueError(f"{coco.file}: replayed images teach by their regions: expected regions in targets, got none")
    regions.check_images(coco.images, coco.file)
    known = [image["image_id"] for image in coco.images if image["image_id"] in regions]
    if images is not None:
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).tolist()
        known = [known[i] for i in order[:images]]
    coco = coco.select_images(set(known))
    return DetectionDataset(coco, image_processor, names, targets, skip_unknown_names=True)
