"""`decodetr scenes`: write the embedded world, train its teachers, give a CLIP the cosines of a real one, measure a
model on it, compare variants of the pool, make the shipped models again."""

import argparse
import os
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

from decodetr.cli import main
from decodetr.cli.options import DefaultsFormatter, add_output, add_overwrite, add_written_folder, written_folder
from decodetr.scenes.options import SPLITS, VARIANTS, ComparisonOptions
from decodetr.scenes.recipes import SEMANTIC_STEPS
from decodetr.scenes.world import SceneSettings
from decodetr.utils.files import claim, output_folder, write_json
from decodetr.utils.outputs import apart, unwritten, unwritten_file
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, expect_file, resolve

_HELP = {
    "train": "number of training images; base names are annotated",
    "val": "number of validation images; all names are annotated",
    "test": "number of test images; all names are annotated, and the rendering is shifted",
    "image_size": "side of the square images, in pixels",
    "seed": "seed of the images; each depends only on seed, split, index and size",
    "base_names": "base names that have boxes in training; the others of the 180 count as novel",
}

_TEACHERS = {
    "scenes": (14000, "number of scenes to take crops from"),
    "clip_steps": (1100, "training steps of the CLIP"),
    "llava_steps": (1000, "training steps of the LLaVA"),
    "seed": (0, "seed of scenes, weights and batches"),
}

_COSINES = {
    "text_cosine": (0.75, "mean cosine of two names"),
    "right": (0.27, "mean cosine of a crop and its name"),
    "other": (0.19, "mean cosine of a crop and another name"),
    "image_cosine": (
        None,
        "mean cosine of two crops (default: about 0.97, which needs the fewest dimensions)",
    ),
}

_MORE_VARIANTS = ("free", "both", "wide")  # only where they are asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands with their options to the parser of `decodetr scenes`."""
    names = "{write,teachers,reshape,measure,compare,models}"
    commands = parser.add_subparsers(dest="scenes_command", required=True, metavar=names)
    write = commands.add_parser(
        "write",
        help="draw scenes and write them in COCO format",
        description="Draw scenes and write them in COCO format: DIR/{train,val,test}/, DIR/annotations/*.json, "
        "DIR/names.json, and DIR/preview.png, a sheet of examples.",
        formatter_class=DefaultsFormatter,
    )
    add_written_folder(write, "folder to write: new, empty, or written earlier with the same settings")
    for field in fields(SceneSettings):
        option = "--" + field.name.replace("_", "-")
        write.add_argument(option, type=int, default=field.default, metavar="N", help=_HELP[field.name])
    _add_workers(write)
    write.add_argument(
        "--overwrite",
        action="store_true",
        help="replace scenes in DIR that were drawn with other settings (default: an error)",
    )
    teachers = commands.add_parser(
        "teachers",
        help="train the small CLIP and the small LLaVA",
        description="Train the small CLIP on pairs of crop and caption, and the small LLaVA on captions of crops. "
        "Measure both, and write DIR/scenes-clip and DIR/scenes-llava. Run the command again to continue after an "
        "interruption.",
        formatter_class=DefaultsFormatter,
    )
    add_written_folder(teachers, "folder to write")
    for name, (default, text) in _TEACHERS.items():
        teachers.add_argument("--" + name.replace("_", "-"), type=int, default=default, metavar="N", help=text)
    teachers.add_argument(
        "--geometry",
        choices=("clip", "drawn"),
        default="clip",
        help="cosines of the CLIP. clip: change them to those of a real CLIP. drawn: keep those of training",
    )
    _add_workers(teachers)
    reshaped = commands.add_parser(
        "reshape",
        help="give the small CLIP the cosines of a real CLIP, without training",
        description="Replace the projections and the logit scale of a CLIPModel, so that its cosines become those of "
        "a real CLIP and its softmax stays the same. Both are measured on drawn crops; OUT/README.md has the "
        "numbers.",
        formatter_class=DefaultsFormatter,
    )
    reshaped.add_argument(
        "clip", metavar="CLIP", help="CLIP that `decodetr scenes teachers` made: folder or shipped name"
    )
    add_written_folder(reshaped, "folder to write", "OUT")
    add_overwrite(reshaped)
    for name, (cosine, text) in _COSINES.items():
        reshaped.add_argument("--" + name.replace("_", "-"), type=float, default=cosine, metavar="X", help=text)
    _add_workers(reshaped)
    models = commands.add_parser(
        "models",
        help="rebuild the shipped models; takes hours, and needs a checkout of the repository",
        description="Run every command that made the shipped models in DIR, and write the models into hub_cards/ of "
        "the package. Run the command again to continue after an interruption.",
    )
    add_written_folder(models, "folder for scenes, checkpoints and results")
    measured = commands.add_parser(
        "measure",
        help="measure AP50 of novel and base names, with small and large vocabularies, and that of the teacher",
        description="Measure a model on a split of DIR: AP50 of novel and base names with all, twelve and one name in "
        "the vocabulary, how often absent names score above 0.5, and the AP50 of the teacher.",
        formatter_class=DefaultsFormatter,
    )
    measured.add_argument("folder", metavar="DIR", help="COCO-format folder, as `decodetr scenes write` makes it")
    measured.add_argument("--model", default="scenes-decodetr", help="DeCo-DETR: folder, Hub name or shipped name")
    measured.add_argument(
        "--vocabulary", help="vocabulary of all names: folder or shipped name (default: the names of the model)"
    )
    measured.add_argument("--clip", default="scenes-clip", help="CLIP that is the teacher: folder or shipped name")
    measured.add_argument(
        "--split", default="val", choices=("val", "test"), help="split to measure on; test has shifted rendering"
    )
    add_output(measured, "write the results to this JSON file (default: print only)", "FILE")
    add_overwrite(measured)

    compared = commands.add_parser(
        "compare",
        help="train and measure with other pools and without a pool, over several seeds",
        description="Train the semantic stream from random weights for each variant of the pool and each seed, and "
        "measure each. The features of the detector are computed once. Run the command again to continue after an "
        "interruption.",
        formatter_class=DefaultsFormatter,
    )
    _add_comparison(compared)


def _add_comparison(parser):
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder that `decodetr scenes write` made")
    add("--model", default="scenes-decodetr", help="DeCo-DETR whose trained detector is used: folder or shipped name")
    add("--built", required=True, help="folder that `decodetr pool build` wrote; required")
    add("--vocabulary", default="scenes-vocabulary", help="vocabulary of all names: folder or shipped name")
    add("--clip", default="scenes-clip", help="CLIP that is the teacher: folder or shipped name")
    usual = [name for name in VARIANTS if name not in _MORE_VARIANTS]
    add("--variants", nargs="+", choices=VARIANTS, default=usual, help="variants of the pool to train")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        metavar="N",
        help="seeds of the semantic stream; one run each",
    )
    add(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=list(SPLITS),
        help="splits to measure on; test has shifted rendering",
    )
    add("--steps", type=int, default=SEMANTIC_STEPS, metavar="N", help="training steps of each run")
    add(
        "--base-names",
        type=int,
        metavar="N",
        help="keep the boxes of this many base names, and treat the others as novel (default: all)",
    )
    add(
        "--trained",
        metavar="MODEL",
        help="use this trained model as the run of captions with seed 0 (default: train it)",
    )
    add_output(parser, "write runs.json and table.md into this folder", required=True)


def _add_workers(parser):
    cores = min(8, os.cpu_count() or 1)
    parser.add_argument(
        "--workers",
        type=int,
        default=cores,
        metavar="N",
        help="processes that draw; the number does not change the result",
    )


def run(args: argparse.Namespace) -> int:
    """Run `decodetr scenes ...`. Returns the exit status."""
    commands = {
        "write": _write,
        "teachers": _teachers,
        "reshape": _reshape,
        "models": _models,
        "measure": _measure,
        "compare": _compare,
    }
    return commands[args.scenes_command](args)


def _write(args):
    from decodetr.scenes.write import write_scenes

    settings = SceneSettings(**{field.name: getattr(args, field.name) for field in fields(SceneSettings)})
    start = time.perf_counter()
    place = written_folder(args)
    with claim(place, "decodetr scenes write"):
        folder = write_scenes(place, settings, workers=args.workers, overwrite=args.overwrite)
    images = settings.train + settings.val + settings.test
    sys.stdout.write(
        f"{folder}: {images} images, {time.perf_counter() - start:.1f} s; look at {folder / 'preview.png'}\n"
    )
    return 0


def _teachers(args):
    from decodetr.scenes.teachers import write_teachers

    settings = {name: getattr(args, name) for name in (*_TEACHERS, "geometry")}
    place = written_folder(args)
    with claim(place, "decodetr scenes teachers"):
        folder = write_teachers(place, workers=args.workers, **settings)
    sys.stdout.write(f"{folder / 'scenes-clip'} and {folder / 'scenes-llava'}: see their README.md\n")
    return 0


def _reshape(args):
    from decodetr.scenes.teachers import check_small_clip, reshape_clip, validation_crops

    output = written_folder(args)
    run_checks(
        lambda: check_small_clip(resolve(args.clip, "CLIP")),
        lambda: apart("OUT", output, {"CLIP": [resolve(args.clip, "CLIP")]}),
        lambda: output_folder(output, "OUT"),
        lambda: unwritten("OUT", output, ("README.md", "config.json"), "decodetr scenes reshape", args.overwrite),
    )
    cosines = {name: getattr(args, name) for name in _COSINES}
    with claim(output, "decodetr scenes reshape"):
        reshape_clip(resolve(args.clip, "CLIP"), output, *validation_crops(args.workers), **cosines)
    sys.stdout.write(f"{output}: see its README.md\n")
    return 0


def _models(args):
    from decodetr.scenes.shipped_models import make_models

    return make_models(written_folder(args), main)


def _measure(args):
    from decodetr.annotations.names_split import read_split

    data = Path(args.folder)
    run_checks(
        lambda: read_split(data / "names.json"),
        lambda: expect_file("", data / "annotations" / f"{args.split}.json"),
        lambda: apart("--output", args.output, {"DIR": [data / "names.json", *data.glob("annotations/*")]}),
        lambda: args.output and output_folder(Path(args.output).parent, "--output"),
        lambda: unwritten_file("--output", args.output, args.overwrite),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("CLIP", args.clip, "config.json"),
    )
    from decodetr.scenes.measure import measure_model, measured_table

    result = measure_model(args.folder, args.model, args.vocabulary, args.clip, args.split)
    sys.stdout.write(measured_table(**result))
    if args.output:
        write_json(args.output, result)
    return 0


def _compare(args):
    from decodetr.scenes.comparison import names_of
    from decodetr.scenes.pool_ablation import compare_pools

    options = ComparisonOptions(**{field.name: getattr(args, field.name) for field in fields(ComparisonOptions)})

    def numbers():
        if args.steps < 1 or min(args.seeds) < 0:
            raise ValueError(f"--steps must be at least 1 and --seeds at least 0, got {args.steps} and {args.seeds}")

    data, built = Path(args.folder), Path(args.built).absolute()  # no names of the Hub
    run_checks(
        numbers,
        lambda: output_folder(args.output, "--output"),
        lambda: names_of(args.folder, args.base_names),
        *(partial(expect_file, "", data / "annotations" / f"{split}.json") for split in ("train", *args.splits)),
        lambda: expect("pool", built / "pool", "pool.json"),
        lambda: expect("regions data set", built / "regions", "*.parquet"),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("model", args.trained, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("CLIP", args.clip, "config.json"),
    )
    _say(compare_pools(options, _say))
    return 0


def _say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
