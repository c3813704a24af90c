"""What a trained model is given after training, on training images that the run keeps aside: whether overlapping boxes
are duplicates (evaluation/duplicates.py), and scores that say how often they are right (evaluation/calibrate.py).

Validation images are not used: they would then say too much good of the model.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.stream import AnnotationStream
from decodetr.evaluation.calibrate import LEAST_OBJECTS, TooLittle, fit_scores, set_calibration, uncalibrated
from decodetr.evaluation.duplicates import choose_nms_iou
from decodetr.processing import DetectionDataset
from decodetr.training.start.starting_point import said_fields
from decodetr.utils.hub import recorded_place

if TYPE_CHECKING:
    from decodetr.processing import DeCoDetrImageProcessor
    from decodetr.training.options.options import TrainOptions
    from decodetr.training.trainer import DeCoDetrTrainer

logger = logging.getLogger(__name__)

SHARE, MOST = 0.1, 500  # of the training images; two numbers do not get better with more than some thousand objects
_LEAST_IMAGES = 5  # with objects: one crowded picture says little of others
_OTHER_IMAGES = "`decodetr calibrate` does it on other images"


def why_none_kept(options: "TrainOptions", streams: str) -> str | None:
    """Why a run keeps no images aside, or None.

    Args:
        options (TrainOptions). streams (str): that it trains.
    """
    if options.calibration_share == 0:
        return "--calibration-share 0"
    if options.streaming:
        return f"streamed images cannot be kept aside; {_OTHER_IMAGES}"
    if options.exhaustive is False:
        return "--no-exhaustive: whether a detection without a box is wrong is not known"
    if _names_are_new(options, streams) and "nms_iou" in said_fields(options):
        return "names are not trained yet, and nms_iou is given"
    return None


def why_not(options: "TrainOptions", streams: str) -> str | None:
    """Why a run does not calibrate its scores, or None. Args: as [`why_none_kept`]."""
    if _names_are_new(options, streams):
        return "names are not trained yet"
    return why_none_kept(options, streams)


def _names_are_new(options, streams):
    return streams == "localization" and not options.goes_on


def share_of(options: "TrainOptions") -> float:
    """The share of the training images that is kept aside, if any."""
    return SHARE if options.calibration_share is None else options.calibration_share


def images_kept(options: "TrainOptions", streams: str, coco: CocoAnnotations) -> int:
    """How many images [`KeptImages.divide`] would keep aside. Nothing is said. Args: as there."""
    if why_none_kept(options, streams) is not None:
        return 0
    ids = keep_aside(coco, share_of(options), streams != "localization")
    return len(ids) if _enough(*_objects(coco.select_images(ids))) else 0


@dataclass
class KeptImages:
    """
    The images that a run keeps aside, and what is found on them after training.

    Args:
        source (str): where the images are from, for the record.
        kept (CocoAnnotations or None): the images.
        reason (str or None): why scores are not calibrated.
        chooses_nms_iou (bool): the user did not say what a duplicate is; the starting point still may.
    """

    source: str
    kept: CocoAnnotations | None = None
    reason: str | None = None
    chooses_nms_iou: bool = False

    @classmethod
    def divide(
        cls, options: "TrainOptions", streams: str, coco: "CocoAnnotations | AnnotationStream"
    ) -> "tuple[KeptImages, CocoAnnotations | AnnotationStream]":
        """Keep images aside, where there are some to keep.

        Args:
            options (TrainOptions). streams (str): that are trained. coco: annotations that are trained on.

        Returns:
            (KeptImages, annotations of the images that are left).
        """
        source, reason = recorded_place(options.data), why_not(options, streams)
        if why_none_kept(options, streams) is not None or not isinstance(coco, CocoAnnotations):
            return cls(source, reason=reason), coco
        share, names_learn = share_of(options), streams != "localization"
        ids = keep_aside(coco, share, names_learn)
        kept = coco.select_images(ids)
        objects, images = _objects(kept)
        if not _enough(objects, images):
            more = _enough(*_objects(coco.select_images(keep_aside(coco, 1.0, names_learn))))
            few = (
                f"{len(ids)} images that may be kept aside ({100 * share:g} % of the training images) have {objects} "
                f"annotated objects, and at least {LEAST_OBJECTS} are needed, in {_LEAST_IMAGES} images or more"
                f"{'; --calibration-share keeps more' if more else ''}"
            )
            if reason is None:
                logger.warning("Scores are not calibrated: %s, %s", few, _OTHER_IMAGES)
                reason = f"{few}, {_OTHER_IMAGES}"
            else:
                logger.warning("Whether overlapping boxes are duplicates is not found out: %s", few)
            return cls(source, reason=reason), coco
        logger.warning(
            "%d training images with %d objects are kept aside, for what is set after training", len(ids), objects
        )
        asked = "nms_iou" not in said_fields(options)
        return cls(source, kept, reason, asked), coco.select_images({image["image_id"] for image in coco.images} - ids)

    def fit(self, trainer: "DeCoDetrTrainer", processor: "DeCoDetrImageProcessor") -> bool:
        """Choose `nms_iou` and calibrate the trained model of a DeCoDetrTrainer, whose config gets what was found;
        every process does the same. What cannot be fitted leaves it as it is, with a warning. Returns whether the
        config has changed."""
        if self.kept is None:
            return False
        config, names = trainer.model.config, (trainer.deployment_vocabulary or trainer.training_vocabulary).names
        known = set(names)
        if not (shared := [name for name in self.kept.names if name in known]):
            none = f"none of the names of the {len(self.kept)} images kept aside is one of the saved model's"
            logger.warning(
                "Nothing is set after training: %s; `decodetr calibrate --duplicates` does it on images with boxes of "
                "those",
                none,
            )
            self.reason = self.reason or f"{none}; {_OTHER_IMAGES}"
            return False
        coco = self.kept.select(shared)
        dataset = DetectionDataset(coco, processor, names, skip_unknown_names=True)
        with uncalibrated(config):
            found = _detections(trainer, dataset)
            asked = self.chooses_nms_iou and config.nms_iou is None
            suppresses = asked and _choose_nms_iou(config, found.localization)
            if suppresses:
                found = _detections(trainer, dataset)
        if self.reason is not None:
            return suppresses
        try:
            fields = fit_scores(found.by_name)
        except TooLittle as error:
            self.reason = f"of the {len(coco)} images kept aside, {error}"
            logger.warning("Scores are not calibrated: %s", self.reason)
            return suppresses
        set_calibration(config, fields, {"data": self.source, "kept_aside": True})
        return True


def _detections(trainer, dataset):
    """An [`OutputEvaluator`] that has seen what the trained model finds; no callback is told of it."""
    with trainer.other_data():
        loader = trainer.get_eval_dataloader(dataset)
        trainer.evaluation_loop(loader, "Kept images", metric_key_prefix="calibration")
    return trainer.evaluated


def _choose_nms_iou(config, localization):
    """Set the `nms_iou` that suits detections without any; whether there is one."""
    config.nms_iou, reached = choose_nms_iou(localization)
    if config.nms_iou is None:
        return False
    logger.warning(
        "Many objects are found more than once: of boxes that overlap by more than %g the most certain one stays "
        "(nms_iou). AP50 of the boxes on images kept aside is %.1f with it, %.1f without; --set nms_iou=null keeps "
        "them all",
        config.nms_iou,
        reached[config.nms_iou],
        reached[None],
    )
    return True


def _objects(coco):
    """(annotated objects, images that have some)."""
    objects = coco.annotations_by_image.objects
    return int(objects.sum()), int((objects > 0).sum())


def _enough(objects, images):
    return objects >= LEAST_OBJECTS and images >= _LEAST_IMAGES


def keep_aside(coco: CocoAnnotations, share: float, names_learn: bool = True) -> set[int]:
    """
    Image ids of a share of the images, at most 500, drawn by the seed 0 whatever the run's is, so that every stage of
    a training keeps the same ones. Every name keeps boxes in the others: an image that has the last one is not taken.

    Args:
        coco (CocoAnnotations). share (float): in 0..1.
        names_learn (bool): else such images are taken too where there are not enough others, but for the last boxes of
            all.

    Returns:
        set of int.
    """
    index = coco.annotations_by_image
    ids = [image["image_id"] for image in coco.images]
    wanted = min(round(share * len(ids)), MOST)
    names = [np.unique(index.arrays(image_id)["category"]) for image_id in ids]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist()
    kept = _without_last(order, names, wanted)
    if not names_learn:
        others = [place for place in order if place not in kept]
        kept |= _without_last(others, [0 * found[:1] for found in names], wanted - len(kept))
    return {ids[place] for place in kept}


def _without_last(places, names, wanted):
    """The first `wanted` of some places that leave each of the names to another one. names: arrays, one a place."""
    left, taken = np.bincount(np.concatenate([np.zeros(0, np.int64), *(names[place] for place in places)])), set()
    for place in places:
        if len(taken) == wanted:
            break
        if (left[names[place]] > 1).all():
            left[names[place]] -= 1
            taken.add(place)
    return taken
