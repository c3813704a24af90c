"""`decodetr calibrate`: the scores of a model that is there, on annotated images."""

import argparse
import sys

from decodetr.annotations.formats import DATA_HELP, form_of
from decodetr.cli.options import (
    add_batch_size,
    add_device,
    add_form_arguments,
    add_output,
    add_overwrite,
    add_workers,
    at_least,
)
from decodetr.evaluation import CALIBRATION_IMAGES
from decodetr.utils.documents import read_json
from decodetr.utils.outputs import unwritten
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, expect_file
from decodetr.utils.tables import markdown_table, score_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr calibrate`."""
    add = parser.add_argument
    add("--model", required=True, help="folder, Hub name or shipped name of a DeCo-DETR; required")
    add("--data", metavar="DIR", help=f"calibrate on training images of this data set: {DATA_HELP}")
    add("--annotations", metavar="FILE", help="calibrate on the images of this COCO or LVIS annotation file instead")
    add(
        "--thresholds",
        metavar="FILE",
        help="no images: give the model the thresholds of this file, thresholds.json of `decodetr eval --output`",
    )
    add(
        "--images",
        metavar="DIR",
        help="image folder of --annotations (default: next to annotations/, with the name of the annotation file)",
    )
    add_form_arguments(parser)
    add(
        "--names-split",
        metavar="FILE",
        help="JSON file of base and novel names; only base names are annotated. none: no split (default: names.json "
        "of --data)",
    )
    add_output(
        parser, "write a calibrated copy of the model into this folder (default: change the folder of the model)"
    )
    add_overwrite(parser)
    add(
        "--most",
        type=int,
        default=CALIBRATION_IMAGES,
        metavar="N",
        help=f"use at most this many images, drawn at random (default: {CALIBRATION_IMAGES})",
    )
    add(
        "--duplicates",
        action="store_true",
        help="also find out whether overlapping boxes are duplicates, as train does, where the model has no nms_iou",
    )
    add_batch_size(parser, default=8)
    add_workers(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr calibrate`. Returns the exit status."""
    from decodetr.cards.scores import HEADER, score_rows
    from decodetr.evaluation.model_calibration import CalibrationOptions, calibrate_model
    from decodetr.evaluation.thresholds import read_thresholds
    from decodetr.utils.devices import pick_device

    options = CalibrationOptions(
        model=args.model,
        data=args.data,
        annotations=args.annotations,
        images=args.images,
        names_split=args.names_split,
        output=args.output,
        most=args.most,
        duplicates=args.duplicates,
        thresholds=args.thresholds,
        batch_size=args.batch_size,
        num_workers=args.workers,
        device=args.device,
        **form_of(args.class_names, args.box_format),
    )

    run_checks(
        lambda: at_least(args, most=1, batch_size=1, workers=0),
        options.source,
        lambda: expect("model", args.model, "config.json"),
        lambda: expect_file("--annotations", args.annotations),
        lambda: args.thresholds and read_thresholds(args.thresholds),
        lambda: expect_file("--names-split", None if args.names_split == "none" else args.names_split),
        options.place,
        lambda: unwritten(
            "--output", args.output, ("config.json",), "decodetr calibrate", args.overwrite, _is_calibrated
        ),
        lambda: pick_device(args.device),
    )
    config, info = calibrate_model(options)
    if args.thresholds:
        done = f"The thresholds of {args.thresholds}: the"
    else:
        sys.stdout.write(markdown_table(HEADER, score_rows(info, "these images")))
        done = f"Calibrated on {info['images']} images with {info['objects']} objects of {info['names']} names; the"
    own = len(config.name_thresholds or ())
    sys.stdout.write(
        f"{done} default threshold is {score_text(config.common_threshold)}"
        + (f", {own} names have a separate one" if own else "")
        + f": {options.place()}\n"
    )
    return 0


def _is_calibrated(file):
    """Whether a config is of a calibrated DeCo-DETR."""
    return file.is_file() and bool(read_json(file, dict).get("calibration_info"))
