"""The scores of a trained model, calibrated on training images that the run keeps aside (evaluation/calibrate.py).

Validation images are not used: they would then say too much good of the scores.
"""

import logging

import numpy as np
import torch

from decodetr.evaluation.calibrate import LEAST_OBJECTS, TooLittle, fit_scores, set_calibration, uncalibrated
from decodetr.processing import DetectionDataset
from decodetr.training.options import goes_on
from decodetr.utils.hub import recorded_place

logger = logging.getLogger(__name__)

SHARE, MOST = 0.1, 500  # of the training images; two numbers do not get better with more than some thousand objects
_OTHER_IMAGES = "`decodetr calibrate` does it on other images"


def why_not(args, streams):
    """Why a run does not calibrate its scores, or None.

    Args:
        args: of the command. streams (str): that it trains.
    """
    if args.calibration_share == 0:
        return "--calibration-share 0"
    if streams == "localization" and not goes_on(args):
        return "names are not trained yet"
    if args.streaming:
        return f"streamed images cannot be kept aside; {_OTHER_IMAGES}"
    if args.exhaustive is False:
        return "--no-exhaustive: whether a detection without a box is wrong is not known"
    return None


def share_of(args):
    """The share of the training images that is kept aside, if any."""
    return SHARE if args.calibration_share is None else args.calibration_share


class ScoreCalibration:
    """
    Keeps images aside before training, and calibrates after it.

    Args:
        args: of the command. streams (str): that are trained. data (TrainingData): its `coco` loses the images.

    Attributes:
        kept (CocoAnnotations or None): the images that are kept aside.
        reason (str or None): why scores are not calibrated.
    """

    def __init__(self, args, streams, data):
        self.kept, self.reason = None, why_not(args, streams)
        self.source = recorded_place(args.data)
        if self.reason is not None:
            return
        share = share_of(args)
        kept = keep_aside(data.coco, share)
        index = data.coco.select_images(kept).annotations_by_image
        objects = len(index.column("id", crowds=False))
        if objects < LEAST_OBJECTS:
            self.reason = (
                f"{len(kept)} images that may be kept aside ({100 * share:g} % of the training images) have {objects} "
                f"annotated objects, and at least {LEAST_OBJECTS} are needed; --calibration-share keeps more, "
                f"{_OTHER_IMAGES}"
            )
            logger.warning("Scores are not calibrated: %s", self.reason)
            return
        self.kept = data.coco.select_images(kept)
        data.coco = data.coco.select_images({image["image_id"] for image in data.coco.images} - kept)
        logger.warning("%d training images with %d objects are kept aside to calibrate scores", len(kept), objects)

    def fit(self, trainer, processor):
        """Calibrate the trained model of a DeCoDetrTrainer, whose config gets what was found; every process does the
        same. What cannot be fitted leaves it as it is, with a warning."""
        if self.kept is None:
            return
        model, names = trainer.model, (trainer.deployment_vocabulary or trainer.training_vocabulary).names
        known = set(names)
        coco = self.kept.select([name for name in self.kept.names if name in known])
        dataset = DetectionDataset(coco, processor, names, skip_unknown_names=True)
        try:
            with uncalibrated(model.config):
                evaluator = _detections(trainer, dataset)
            fields = fit_scores(evaluator)
        except TooLittle as error:
            self.reason = f"of the {len(coco)} images kept aside, {error}"
            logger.warning("Scores are not calibrated: %s", self.reason)
            return
        set_calibration(model.config, fields, {"data": self.source, "kept_aside": True})


def _detections(trainer, dataset):
    """A [`DetectionEvaluator`] that has seen what the trained model finds; no callback is told of it."""
    split, groups, trainer.novel_names, trainer.groups = trainer.novel_names, trainer.groups, None, None
    trainer.forget_eval_loader()
    try:
        loader = trainer.get_eval_dataloader(dataset)
        trainer.evaluation_loop(loader, "Calibration", metric_key_prefix="calibration")
    finally:
        trainer.novel_names, trainer.groups = split, groups
        trainer.forget_eval_loader()
    return trainer.evaluated


def keep_aside(coco, share):
    """
    Image ids of a share of the images, at most 500, drawn by the seed 0 whatever the run's is, so that every stage of
    a training keeps the same ones. Every name keeps boxes in the others: an image that has the last one is not taken.

    Args:
        coco (CocoAnnotations). share (float): in 0..1.

    Returns:
        set of int.
    """
    index = coco.annotations_by_image
    ids = [image["image_id"] for image in coco.images]
    wanted = min(round(share * len(ids)), MOST)
    names = [np.unique(index.arrays(image_id)["category"]) for image_id in ids]
    left = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *names]), minlength=len(coco.names))
    kept = set()
    for place in torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist():
        if len(kept) == wanted:
            break
        if (left[names[place]] > 1).all():
            left[names[place]] -= 1
            kept.add(ids[place])
    return kept
