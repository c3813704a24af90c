"""The command `decodetr predict`: images in, annotated pictures and detections.json out.

Heavy imports are inside the functions, so that `decodetr predict --help` is instant.
"""

import argparse
import sys

from decodetr.cli.options import add_clip, add_picture_limit, add_threshold
from decodetr.utils.devices import pick_device
from decodetr.utils.files import claim, output_folder
from decodetr.utils.name_list import read_names
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import (
    DEFAULT_MODEL,
    HUB_CARDS,
    expect,
    expect_file,
    resolve,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr predict`."""
    parser.add_argument("images", nargs="+", help="images: files, folders or glob patterns")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="folder, Hub name or shipped name of a DeCo-DETR "
        f"(default: {DEFAULT_MODEL}, which knows drawn scenes only)",
    )
    parser.add_argument(
        "--output", required=True, help="write detections.json and annotated images into this folder; required"
    )
    parser.add_argument(
        "--names", help="""detect these names: 'cat,"salt, pepper"' (default: all names of the model)"""
    )
    parser.add_argument("--names-file", help="detect the names in this file, one per line")
    parser.add_argument(
        "--vocabulary",
        help="vocabulary that replaces that of the model: folder, Hub name or shipped name",
    )
    add_clip(parser, "CLIP that embeds names which the model lacks (default: the one that the model records)")
    add_threshold(parser)
    parser.add_argument("--top-k", type=int, default=100, help="detections to keep per image (default: 100)")
    parser.add_argument(
        "--explain", action="store_true", help="also write which prototypes each detection used, with their captions"
    )
    parser.add_argument("--batch-size", type=int, default=4, help="images per batch (default: 4)")
    parser.add_argument(
        "--font", help="TrueType font of the labels, for scripts that the default lacks (default: DejaVu Sans)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    add_picture_limit(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, draw, write. Returns 1 if some image could not be read (the others are done), else 0."""
    from decodetr.inference.picture_files import find_images

    if (args.threshold is not None and not 0 <= args.threshold <= 1) or args.top_k < 1 or args.batch_size < 1:
        raise ValueError(
            "--threshold must be in 0..1, --top-k and --batch-size at least 1, got "
            f"{args.threshold}, {args.top_k}, {args.batch_size}"
        )
    names, paths, *_ = run_checks(
        lambda: read_names(args.names, args.names_file),
        lambda: find_images(args.images),
        lambda: output_folder(args.output, "--output"),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("text model", args.clip, "config.json"),
        lambda: expect_file("--font", args.font),
        lambda: pick_device(args.device),
    )
    with claim(args.output, "decodetr predict"):
        return _predict(args, names, paths)


def _predict(args, names, paths):
    from decodetr.inference.loading import load_model
    from decodetr.inference.picture_run import PredictOptions, PredictRun

    if resolve(args.model) == str(HUB_CARDS / DEFAULT_MODEL):
        sys.stderr.write(
            f"{DEFAULT_MODEL} knows small drawn scenes and nothing of the real world; for photos train a model "
            "(docs/training.md) and give it with --model\n"
        )
    model, image_processor = load_model(args.model, args.vocabulary, names, args.device, args.clip)
    if args.explain and model.config.pool_use != "lookup+background":
        raise ValueError(
            f"--explain shows what the queries looked up in the pool, but {args.model} was trained with pool_use="
            f"{model.config.pool_use!r}, which looks nothing up"
        )
    options = PredictOptions(
        output=args.output,
        model=args.model,
        vocabulary=args.vocabulary,
        threshold=args.threshold,
        top_k=args.top_k,
        explain=args.explain,
        batch_size=args.batch_size,
        font=args.font,
    )
    return PredictRun(options, model, image_processor, paths).run()
