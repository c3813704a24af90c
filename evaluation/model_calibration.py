"""Calibrate the scores of a saved model on annotated images, as `decodetr calibrate` does."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import load_annotations
from decodetr.cards.scores import with_scores
from decodetr.evaluation import CALIBRATION_IMAGES
from decodetr.evaluation.calibrate import fit_scores, set_calibration, uncalibrated
from decodetr.evaluation.duplicates import choose_nms_iou
from decodetr.evaluation.loop import run_predictor
from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
from decodetr.evaluation.predictors import DeCoDetrPredictor
from decodetr.evaluation.thresholds import read_thresholds
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.modeling_decodetr.remote_entries import remote_entries
from decodetr.utils.documents import read_text
from decodetr.utils.files import claim, committed, output_folder, write_text
from decodetr.utils.hub import recorded_place
from decodetr.utils.shipped import HUB_CARDS, resolve
from decodetr.utils.spelling import spelled_as

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """
    Which model is calibrated, and on what. Messages call the fields by the options of `decodetr calibrate`.

    Args:
        model: folder or name of a DeCo-DETR.
        data: a data set, as [`load_annotations`] takes it. Its training images count. annotations: instead, or of it:
            a COCO or LVIS file. images: folder of its images.
        class_names, box_format: of a `datasets` data set, as [`load_annotations`] takes them.
        names_split: names.json whose base names are annotated, or "none". Default: that of `data`.
        output: folder for a copy. None calibrates the model in its folder.
        most: images, drawn at random.
        duplicates: also find out whether overlapping boxes are duplicates, where the model has no `nms_iou` yet.
        thresholds: instead of images, thresholds.json of an evaluation. The model takes them over, its scores stay.
    """

    model: str
    data: str | None = None
    annotations: str | None = None
    images: str | None = None
    class_names: list[str] | None = None
    box_format: str = "coco"
    names_split: str | None = None
    output: str | None = None
    most: int = CALIBRATION_IMAGES
    duplicates: bool = False
    thresholds: str | None = None
    batch_size: int = 8
    num_workers: int = 0
    device: str = "auto"

    def source(self) -> str:
        """What the images and boxes are read from: the annotation file, else the data set. Or the thresholds.

        Raises:
            ValueError: neither is given, or thresholds besides.
        """
        if self.thresholds:
            of_images = {
                "--data": self.data,
                "--annotations": self.annotations,
                "--images": self.images,
                "--names-split": self.names_split,
                "--duplicates": self.duplicates,
                "--most": self.most != CALIBRATION_IMAGES,
            }
            if given := [option for option, value in of_images.items() if value]:
                raise ValueError(f"--thresholds FILE reads no images; leave out {', '.join(given)}")
            return self.thresholds
        if not (source := self.annotations or self.data):
            raise ValueError(
                "give --data DIR or --annotations FILE: annotated images, best those of no training. Or give "
                "--thresholds FILE"
            )
        return source

    def place(self) -> Path:
        """The folder that is written.

        Raises:
            ValueError: it is not the user's own, or holds something else.
        """
        folder = resolve(self.model)
        if self.output is None:
            if not Path(folder).is_dir() or Path(folder).parent == HUB_CARDS:
                raise ValueError(
                    f"--model {self.model}: expected a folder that may be changed; give --output DIR for a copy"
                )
            return output_folder(folder, "--model")
        output = output_folder(self.output, "--output")
        if output.is_dir() and Path(folder).is_dir() and output.samefile(folder):
            raise ValueError(f"--output {output} is the model's own folder; leave it out to calibrate it there")
        return output


def calibrate_model(options: CalibrationOptions) -> tuple[DeCoDetrConfig, dict[str, Any]]:
    """
    Calibrate a model and write config.json and the card into `options.place()`.

    Returns:
        (the calibrated config, its `calibration_info`).

    Raises:
        ValueError: the images have none of the model's names, or cannot calibrate it.
    """
    with claim(options.place(), "decodetr calibrate"):
        if options.thresholds:
            return _take_over(options)
        coco = _annotated(options)
        model, image_processor = load_model(options.model, device=options.device)
        coco.names = spelled_as(coco.names, model.vocabulary.names)  # thresholds are kept by the model's names
        known = set(model.vocabulary.names)
        if not (names := [name for name in coco.names if name in known]):
            raise ValueError(
                f"{coco.file}: none of its {len(coco.names)} names, such as {coco.names[:3]}, is one of the model's "
                f"{len(known)}, such as {model.vocabulary.names[:3]}; names must be equal to the letter"
            )
        coco = coco.select(names)
        with uncalibrated(model.config):
            found = _detections(options, model, image_processor, coco)
            if options.duplicates and _choose_nms_iou(model.config, found.localization):
                found = _detections(options, model, image_processor, coco)
        try:
            fields = fit_scores(found.by_name)
        except ValueError as error:
            raise ValueError(
                f"{coco.file}: {len(coco)} images: {error}; give others, or a model that finds more"
            ) from error
        info = set_calibration(model.config, fields, {"data": recorded_place(options.source()), "kept_aside": False})
        _write(options, model, image_processor)
        return model.config, info


def _choose_nms_iou(config, localization):
    """Set the `nms_iou` that suits detections without any, and say what was found. Whether boxes change by it."""
    if config.nms_iou is not None:
        logger.warning(
            'Duplicates: the model has nms_iou %g already, which stays; for another choice write "nms_iou": null '
            "into its config.json first",
            config.nms_iou,
        )
        return False
    config.nms_iou, reached = choose_nms_iou(localization)
    tried = ", ".join(f"{ap:.1f} with nms_iou {iou:g}" for iou, ap in reached.items() if iou is not None)
    chosen = "none is chosen" if config.nms_iou is None else f"{config.nms_iou:g} is chosen"
    logger.warning("Duplicates: AP50 of the boxes is %.1f without nms_iou, %s; %s", reached[None], tried, chosen)
    return config.nms_iou is not None


def _take_over(options):
    """Thresholds of a file instead of those of a calibration. Slope and bias of the scores stay."""
    common, own = read_thresholds(options.thresholds)
    model, image_processor = load_model(options.model, device="cpu")
    config, known = model.config, set(model.vocabulary.names)
    if own and not (known & own.keys()):
        raise ValueError(
            f"{options.thresholds}: none of its {len(own)} names, such as {list(own)[:3]}, is one of the model's "
            f"{len(known)}, such as {model.vocabulary.names[:3]}; names must be equal to the letter"
        )
    config.score_threshold, config.name_thresholds = common, own or None
    # What the calibration reached was measured with other thresholds.
    earlier = {key: value for key, value in (config.calibration_info or {}).items() if key not in ("before", "after")}
    config.calibration_info = {**earlier, "thresholds_of": recorded_place(options.thresholds)}
    _write(options, model, image_processor)
    return config, config.calibration_info


def _annotated(options: CalibrationOptions) -> CocoAnnotations:
    """The annotations of base names of some images."""
    coco = load_annotations(
        options.data,
        "train",
        options.annotations,
        options.images,
        class_names=options.class_names,
        box_format=options.box_format,
    )
    if split := names_split_file(options.data, options.names_split):
        coco = coco.select(spelled_as(read_split(split)[0], coco.names))
    order = torch.randperm(len(coco), generator=torch.Generator().manual_seed(0)).tolist()
    return coco.select_images({coco.images[place]["image_id"] for place in order[: options.most]})


def _detections(options, model, image_processor, coco):
    rules = rules_of(coco)
    evaluator = OutputEvaluator(coco, model.vocabulary.names, None, **rules)
    predictor = DeCoDetrPredictor(model, image_processor, rules["max_detections"])
    run_predictor(predictor, coco, evaluator, options.batch_size, options.num_workers)
    return evaluator


def _write(options, model, image_processor):
    """config.json and the card, in a copy with everything else that a model needs: all of it or nothing."""
    folder, place = Path(resolve(options.model)), options.place()
    with committed(place) as staging:
        if options.output is not None:
            model.save_pretrained(staging)
            image_processor.save_pretrained(staging)
            if (made := folder / "training_config.yaml").is_file():
                write_text(staging / made.name, read_text(made))
        else:
            with remote_entries(model.config):
                model.config.save_pretrained(staging)
        write_text(staging / "README.md", with_scores(folder / "README.md", model.config, place))
