"""`decodetr pool`: `build` makes regions and a pool from a COCO-format folder and two teachers (docs/pools.md), `map`
draws a pool (pool_map.py)."""

import sys
from dataclasses import fields
from pathlib import Path

from decodetr.pool_builder.settings import PoolSettings


def add_arguments(parser):
    """Add `build` and `map` with their options to the parser of `decodetr pool`."""
    commands = parser.add_subparsers(dest="pool_command", required=True, metavar="{build,map}")
    build = commands.add_parser(
        "build",
        help="build regions and pool from training images",
        description="Propose, caption, embed, filter, cluster: writes OUT/regions/ and OUT/pool/.",
    )
    build.add_argument("--data", required=True, metavar="DIR", help="COCO-format folder of the training images")
    build.add_argument("--annotations", metavar="FILE", help="annotation file (default: DIR/annotations/train.json)")
    build.add_argument("--images", metavar="DIR", help="image folder (default: found beside the annotations)")
    build.add_argument(
        "--names-split",
        metavar="FILE",
        help="JSON with base and novel names, or none (default: DIR/names.json, if it is there); only annotations of "
        "base names are used",
    )
    build.add_argument(
        "--detector",
        metavar="NAME",
        help="DeCo-DETR (folder, Hub or shipped name) that proposes regions (default: annotated boxes only)",
    )
    build.add_argument("--clip", required=True, metavar="NAME", help="folder, Hub or shipped name of a CLIP")
    build.add_argument("--captioner", required=True, metavar="NAME", help="folder, Hub or shipped name of a LLaVA")
    build.add_argument("--output", required=True, metavar="OUT", help="folder to write; new or empty")
    for setting in fields(PoolSettings):
        option = "--" + setting.name.replace("_", "-")
        text = f"{setting.metadata['help']} (default: %(default)s)"
        build.add_argument(option, type=setting.type, default=setting.default, help=text)
    build.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")
    build.add_argument("--overwrite", action="store_true", help="replace regions and pool in OUT")
    drawn = commands.add_parser(
        "map",
        help="draw a pool in two dimensions",
        description="Draw a pool in two dimensions: its coarse prototypes with captions, the fine ones around them.",
    )
    drawn.add_argument("pool", metavar="POOL", help="folder, Hub or shipped name of a prototype pool")
    drawn.add_argument("--output", required=True, metavar="FILE", help="picture to write, such as map.png")


def run(args):
    """Run `decodetr pool ...`; returns the exit status."""
    if args.pool_command == "map":
        from decodetr.pool_builder.pool_map import run as run_map

        return run_map(args)
    settings = PoolSettings(**{setting.name: getattr(args, setting.name) for setting in fields(PoolSettings)})
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: expected a folder, got a file; choose another place")
    if output.is_dir() and any(output.iterdir()) and not args.overwrite:
        raise ValueError(f"--output {output}: expected an empty folder, got files; choose another or give --overwrite")

    import torch

    from decodetr.eval import read_split
    from decodetr.pool_builder.build import build_pool
    from decodetr.pool_builder.captioner import Captioner
    from decodetr.pool_builder.embedder import ClipEmbedder
    from decodetr.processing import CocoAnnotations
    from decodetr.processing.predict import load_detector
    from decodetr.train_command import names_split_file

    data = Path(args.data)
    split = names_split_file(data, args.names_split)
    coco = CocoAnnotations.load(args.annotations or data / "annotations" / "train.json", args.images)
    if split is not None:
        coco = coco.select(read_split(split)[0])
    device = args.device
    if device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    asked = {"prompt": settings.prompt, "max_new_tokens": settings.max_new_tokens}
    embedder = _load("CLIP", args.clip, ClipEmbedder, device=device)
    captioner = _load("captioner", args.captioner, Captioner, device=device, **asked)
    detector, image_processor = None, None
    if args.detector is not None:
        detector, image_processor = load_detector(args.detector, device=device)
    pool = build_pool(coco, embedder, captioner, output, settings, detector, image_processor)
    fine = int((pool.level == 1).sum())
    info = pool.info
    sys.stdout.write(
        f"{info['regions']} regions, {info['kept']} kept, {info['distinct_captions']} distinct captions, "
        f"M1 = {len(pool) - fine}, M2 = {fine}: {output / 'regions'}, {output / 'pool'}\n"
    )
    return 0


def _load(what, name, load, **settings):
    """A teacher from a folder, a Hub name or the name of a shipped one, with a plain error if there is none."""
    from decodetr.processing.shipped import cannot_load, resolve

    try:
        return load(resolve(name), **settings)
    except OSError as error:
        raise cannot_load(what, name, error) from error
