"""`decodetr build`: from a detector that is there and photos, to a model that finds any name.

Heavy imports are inside the functions, so that `decodetr build --help` is instant.
"""

import argparse
from pathlib import Path

from decodetr.building.options import STAGES, BuildOptions
from decodetr.cli.options import CAPTIONER, add_clip, add_device, add_engine, add_limits, add_output
from decodetr.utils.name_list import read_prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr build`."""
    add = parser.add_argument
    add(
        "detector",
        metavar="DETECTOR",
        help="folder or Hub name of a DETR of transformers, with classes or without, or folder, Hub name or shipped "
        "name of a DeCo-DETR. Its boxes stay as they are",
    )
    add(
        "--images",
        required=True,
        metavar="DIR",
        help="folder of photos, with its sub-folders; a .txt file with a path a line; or a data set (docs/data.md), "
        "whose boxes are used; required",
    )
    add_clip(parser, "folder, Hub name or shipped name of a CLIP", required=True)
    add("--captioner", required=True, metavar="NAME", help=CAPTIONER)
    add(
        "--names",
        metavar="NAMES",
        help="""names to look for: a .txt or .json file with one name a line (or 'name: prompt; prompt'), or
        'cat,"salt, pepper"' (default: what the captions say). Others can be asked for at any time later""",
    )
    add_output(parser, "folder of all stages; OUT/model is the model", metavar="OUT", required=True)
    add(
        "--localize",
        action="store_true",
        help="first train a class-agnostic localization stream on the regions that are certain, if the detector "
        "misses too much of what captions speak of (default: boxes stay those of the detector, to the bit)",
    )
    add("--prompt", metavar="PROMPT", help="question to the captioner, as of `decodetr pool build` (default: short)")
    add(
        "--keep-share",
        type=float,
        metavar="S",
        help="make the pool of the captions of this share of the regions, as of `decodetr pool build` (default: those "
        "that CLIP finds to fit)",
    )
    add(
        "--max-steps",
        "--steps",
        dest="steps",
        type=int,
        metavar="N",
        help="training steps of the semantic stream (default: from the photos)",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of training and clusters (default: 0)")
    add_device(parser)
    add_engine(parser)
    add("--plan", action="store_true", help="say what each stage will cost, and stop")
    add(
        "--overwrite",
        nargs="?",
        const=STAGES[0],
        choices=STAGES,
        metavar="STAGE",
        help=f"make this stage and all after it again: {', '.join(STAGES)} (default: all, if no stage is named; "
        "without --overwrite what is there is kept)",
    )
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Build. Returns the exit status."""
    options = BuildOptions(
        detector=args.detector,
        images=args.images,
        clip=args.clip,
        captioner=args.captioner,
        output=Path(args.output),
        names=read_prompts(args.names),
        localize=args.localize,
        prompt=args.prompt,
        keep_share=args.keep_share,
        steps=args.steps,
        device=args.device,
        seed=args.seed,
        engine=args.engine,
        ray_address=args.ray_address,
        workers=args.workers,
    )
    from decodetr.building.build_run import BuildRun

    return BuildRun(options, args.overwrite, plan_only=args.plan).run()
