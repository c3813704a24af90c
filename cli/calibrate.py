"""The command `decodetr calibrate`: the scores of a model that is there, on annotated images.

Heavy imports are inside the functions, so that `decodetr calibrate --help` is instant.
"""

import sys
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, form_of
from decodetr.cli.options import add_form_arguments
from decodetr.utils.documents import read_text
from decodetr.utils.files import claim, committed, output_folder, write_text
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import HUB_CARDS, expect, expect_file, resolve

MOST = 500  # images; more make the two numbers no better


def add_arguments(parser):
    """Arguments of `decodetr calibrate`."""
    add = parser.add_argument
    add("--model", required=True, help="folder or Hub name of a DeCo-DETR")
    add("--data", metavar="DIR", help=f"{DATA_HELP}; its training images are taken")
    add("--annotations", metavar="FILE", help="COCO or LVIS annotation file, instead")
    add("--images", metavar="DIR", help="image folder; default: beside annotations/, named like the annotation file")
    add_form_arguments(parser)
    add("--names-split", metavar="FILE", help="names.json whose base names are annotated (default: that of --data)")
    add("--output", metavar="DIR", help="a copy of the model with its calibration (default: in the model's folder)")
    add("--most", type=int, default=MOST, metavar="N", help=f"images, drawn at random (default: {MOST})")
    add("--batch-size", type=int, default=8)
    add("--num-workers", type=int, default=0, help="processes that read images (default: 0, this one)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")


def run(args):
    """Calibrate, write config.json and the card. Returns the exit code."""
    from decodetr.utils.devices import pick_device

    def numbers():
        for name, least in {"most": 1, "batch_size": 1, "num_workers": 0}.items():
            if (value := getattr(args, name)) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")

    def data():
        if not (args.data or args.annotations):
            raise ValueError("give --data DIR or --annotations FILE: annotated images, best those of no training")

    run_checks(
        numbers,
        data,
        lambda: expect("model", args.model, "config.json"),
        lambda: expect_file("--annotations", args.annotations),
        lambda: expect_file("--names-split", None if args.names_split == "none" else args.names_split),
        lambda: _place(args),
        lambda: pick_device(args.device),
    )
    with claim(_place(args), "decodetr calibrate"):
        return _calibrate(args)


def _place(args):
    """The folder that is written.

    Raises:
        ValueError: it is not the user's own, or holds something else.
    """
    folder = resolve(args.model)
    if args.output is None:
        if not Path(folder).is_dir() or Path(folder).parent == HUB_CARDS:
            raise ValueError(
                f"--model {args.model}: expected a folder that may be changed; give --output DIR for a copy"
            )
        return output_folder(folder, "--model")
    output = output_folder(args.output, "--output")
    if output.is_dir() and Path(folder).is_dir() and output.samefile(folder):
        raise ValueError(f"--output {output} is the model's own folder; leave it out to calibrate it there")
    return output


def _calibrate(args):
    from decodetr.evaluation.calibrate import fit_scores
    from decodetr.evaluation.score_card import HEADER, score_rows
    from decodetr.inference.loading import load_detector
    from decodetr.training.calibration import set_calibration, uncalibrated
    from decodetr.utils.hub import recorded_place
    from decodetr.utils.markup import markdown_table

    coco = _annotated(args)
    model, image_processor = load_detector(args.model, device=args.device)
    known = set(model.vocabulary.names)
    if not (names := [name for name in coco.names if name in known]):
        raise ValueError(
            f"{coco.file}: none of its {len(coco.names)} names, such as {coco.names[:3]}, is one of the model's "
            f"{len(known)}, such as {model.vocabulary.names[:3]}; names must be equal to the letter"
        )
    coco = coco.select(names)
    with uncalibrated(model.config):
        evaluator = _detections(args, model, image_processor, coco)
    try:
        fields = fit_scores(evaluator)
    except ValueError as error:
        raise ValueError(
            f"{coco.file}: {len(coco)} images: {error}; give others, or a model that finds more"
        ) from error
    data = recorded_place(args.annotations or args.data)
    set_calibration(model.config, fields, {"data": data, "kept_aside": False})
    place = _place(args)
    _write(args, model, image_processor, place)
    info = model.config.calibration_info
    sys.stdout.write(markdown_table(HEADER, score_rows(info, "these images")))
    own = len(model.config.name_thresholds or ())
    sys.stdout.write(
        f"Calibrated on {info['images']} images with {info['objects']} objects of {info['names']} names; the default "
        f"threshold is {model.config.common_threshold:g}"
        + (f", {own} names have their own" if own else "")
        + f": {place}\n"
    )
    return 0


def _annotated(args):
    """The annotations of base names of some images."""
    import torch

    from decodetr.annotations.names_split import names_split_file, read_split
    from decodetr.annotations.sources import load_annotations

    form = form_of(args.class_names, args.box_format)
    coco = load_annotations(args.data, "train", args.annotations, args.images, **form)
    split = names_split_file(args.data, args.names_split) if args.data or args.names_split else None
    if split:
        coco = coco.select(read_split(split)[0])
    order = torch.randperm(len(coco), generator=torch.Generator().manual_seed(0)).tolist()
    return coco.select_images({coco.images[place]["image_id"] for place in order[: args.most]})


def _detections(args, model, image_processor, coco):
    from decodetr.evaluation.loop import run_predictor
    from decodetr.evaluation.output_evaluator import OutputEvaluator, rules_of
    from decodetr.evaluation.predictors import DeCoDetrPredictor

    rules = rules_of(coco)
    evaluator = OutputEvaluator(coco, model.vocabulary.names, None, **rules)
    predictor = DeCoDetrPredictor(model, image_processor, rules["max_detections"])
    run_predictor(predictor, coco, evaluator, args.batch_size, args.num_workers)
    return evaluator.by_name


def _write(args, model, image_processor, place):
    """config.json and the card, in a copy with everything else that a model needs: all of it or nothing."""
    from decodetr.evaluation.score_card import with_scores

    folder = Path(resolve(args.model))
    with committed(place) as staging:
        if args.output is not None:
            model.save_pretrained(staging)
            image_processor.save_pretrained(staging)
            if (made := folder / "training_config.yaml").is_file():
                write_text(staging / made.name, read_text(made))
        else:
            model.config.save_pretrained(staging)
        write_text(staging / "README.md", with_scores(folder / "README.md", model.config, place))
