"""`decodetr pool`: `build` makes regions and a pool from a COCO-format folder and two teachers (docs/pools.md), its
stages are commands too. `inspect` and `map` look at a pool.

Heavy imports are inside the functions, so that `decodetr pool --help` is instant.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, form_of
from decodetr.cli.options import (
    CAPTIONER,
    add_clip,
    add_device,
    add_engine,
    add_form_arguments,
    add_output,
    add_overwrite,
    add_picture_limit,
)
from decodetr.pool_builder.settings import PoolData, PoolSettings, PoolTask
from decodetr.utils.files import claim
from decodetr.utils.outputs import apart, unwritten, unwritten_file
from decodetr.utils.preflight import process_rank
from decodetr.utils.shipped import load_pool, load_vocabulary, resolve

# What each stage needs besides --output: (whether it looks at images, its models, its settings).
_MODELS = {
    "detector": "what proposes regions: folder, Hub name or shipped name of a DeCo-DETR or of any detector of "
    "transformers; torchvision:fasterrcnn_resnet50_fpn_v2, whose RPN is used; or grid, for a fixed grid of boxes "
    "(default: annotated boxes only)",
    "captioner": CAPTIONER,
    "clip": "folder, Hub name or shipped name of a CLIP; required",
}
_STAGES = {
    "proposals": (True, ("detector",), "min_objectness min_side nms_iou max_proposals batch_size shard_groups"),
    "captions": (True, ("captioner",), "prompt max_new_tokens captioner_dtype captioner_bits context batch_size"),
    "embeddings": (True, ("clip",), "context batch_size"),
    "filter": (False, (), "delta keep_share"),
    "cluster": (False, (), "num_coarse kmeans num_fine min_samples seed"),
    "build": (True, tuple(_MODELS), " ".join(setting.name for setting in fields(PoolSettings))),
}
_INSPECTION = ("map.html", "map.png", "pool.json")
_HELP = {
    "proposals": "propose regions in every image; write OUT/proposals",
    "captions": "caption every region; write OUT/captions",
    "embeddings": "embed crops and captions with CLIP; write OUT/embeddings and OUT/texts",
    "filter": "drop regions whose caption does not match; write OUT/regions",
    "cluster": "cluster the captions of the kept regions; write OUT/clusters and OUT/pool",
    "build": "run all stages, one after another",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stages, `build` and `map` with their options to the parser of `decodetr pool`."""
    commands = parser.add_subparsers(dest="pool_command", required=True, metavar="{build,STAGE,inspect,map}")
    for stage, (images, models, settings) in _STAGES.items():
        command = commands.add_parser(
            stage,
            help=_HELP[stage],
            description=f"{_HELP[stage][0].upper()}{_HELP[stage][1:]}. Shards that an earlier run "
            "with the same settings finished are not made again.",
        )
        if images:
            _add_data(command)
        for name in models:
            command.add_argument(f"--{name}", required=name != "detector", metavar="NAME", help=_MODELS[name])
        add_output(command, "folder of all stages", "OUT", required=True)
        for setting in (setting for setting in fields(PoolSettings) if setting.name in settings.split()):
            option = "--" + setting.name.replace("_", "-")
            text = setting.metadata["help"] + ("" if setting.default is None else " (default: %(default)s)")
            command.add_argument(option, type=setting.type, default=setting.default, help=text)
        if stage in ("embeddings", "build"):
            command.add_argument(
                "--image-captions",
                metavar="FILE",
                help="also cluster the captions of whole training images in this COCO caption file (default: none); "
                "C-OVD and WS-OVD allow it",
            )
        if stage == "cluster":
            text = "also cluster the captions that `decodetr pool embeddings --image-captions` embedded"
            command.add_argument("--image-captions", action="store_true", help=text)
        if stage in ("cluster", "build"):
            command.add_argument(
                "--vocabulary",
                metavar="NAME",
                help="embeddings of the annotated names, for those that CLIP does not know as they are: folder, Hub "
                "name or shipped name of a vocabulary, which can have other texts for them (default: the names as "
                "they are)",
            )
        if models:
            if "captioner" in models:
                text = "auto: spread the captioner over all devices (default: one device)"
                command.add_argument("--device-map", metavar="MAP", help=text)
            add_device(command)
            add_engine(command)
        command.add_argument(
            "--overwrite",
            action="store_true",
            help="replace stages in OUT that were made with other settings (default: an error)",
        )
    inspected = commands.add_parser(
        "inspect",
        help="describe a pool: sizes, duplicates, nearest captions, coverage of names",
        description="Print sizes and duplicates of a pool, the captions nearest to texts and images, and how well it "
        "covers the names of a vocabulary. Write a map that can be searched.",
    )
    _add_inspection(inspected)
    drawn = commands.add_parser(
        "map",
        help="draw a pool in two dimensions",
        description="Draw a pool in two dimensions: coarse prototypes with captions, and fine prototypes around them.",
    )
    drawn.add_argument("pool", metavar="POOL", help="folder, Hub name or shipped name of a prototype pool")
    add_output(drawn, "image file to write, such as map.png", "FILE", required=True)
    add_overwrite(drawn)


def _add_data(command):
    command.add_argument("--data", required=True, metavar="DIR", help=f"{DATA_HELP}; required")
    add_form_arguments(command)
    command.add_argument(
        "--annotations", metavar="FILE", help="COCO annotation file (default: DIR/annotations/train.json)"
    )
    command.add_argument(
        "--images",
        metavar="DIR",
        help="image folder (default: next to annotations/, with the name of the annotation file)",
    )
    command.add_argument(
        "--names-split",
        metavar="FILE",
        help="JSON file of base and novel names; only annotations of base names are used. none: use all (default: "
        "DIR/names.json, if it exists)",
    )


def _add_inspection(parser):
    parser.add_argument("pool", metavar="POOL", help="folder, Hub name or shipped name of a prototype pool")
    parser.add_argument(
        "--vocabulary",
        metavar="NAME",
        help="list which names of this vocabulary the pool covers worst: folder, Hub name or shipped name",
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="TEXT", help="print the captions nearest to these texts"
    )
    parser.add_argument(
        "--image", nargs="+", default=[], metavar="FILE", help="print the captions nearest to these images"
    )
    add_clip(parser, "CLIP that made the pool, for --text and --image (default: as the pool records)")
    add_output(
        parser,
        "write map.png, map.html and pool.json into this folder; map.html can be searched (default: print only)",
    )
    add_overwrite(parser)
    add_picture_limit(parser)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr pool ...`. Returns the exit status."""
    if args.pool_command == "map":
        _map(args)
    elif args.pool_command == "inspect":
        _inspect(args)
    else:
        _stage(args)
    return 0


def _stage(args):
    from decodetr.pool_builder.preflight import check

    task = _task(args)
    check(task)

    from decodetr.pool_builder.pool_run import run_stage

    rank = process_rank()  # several processes share a folder, each with its own shards
    with claim(task.output, f"decodetr pool {task.stage}", f"rank-{rank}" if rank else ""):
        pool = run_stage(task)
        _tell(task, pool, first=rank == 0)


def _task(args):
    """The arguments of a stage. Each stage has its own, so others may be missing."""
    settings = {setting.name: getattr(args, setting.name, setting.default) for setting in fields(PoolSettings)}
    images, models, _ = _STAGES[args.pool_command]
    captions = getattr(args, "image_captions", None)
    return PoolTask(
        stage=args.pool_command,
        output=Path(args.output),
        settings=PoolSettings(**settings),
        data=_data(args) if images else None,
        models={name: getattr(args, name) for name in models},
        device=getattr(args, "device", "auto"),
        device_map=getattr(args, "device_map", None),
        image_captions=captions if images else None,
        join_image_captions=args.pool_command == "cluster" and bool(captions),
        vocabulary=getattr(args, "vocabulary", None),
        overwrite=args.overwrite,
        engine=getattr(args, "engine", "datasets"),
        ray_address=getattr(args, "ray_address", None),
        workers=getattr(args, "workers", None),
    )


def _data(args):
    """The arguments that say which images and annotations."""
    form = form_of(args.class_names, args.box_format)
    return PoolData(args.data, args.annotations, args.images, args.names_split, form)


def _tell(task, pool, first):
    """Say what was made, and what to know of it."""
    from decodetr.pool_builder.selection import chosen_delta
    from decodetr.pool_builder.space import describe
    from decodetr.pool_builder.stages import problem_images, stale_stages

    output = task.output
    if task.stage != "build" and first and (stale := stale_stages(output)):
        stale = ", ".join(str(output / stage) for stage in stale)
        sys.stderr.write(f"{stale}: made from what is no longer there, or unfinished; make them again\n")
    if pool is not None:
        info = pool.info
        sys.stdout.write(
            f"{info['regions']} regions, {info['kept']} kept, {info['distinct_captions']} distinct captions, "
            f"M1 = {len(pool) - pool.num_fine}, M2 = {pool.num_fine}: {output / 'regions'}, {output / 'pool'}\n"
            f"{describe(info['space'])}\n"
        )
    if task.stage in ("build", "filter") and first and (found := chosen_delta(output)):
        delta, chosen = found
        above = f"{100 * chosen['others_above']:.1f} % are above it"
        sys.stdout.write(
            f"--delta {delta} was chosen: cos(image, caption) has the median {chosen['own']}, "
            f"{chosen['others']} with captions of other regions, of which {above}\n"
        )
    problems = problem_images(output)
    for problem in problems[:5]:
        sys.stderr.write(f"left out: {problem['problem']}\n")
    if problems:
        sys.stderr.write(f"{len(problems)} images were left out; OUT/report.json names all after a build\n")


def _inspect(args):
    from decodetr.pool_builder.inspection import embed_queries, inspect_pool, summary, write_inspection

    inputs = {"POOL": resolve(args.pool), "--image": args.image, "--vocabulary": args.vocabulary}
    apart("--output", args.output, inputs, _INSPECTION)
    unwritten("--output", args.output, _INSPECTION, "decodetr pool inspect", args.overwrite)
    pool = load_pool(args.pool)
    vocabulary = load_vocabulary(args.vocabulary) if args.vocabulary else None
    queries = embed_queries(pool, args.text, args.image, args.clip) if args.text or args.image else None
    try:
        found = inspect_pool(pool, vocabulary, queries)
    except ValueError as error:
        raise ValueError(f"--vocabulary {args.vocabulary}: {error}") from error
    sys.stdout.write(summary(found))
    if args.output:
        write_inspection(pool, found, args.output)
        sys.stdout.write(f"look at {Path(args.output) / 'map.html'}\n")


def _map(args):
    from decodetr.pool_builder.pool_map import draw_pool_map

    apart("--output", args.output, {"POOL": list(Path(resolve(args.pool)).glob("pool.*"))})
    unwritten_file("--output", args.output, args.overwrite)
    pool = load_pool(args.pool)
    labelled = draw_pool_map(pool, args.output)
    sys.stdout.write(f"{args.output}: {len(pool)} prototypes, {len(labelled)} of them labelled\n")
