"""`decodetr scenes`: write the embedded world (scenes/write.py), train its teachers (scenes/teachers.py), measure a
model on it (scenes/measure.py), compare variants of the pool (scenes/compare.py), make the shipped models again
(scenes/models.py)."""

import argparse
import os
import sys
import time
from dataclasses import fields

from decodetr.scenes import compare
from decodetr.scenes.world import SceneSettings
from decodetr.utils.files import claim

_HELP = {
    "train": "training images (base names annotated)",
    "val": "validation images (all names annotated)",
    "test": "test images (all names annotated, shifted rendering)",
    "image_size": "side of the square images in pixels",
    "seed": "an image depends on (seed, split, index) only",
}

_TEACHERS = {
    "scenes": (14000, "scenes to draw crops from"),
    "clip_steps": (1100, "optimizer steps of the CLIP"),
    "llava_steps": (1000, "optimizer steps of the LLaVA"),
    "seed": (0, "of scenes, weights and batches"),
}


def add_arguments(parser):
    """Add the subcommands with their options to the parser of `decodetr scenes`."""
    names = "{write,teachers,measure,compare,models}"
    commands = parser.add_subparsers(dest="scenes_command", required=True, metavar=names)
    write = commands.add_parser(
        "write",
        help="write drawn scenes as COCO-format folders",
        description="Write drawn scenes as COCO-format folders: DIR/{train,val,test}/, DIR/annotations/*.json, "
        "DIR/names.json, and DIR/preview.png to look at.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    write.add_argument("folder", metavar="DIR", help="folder to write; new, empty, or written with the same settings")
    for field in fields(SceneSettings):
        option = "--" + field.name.replace("_", "-")
        write.add_argument(option, type=int, default=field.default, metavar="N", help=_HELP[field.name])
    _add_workers(write)
    write.add_argument("--overwrite", action="store_true", help="replace scenes of other settings in DIR")
    teachers = commands.add_parser(
        "teachers",
        help="train the small CLIP and the small LLaVA",
        description="Train the small CLIP on (crop, caption) pairs and the small LLaVA on captions of crops, measure "
        "both, and write DIR/scenes-clip and DIR/scenes-llava. The same command goes on with what was interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    teachers.add_argument("folder", metavar="DIR", help="where to write")
    for name, (default, text) in _TEACHERS.items():
        teachers.add_argument("--" + name.replace("_", "-"), type=int, default=default, metavar="N", help=text)
    _add_workers(teachers)
    models = commands.add_parser(
        "models",
        help="make the shipped models again (hours, in a checkout)",
        description="Run every command that made the shipped models, in DIR, and write them into the package's "
        "hub_cards/. The same command goes on with what was interrupted.",
    )
    models.add_argument("folder", metavar="DIR", help="folder for scenes, checkpoints and results")
    measured = commands.add_parser(
        "measure",
        help="AP50 of novel and base names, with one, twelve and all names, beside the teacher's",
        description="Measure a model on a split of DIR: AP50 of novel and base names with all, twelve and one name in "
        "the vocabulary, how often absent names score above 0.5, and what the teacher itself reaches.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    measured.add_argument("folder", metavar="DIR", help="COCO-format folder, as `decodetr scenes write` makes it")
    measured.add_argument("--model", default="scenes-decodetr", help="folder or name of a DeCo-DETR")
    measured.add_argument("--vocabulary", help="folder of all names (default: the model's names)")
    measured.add_argument("--clip", default="scenes-clip", help="the teacher")
    measured.add_argument("--split", default="val", choices=("val", "test"), help="test is the shifted split")
    measured.add_argument("--output", help="write what was measured as JSON here")

    compared = commands.add_parser(
        "compare",
        help="the same with other pools and without one, over several seeds",
        description="Train the semantic stream anew for each variant of the pool and each seed, over features of one "
        "detector that are computed once, and measure all. The same command goes on with what was interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    compare.add_arguments(compared)


def _add_workers(parser):
    cores = min(8, os.cpu_count() or 1)
    parser.add_argument(
        "--workers", type=int, default=cores, metavar="N", help="processes that draw; the result is the same"
    )


def run(args):
    """Run `decodetr scenes ...`; returns the exit status."""
    if args.scenes_command == "measure":
        from decodetr.scenes.measure import run as run_measure

        return run_measure(args)
    if args.scenes_command == "compare":
        return compare.run(args)
    if args.scenes_command == "models":
        from decodetr.scenes.models import make_models

        return make_models(args.folder)
    if args.scenes_command == "teachers":
        from decodetr.scenes.teachers import write_teachers

        settings = {name: getattr(args, name) for name in _TEACHERS}
        with claim(args.folder, "decodetr scenes teachers"):
            folder = write_teachers(args.folder, workers=args.workers, **settings)
        sys.stdout.write(f"{folder / 'scenes-clip'} and {folder / 'scenes-llava'}: see their README.md\n")
        return 0
    from decodetr.scenes.write import write_scenes

    settings = SceneSettings(**{field.name: getattr(args, field.name) for field in fields(SceneSettings)})
    start = time.perf_counter()
    with claim(args.folder, "decodetr scenes write"):
        folder = write_scenes(args.folder, settings, workers=args.workers, overwrite=args.overwrite)
    images = settings.train + settings.val + settings.test
    sys.stdout.write(
        f"{folder}: {images} images, {time.perf_counter() - start:.1f} s; look at {folder / 'preview.png'}\n"
    )
    return 0
