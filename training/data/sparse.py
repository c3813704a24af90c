"""Data of which most images teach nothing: no box, no region.

Such an image is background: some of them say what is no object, thousands drown the few that are annotated.
"""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from decodetr.processing.detection_dataset import DetectionDataset

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.processing import DeCoDetrImageProcessor
    from decodetr.processing.detection_dataset import TargetOptions

logger = logging.getLogger(__name__)


def drawn_empty(teaching: int, empty: int) -> int:
    """How many of the `empty` images an epoch has beside those that teach something."""
    return min(empty, teaching)


class SparseDataset(DetectionDataset):
    """
    A [`DetectionDataset`] whose epoch has all images that teach something, and not more of the others. These take
    turns: an epoch goes on where the one before ended.

    Args:
        coco, image_processor, names, targets: as of [`DetectionDataset`].
        teaching (ids): of the images that teach something. seed (int): of the order of the others.
    """

    def __init__(
        self,
        coco: "CocoAnnotations",
        image_processor: "DeCoDetrImageProcessor",
        names: Collection[str],
        targets: "TargetOptions",
        *,
        teaching: Collection[int],
        seed: int = 0,
    ) -> None:
        super().__init__(coco, image_processor, names, targets)
        rows = torch.tensor([image["image_id"] in teaching for image in coco.images])
        self._teaching, empty = rows.nonzero()[:, 0], (~rows).nonzero()[:, 0]
        self._empty = empty[torch.randperm(len(empty), generator=torch.Generator().manual_seed(seed))]
        self._drawn = drawn_empty(len(self._teaching), len(empty))

    def __len__(self) -> int:
        return len(self._teaching) + self._drawn

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self._teaching):
            return super().__getitem__(int(self._teaching[index]))
        turn = int(self._epoch) * self._drawn + index - len(self._teaching)
        return super().__getitem__(int(self._empty[turn % len(self._empty)]))


def dataset_of_epochs(
    coco: "CocoAnnotations",
    image_processor: "DeCoDetrImageProcessor",
    names: Collection[str],
    targets: "TargetOptions",
    *,
    teaching: Collection[int],
    seed: int = 0,
) -> DetectionDataset:
    """The data set of all images, or a [`SparseDataset`], with a warning, where most of them teach nothing. Arguments:
    of [`SparseDataset`]."""
    empty = len(coco) - len(teaching)
    if (drawn := drawn_empty(len(teaching), empty)) == empty:
        return DetectionDataset(coco, image_processor, names, targets)
    logger.warning(
        "%d of %d training images have nothing to learn from (no box, no region): an epoch has %d of them, as many "
        "as of the others, and the next epoch the next ones",
        empty,
        len(coco),
        drawn,
    )
    return SparseDataset(coco, image_processor, names, targets, teaching=teaching, seed=seed)
