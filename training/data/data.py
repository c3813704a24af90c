"""What a run learns from: annotations, regions and what is known of whole images, read and checked first."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.formats import form_of
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import has_part, load_annotations, load_stream
from decodetr.annotations.stream import AnnotationStream
from decodetr.processing import RegionTable
from decodetr.training.data.sparse import drawn_empty
from decodetr.training.data.weak_labels import CaptionTable, WeakLabels, read_image_labels
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.provenance import Setting, choose_setting
from decodetr.utils.spelling import spelled_as

logger = logging.getLogger(__name__)

PSEUDO_BOX_SCORE = 0.4  # of a DeCo-DETR's own proposals. docs/scenes.md has the measurement
_BOX_TOLERANCE = 0.01  # pixels, the rounding of float32. A proposer does not hit all four sides so well


@dataclass(frozen=True)
class TrainingData:
    """
    The data of a run.

    Args:
        options (TrainOptions).
        coco (CocoAnnotations or AnnotationStream): annotations that are trained on: of base names, where names are
            split.
        annotated_names (list[str] or None): names that have a box in it. Of a stream those that it declares, if it
            does.
        setting (Setting): what may be used.
        base, novel (list[str] or None): of the names split.
        val (CocoAnnotations or None): of the evaluation.
        regions, replay_regions (RegionTable or None): of the training images and of those that are replayed. The
            model's own are none of them: they need the model and come later.
        replay, held_out (CocoAnnotations or None): replayed images. Data of held-out names.
    """

    options: TrainOptions
    coco: CocoAnnotations | AnnotationStream
    annotated_names: list[str] | None
    setting: Setting
    base: list[str] | None = None
    novel: list[str] | None = None
    val: CocoAnnotations | None = None
    regions: RegionTable | None = None
    replay: CocoAnnotations | None = None
    replay_regions: RegionTable | None = None
    held_out: CocoAnnotations | None = None

    @classmethod
    def read(cls, options: TrainOptions, streams: str) -> "TrainingData":
        """Read what the options name, for a run of these streams.

        Raises:
            FileNotFoundError, ValueError: what the readers refuse, and what the setting forbids.
        """
        split_file = names_split_file(options.data, options.names_split)
        base, novel = read_split(split_file) if split_file else (None, None)
        setting = choose_setting(options.setting, novel)
        form = form_of(options.class_names, options.box_format)
        whole = _load_training(options, form)
        if base is not None and novel is not None:
            base, novel = (spelled_as(group, whole.names or ()) for group in (base, novel))
        coco = whole if base is None else whole.select(base)
        annotated_names = _annotated_names(coco)
        regions = _load_regions(options.regions_folder, options, streams)
        if base is not None and regions is not None and not options.streaming:
            check_regions(regions, whole, base)
        val = _load_validation(options)
        if val is None and options.val_share is not None:
            coco, val = _split_off(coco, whole, options.val_share)
        if val is None:
            none = options.val_annotations == "none"
            why = "--val-annotations none" if none else f"{options.data} has no validation images"
            mend = "" if none else "; --val-share 0.1 holds some training images back"  # who says "none" wants none
            logger.warning("%s, so nothing is evaluated%s", why, mend)
        replay = load_annotations(options.replay_data, "train") if options.replay_data else None
        replay_regions = _load_regions(options.replay_regions, options, streams)
        if replay is not None and base is not None:
            check_regions(replay_regions, replay, base)
            replay = replay.select(base)
        held_out = load_annotations(options.held_out_data, "val") if options.held_out_data else None
        return cls(
            options, coco, annotated_names, setting, base, novel, val, regions, replay, replay_regions, held_out
        )

    def teaching(self, streams: str, class_agnostic: bool) -> set[int]:
        """Ids of the images that teach these streams something: by a box, or by a region that they learn from. A
        starting point that looks itself sees something in all of them. Not of streamed data, which nobody has seen."""
        assert isinstance(self.coco, CocoAnnotations)
        index, objects = self.coco.annotations_by_image, False
        if streams == "localization":  # regions are no objects, unless it is said
            objects = self.pseudo_boxes(streams, class_agnostic).get("pseudo_boxes") == "objects"
        looks = self.options.pseudo_boxes == "objects" and self.options.uses_detector_boxes(streams)
        if self.options.uses_own_regions or (looks and self.regions is None):
            return set(index)
        found = {image for image, count in zip(index, index.objects) if count}
        if self.regions is not None and (objects or streams != "localization"):
            found |= {image for image in index if image in self.regions}
        return found

    def images_of_epoch(self, streams: str, class_agnostic: bool) -> tuple[int, int]:
        """(images that teach these streams something, with those that are replayed; images without anything that an
        epoch has besides). (0, 0) of streamed data, whose length is not known.

        Raises:
            ValueError: no image teaches anything.
        """
        if isinstance(self.coco, AnnotationStream):
            return 0, 0
        own, total = len(self.teaching(streams, class_agnostic)), len(self.coco)
        if not own:
            what = "box" if self.base is None else "box of a base name"
            regions = "--regions" if streams != "localization" else "--regions with --pseudo-boxes objects"
            raise ValueError(
                f"{self.coco.file}: expected something to learn from, got no {what} in {total:,} images, and no "
                f"region that teaches; annotate some (`decodetr validate` says what is there), or give {regions}"
            )
        replayed = 0
        if self.replay is not None:
            limit = len(self.replay.images) if self.options.replay_images is None else self.options.replay_images
            replayed = min(limit, len(self.replay.images))
        return own + replayed, drawn_empty(own, total - own)

    def pseudo_boxes(self, streams: str, class_agnostic: bool) -> dict[str, Any]:
        """Fields of [`TargetOptions`] for regions that may be objects: a dict, empty where nothing learns from
        them."""
        use, score = self.options.pseudo_boxes, self.options.pseudo_box_score
        if use == "none" or streams == "semantic":
            return {}
        return {
            # Only a class-agnostic detector can learn objects without a name.
            "pseudo_boxes": use or ("objects" if class_agnostic else "ignore"),
            "pseudo_box_score": PSEUDO_BOX_SCORE if score is None else score,
        }

    def weak_labels(self, text_model: str | None, training_names: Sequence[str]) -> WeakLabels | None:
        """What is known of whole images, or None. Captions are embedded by `text_model`."""
        captions, image_labels = self.options.captions, self.options.image_labels
        annotated, exhaustive = self.annotated_names or [], self.options.exhaustive
        if exhaustive is None:
            # Of a split, other regions are to be taken for base names: there are no others. LVIS is not exhaustive.
            federated = getattr(self.coco, "federation", None) is not None
            exhaustive = self.novel is None and not federated and set(annotated) < set(training_names)
        complete = frozenset(annotated if exhaustive else ())
        if not captions and not image_labels and not complete:
            return None
        if captions and not text_model:
            raise ValueError("--captions: the pool does not say which text model made it; give --clip NAME")
        labels, labelled = _image_labels(image_labels, training_names) if image_labels else (None, frozenset())
        table, given = None, bool(self.options.text_model)
        if captions and text_model:
            table = CaptionTable.load(captions, text_model, self.options.output_dir, given)
        return WeakLabels(table, labels, labelled, complete)

    def replay_weak_labels(self, training_names: Sequence[str]) -> WeakLabels | None:
        """Names that are somewhere in the replayed images, or None."""
        file = self.options.replay_image_labels
        return WeakLabels(None, *_image_labels(file, training_names)) if file else None


def _load_training(options, form):
    if options.streaming:
        return load_stream(options.data, "train", **form)
    return load_annotations(
        options.data, "train", options.train_annotations, **form_of(options.class_names, options.box_format)
    )


def _load_validation(options):
    """Validation data that the data set has, or that are given."""
    if options.val_annotations == "none":
        return None
    if options.val_annotations or has_part(options.data, "val"):
        return load_annotations(
            options.data, "val", options.val_annotations, **form_of(options.class_names, options.box_format)
        )
    return None


def _load_regions(folder, options, streams):
    """Regions whose caption failed teach the semantic stream alone."""
    unkept = streams != "localization" and options.unkept_regions != "ignore"
    return RegionTable.load(folder, unkept=unkept) if folder else None


def _split_off(coco, whole, share):
    """(training, validation) annotations: a part of the images, drawn by the seed 0 whatever the run's is. For
    validation with the annotations of all names, `whole`."""
    ids = [image["image_id"] for image in coco.images]
    count = min(max(round(share * len(ids)), 1), len(ids) - 1)
    if count < 1:
        raise ValueError(f"--val-share {share}: expected at least two images to divide, got {len(ids)}")
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist()
    val = {ids[i] for i in order[:count]}
    return coco.select_images(set(ids) - val), whole.select_images(val)


def _image_labels(file, training_names):
    """({image_id: names}, all names of the file), some of which are trained on."""
    labels, labelled = read_image_labels(file)
    if not labelled & set(training_names):
        raise ValueError(
            f"{file}: expected names that are trained on, such as {list(training_names)[:3]}, got "
            f"{sorted(labelled)[:3]}; names must be equal to the letter"
        )
    return labels, labelled


def _annotated_names(coco):
    """Names that have a box, crowds apart: files list categories that they have no object of."""
    index = getattr(coco, "annotations_by_image", None)
    if index is None:  # a stream
        return coco.names
    used = set(index.column("category", crowds=False).tolist())
    return [name for number, name in enumerate(coco.names) if number in used]


def check_regions(regions: RegionTable, coco: CocoAnnotations, base: Iterable[str]) -> None:
    """ValueError where regions are boxes of annotations that are no base names, to the hundredth of a pixel.

    Args:
        regions (RegionTable). coco (CocoAnnotations): with all of its annotations. base: names.
    """
    index, known = coco.annotations_by_image, set(base)
    novel = np.array([name not in known for name in coco.names], dtype=bool)
    for image in coco.images:
        rows = index.arrays(image["image_id"])
        hidden = novel[rows["category"]]
        if not hidden.any() or image["image_id"] not in regions:
            continue
        corners = index.corners(image["image_id"])[hidden]
        boxes = regions.boxes(image["image_id"])
        same = (np.abs(boxes[:, None] - corners[None]) <= _BOX_TOLERANCE).all(-1)
        if same.any():
            box, row = (int(i) for i in np.argwhere(same)[0])
            name = coco.names[int(rows["category"][hidden][row])]
            raise ValueError(
                f"{regions.source}: image_id {image['image_id']}: expected regions from proposals and base boxes, got "
                f"the annotated box {boxes[box].tolist()} of {name!r}, which is no base name; build the regions with "
                "the same --names-split"
            )
