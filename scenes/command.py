"""`decodetr scenes write DIR`: the embedded world as COCO-format folders (scenes/write.py)."""

import argparse
import os
import sys
import time
from dataclasses import fields

from decodetr.scenes.world import SceneSettings

_HELP = {
    "train": "training images (base names annotated)",
    "val": "validation images (all names annotated)",
    "test": "test images (all names annotated, shifted rendering)",
    "image_size": "side of the square images in pixels",
    "seed": "an image depends on (seed, split, index) only",
}


def add_arguments(parser):
    """Add `write` and its options to the parser of `decodetr scenes`."""
    commands = parser.add_subparsers(dest="scenes_command", required=True, metavar="{write}")
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
    write.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes; the result is the same",
    )
    write.add_argument("--overwrite", action="store_true", help="replace scenes of other settings in DIR")


def run(args):
    """Run `decodetr scenes ...`; returns the exit status."""
    from decodetr.scenes.write import write_scenes

    settings = SceneSettings(**{field.name: getattr(args, field.name) for field in fields(SceneSettings)})
    start = time.perf_counter()
    folder = write_scenes(args.folder, settings, workers=args.workers, overwrite=args.overwrite)
    images = settings.train + settings.val + settings.test
    sys.stdout.write(
        f"{folder}: {images} images, {time.perf_counter() - start:.1f} s; look at {folder / 'preview.png'}\n"
    )
    return 0
