"""`decodetr scenes write DIR`: the embedded world as COCO-format folders (scenes/write.py); `decodetr scenes standin
DIR`: regions, pool and vocabularies of the text-free stand-in teacher (scenes/standin.py)."""

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
    """Add `write` and `standin` with their options to the parser of `decodetr scenes`."""
    commands = parser.add_subparsers(dest="scenes_command", required=True, metavar="{write,standin}")
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
    standin = commands.add_parser(
        "standin",
        help="write the stand-in teacher's regions, pool and vocabularies",
        description="Write regions/, pool/, vocabulary-base/ and vocabulary/ from fixed random codes per name, for "
        "the annotated boxes of DIR/annotations/train.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    standin.add_argument("folder", metavar="DIR", help="COCO-format folder, as `decodetr scenes write` makes it")
    standin.add_argument("--output", required=True, help="where to write")
    standin.add_argument("--dim", type=int, default=64, help="width d of the codes")


def run(args):
    """Run `decodetr scenes ...`; returns the exit status."""
    if args.scenes_command == "standin":
        from decodetr.scenes.standin import write_standin

        write_standin(args.folder, args.output, dim=args.dim)
        sys.stdout.write(f"{args.output}: regions, pool, vocabulary-base, vocabulary\n")
        return 0
    from decodetr.scenes.write import write_scenes

    settings = SceneSettings(**{field.name: getattr(args, field.name) for field in fields(SceneSettings)})
    start = time.perf_counter()
    folder = write_scenes(args.folder, settings, workers=args.workers, overwrite=args.overwrite)
    images = settings.train + settings.val + settings.test
    sys.stdout.write(
        f"{folder}: {images} images, {time.perf_counter() - start:.1f} s; look at {folder / 'preview.png'}\n"
    )
    return 0
