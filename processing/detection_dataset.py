"""What a DataLoader gives the model: images through the image processor, boxes and names as training targets.

Targets are computed here, relative to the image, and not by the image processor: they depend on neither resizing nor
padding (image_processing_pil_decodetr.py), so one place serves objects and regions.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch.utils.data import Dataset
from torchvision.ops import box_iou

from decodetr.annotations.coco import CocoAnnotations, read_annotated
from decodetr.processing.augmentations import DetectionAugmentation
from decodetr.processing.regions import RegionTable
from decodetr.utils.box_tensors import relative_centers
from decodetr.utils.boxes import corners_of
from decodetr.utils.drawing import shrunk
from decodetr.utils.spelling import spelled_otherwise

if TYPE_CHECKING:
    from typing import Protocol

    import numpy as np
    import PIL.Image

    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

    class ImageLabels(Protocol):
        """What is known of whole images: label entries of one of them."""

        def of_image(
            self, image_id: int, label_of_name: Mapping[str, int], crowded: Iterable[int] = ()
        ) -> dict[str, torch.Tensor]: ...


# What regions that may be objects are to the localization stream, and the key of the label that holds them.
PSEUDO_BOXES = {"objects": "pseudo_boxes", "ignore": "ignore_boxes"}
_LARGE = 4096  # pixels a side: larger images are reduced before augmentation, which copies them several times
_ANNOTATED_IOU = 0.5  # a box that overlaps an annotated one this much is that object again


@dataclass(frozen=True)
class TargetOptions:
    """
    What the targets of an image are made of, besides its annotations.

    Args:
        regions (RegionTable, optional): joined by image id. Names of files must agree.
        augmentation (DetectionAugmentation, optional): called with `set_epoch`'s epoch and the image's id.
        skip_unknown_names (bool): leave out annotations whose name is not in the vocabulary. Otherwise they are an
            error.
        pseudo_box_score (float, optional): regions with at least this proposal score that lie on no annotated box
            (IoU below 0.5; crowds count, annotations that are left out do not) are objects to the localization stream;
            needs `regions`.
        pseudo_boxes (str): "objects", or "ignore": they are neither objects nor background (`ignore_weight`).
        weak_labels ([`WeakLabels`], optional): captions and names of whole images. Anything with `of_image`.

    Raises:
        ValueError: values that do not go together, or out of their range.
    """

    regions: RegionTable | None = None
    augmentation: DetectionAugmentation | None = None
    skip_unknown_names: bool = False
    pseudo_box_score: float | None = None
    pseudo_boxes: str = "objects"
    weak_labels: ImageLabels | None = None

    def __post_init__(self) -> None:
        score = self.pseudo_box_score
        if self.pseudo_boxes not in PSEUDO_BOXES:
            raise ValueError(f"pseudo_boxes must be one of {', '.join(PSEUDO_BOXES)}, got {self.pseudo_boxes!r}")
        if score is not None and self.regions is None:
            raise ValueError("pseudo_box_score needs regions: pseudo boxes are the regions of a high proposal score")
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"pseudo_box_score must be in 0..1, got {score}")


class TargetMaker:
    """
    What makes one training item of an image and its annotations: the base of `DetectionDataset`, whose items these
    are, and of `StreamedDetectionDataset`.

    Args:
        image_processor: DeCoDetrImageProcessor or its PIL twin. names (list[str]): of the vocabulary.
        targets (TargetOptions).

    Attributes:
        label_of_name (dict[str, int]): the names of the vocabulary.
    """

    def __init__(
        self,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        names: Collection[str],
        targets: TargetOptions,
    ) -> None:
        self.image_processor = image_processor
        self.names = list(names)
        self.targets = targets
        self.label_of_name = {}
        for label, name in enumerate(self.names):
            self.label_of_name.setdefault(name, label)
        # In shared memory, so that set_epoch reaches workers that are already running (persistent_workers).
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Epoch of the augmentations. Also reaches running workers. transformers' Trainer calls it."""
        self._epoch.fill_(int(epoch))

    def without_augmentation(self) -> Self:
        """Return the same data set with its images as they are."""
        plain = copy.copy(self)
        plain.targets = replace(self.targets, augmentation=None)
        return plain

    def make_item(
        self,
        image: PIL.Image.Image,
        image_id: int,
        class_labels: torch.Tensor,
        annotations: dict[str, np.ndarray],
        epoch: int,
    ) -> dict[str, Any]:
        """
        One item.

        Args:
            image (PIL.Image): RGB. image_id (int): of its regions and its augmentation.
            class_labels (tensor): (n,) int64. Annotations of label -1 are left out.
            annotations (dict): arrays bbox (n, 4) float64, xywh pixels, and iscrowd (n,), as `AnnotationIndex.arrays`
                gives them.
            epoch (int): of the augmentation.
        """
        targets, rows = self.targets, {"class_labels": class_labels}
        # In float64 until both corners are known: x + w must not lose the last pixel fraction.
        boxes = {"boxes": torch.from_numpy(corners_of(annotations["bbox"]).astype("float32"))}
        crowds = torch.from_numpy(annotations["iscrowd"] != 0)
        keep = {"boxes": (rows["class_labels"] >= 0) & ~crowds}
        if targets.regions is not None:
            regions = targets.regions.get(image_id)
            boxes["region_boxes"] = torch.from_numpy(regions["boxes"])
            rows["region_embeds"] = torch.from_numpy(regions["image_embeds"])
            rows["region_text_embeds"] = torch.from_numpy(regions["text_embeds"])
            rows["region_kept"] = torch.from_numpy(targets.regions.kept(image_id))
            keep["region_boxes"] = torch.ones(len(regions["boxes"]), dtype=torch.bool)

        limits = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
        for name in boxes:
            boxes[name] = boxes[name].clamp(min=torch.zeros(4), max=limits)
            keep[name] &= (boxes[name][:, 2:] > boxes[name][:, :2]).all(dim=1)
        if targets.pseudo_box_score is not None:
            certain = torch.from_numpy(regions["proposal_scores"] >= targets.pseudo_box_score) & rows["region_kept"]
            unnamed = PSEUDO_BOXES[targets.pseudo_boxes]
            boxes[unnamed] = boxes["region_boxes"]
            # An annotation that is left out for its name leaves its object to the region that lies on it.
            taken = boxes["boxes"][keep["boxes"] | crowds]
            keep[unnamed] = keep["region_boxes"] & certain & apart_from(taken, boxes["region_boxes"])
        boxes, rows = _select(boxes, rows, keep)
        if targets.augmentation is not None:
            image, scale = shrunk(image, _LARGE)
            boxes = {name: value * scale for name, value in boxes.items()} if scale < 1 else boxes
            image, boxes, keep = targets.augmentation(image, boxes, epoch=epoch, image_id=image_id)
            _, rows = _select({}, rows, keep)
        if (kept := rows.pop("region_kept", None)) is not None:
            rows["region_text_embeds"] = rows["region_text_embeds"][kept]

        inputs = self.image_processor(images=image, return_tensors="pt")
        item = {name: inputs[name][0] for name in ("pixel_values", "pixel_mask") if name in inputs}
        labels = {name: relative_centers(value, *image.size) for name, value in boxes.items()}
        labels.update(rows)
        if targets.weak_labels is not None:
            crowded = class_labels[torch.from_numpy(annotations["iscrowd"] != 0)].tolist()
            labels.update(targets.weak_labels.of_image(image_id, self.label_of_name, crowded))
        labels["image_id"] = torch.tensor([image_id])
        labels["orig_size"] = torch.tensor([image.height, image.width])
        return {**item, "labels": labels}


class DetectionDataset(TargetMaker, Dataset):
    """
    Images of a COCO file with the targets of DeCoDetrForObjectDetection.

    Args:
        coco (CocoAnnotations): images and boxes.
        image_processor: DeCoDetrImageProcessor or its PIL twin.
        names (list[str]): the vocabulary. `class_labels` index it. Category names are matched to it exactly.
        targets (TargetOptions, optional): what targets are made of.
        fields: of TargetOptions, as keywords: `regions`, `augmentation`,
            `skip_unknown_names`, `pseudo_box_score`, `pseudo_boxes`, `weak_labels`.

    Items are dicts: `pixel_values` (3, H, W) float, `pixel_mask` (H, W) int64 where the processor pads, and `labels`,
        with class_labels (n,) int64, boxes (n, 4) float32 (cx, cy, w, h) in 0..1, image_id (1,) int64, orig_size (2,)
        int64 (height, width) of the image that went into the processor (the file's, unless augmented); and with
        regions region_boxes (R, 4) likewise, region_embeds (R, d), and of those whose caption was kept
        region_text_embeds (R', d), float32, unit rows; and with
        pseudo_box_score pseudo_boxes or ignore_boxes (P, 4) likewise; and with weak_labels caption_embeds (c, d) and
        absent_labels (L,) int64.
    Images without objects stay, with n = 0. Crowd annotations and boxes without area in the image are left out.
    """

    def __init__(
        self,
        coco: CocoAnnotations,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        names: Collection[str],
        targets: TargetOptions | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(image_processor, names, replace(targets or TargetOptions(), **fields))
        self.coco = coco
        labels = [self.label_of_name.get(name, -1) for name in coco.names]
        self._label_of_category = torch.tensor(labels, dtype=torch.int64)
        if not self.targets.skip_unknown_names:
            used = torch.zeros(len(coco.names), dtype=torch.bool)
            used[torch.from_numpy(coco.annotations_by_image.column("category"))] = True
            without_label = used & (self._label_of_category < 0)
            unknown = [name for name, missing in zip(coco.names, without_label.tolist()) if missing]
            check_known(coco.file, unknown, self.names)
        regions = self.targets.regions
        if regions is not None and len(regions):
            regions.check_images(coco.images, coco.file)

    def __len__(self) -> int:
        return len(self.coco.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self.coco.images[index]
        image = read_annotated(entry, self.coco.file)
        annotations = self.coco.annotations_by_image.arrays(entry["image_id"])
        labels = self._label_of_category[torch.from_numpy(annotations["category"])]
        return self.make_item(image, entry["image_id"], labels, annotations, int(self._epoch))


def check_known(where: object, unknown: list[str], names: Collection[str]) -> None:
    """A ValueError if any names of a data set, `unknown`, are not in the vocabulary `names`."""
    if unknown:
        raise ValueError(
            f"{where}: expected names of the vocabulary ({len(names)} names), got {unknown[:10]}"
            f"{f' and {len(unknown) - 10} more' if len(unknown) > 10 else ''}{spelled_otherwise(unknown, names)}; add "
            "them to the vocabulary, or leave their annotations out with skip_unknown_names=True"
        )


def detection_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Batch of DetectionDataset's items: `pixel_values` (B, 3, H, W), `labels` (list of B dicts) and `pixel_mask`
    (B, H, W) if the items have it. Items with a mask are padded at the bottom and right to the largest. Without one,
    all must be of one size (ValueError).
    """
    if lacks := {"pixel_values", "labels"} - items[0].keys():
        raise ValueError(
            f"expected items with pixel_values and labels, got {sorted(items[0])} without {sorted(lacks)}; make them "
            "by DetectionDataset, or by an image processor in `with_transform`"
        )
    sizes = [tuple(item["pixel_values"].shape[-2:]) for item in items]
    batch: dict[str, Any] = {"labels": [item["labels"] for item in items]}
    if len(set(sizes)) == 1:
        for name in ("pixel_values", "pixel_mask"):
            if name in items[0]:
                batch[name] = torch.stack([item[name] for item in items])
        return batch
    if not all("pixel_mask" in item for item in items):
        raise ValueError(
            f"expected images of one size in a batch, got (height, width) {sorted(set(sizes))[:4]}; give the image "
            "processor a fixed size, {'height': ..., 'width': ...}, or do_pad=True if the detector honours pixel_mask "
            "(the RT-DETR family, with D-FINE and DEIMv2, does not)"
        )
    height, width = (max(side) for side in zip(*sizes))
    for name in ("pixel_values", "pixel_mask"):
        first = items[0][name]
        batch[name] = first.new_zeros((len(items), *first.shape[:-2], height, width))
        for padded, item, (item_height, item_width) in zip(batch[name], items, sizes):
            padded[..., :item_height, :item_width] = item[name]
    return batch


def apart_from(annotated: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(n,) bool: which boxes (n, 4) lie on none of the annotated ones (m, 4), x0, y0, x1, y1: IoU below 0.5."""
    if not len(annotated):
        return torch.ones(len(boxes), dtype=torch.bool)
    return box_iou(boxes, annotated).amax(1) < _ANNOTATED_IOU


def _select(boxes, rows, keep):
    """Boxes and the rows that go with them (labels with objects, embeddings with regions), filtered in step."""
    boxes = {name: value[keep[name]] for name, value in boxes.items()}
    rows = {name: value[keep["boxes" if name == "class_labels" else "region_boxes"]] for name, value in rows.items()}
    return boxes, rows
