"""`decodetr pool`: `build` makes regions and a pool from a COCO-format folder and two teachers (docs/pools.md), its
stages are commands too; `inspect` (inspection.py) and `map` (pool_map.py) look at a pool."""

import sys
from dataclasses import fields, replace
from pathlib import Path

from decodetr.annotations.formats import DATA_HELP, form_of
from decodetr.cli.options import add_form_arguments, add_picture_limit
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import MANIFEST
from decodetr.utils.files import claim
from decodetr.utils.outputs import apart
from decodetr.utils.preflight import process_rank

# What each stage needs beside --output: (whether it looks at images, its models, its settings).
_MODELS = {
    "detector": "who proposes regions: folder, Hub or shipped name of a DeCo-DETR or of any detector of transformers; "
    "torchvision:fasterrcnn_resnet50_fpn_v2 (its RPN); grid (default: annotated boxes only)",
    "captioner": "folder, Hub or shipped name of a LLaVA or another image-text-to-text model; or MODEL@URL on a "
    "server of chat completions, such as vLLM",
    "clip": "folder, Hub or shipped name of a CLIP",
}
_STAGES = {
    "proposals": (True, ("detector",), "min_objectness min_side nms_iou max_proposals batch_size shard_groups"),
    "captions": (True, ("captioner",), "prompt max_new_tokens captioner_dtype captioner_bits context batch_size"),
    "embeddings": (True, ("clip",), "context batch_size"),
    "filter": (False, (), "delta keep_share"),
    "cluster": (False, (), "num_coarse kmeans num_fine min_samples seed"),
    "build": (True, tuple(_MODELS), " ".join(setting.name for setting in fields(PoolSettings))),
}
_HELP = {
    "proposals": "boxes of every image: OUT/proposals",
    "captions": "what the captioner says about every box: OUT/captions",
    "embeddings": "CLIP's embeddings of crops and captions: OUT/embeddings, OUT/texts",
    "filter": "which regions are kept: OUT/regions",
    "cluster": "clusters of their captions: OUT/clusters, OUT/pool",
    "build": "all stages, one after another",
}


def add_arguments(parser):
    """Add the stages, `build` and `map` with their options to the parser of `decodetr pool`."""
    commands = parser.add_subparsers(dest="pool_command", required=True, metavar="{build,STAGE,inspect,map}")
    for stage, (images, models, settings) in _STAGES.items():
        command = commands.add_parser(
            stage,
            help=_HELP[stage],
            description=f"{_HELP[stage][0].upper()}{_HELP[stage][1:]}. What an earlier run of the same settings "
            "finished is kept.",
        )
        if images:
            _add_data(command)
        for name in models:
            command.add_argument(f"--{name}", required=name != "detector", metavar="NAME", help=_MODELS[name])
        command.add_argument("--output", required=True, metavar="OUT", help="folder of all stages")
        for setting in (setting for setting in fields(PoolSettings) if setting.name in settings.split()):
            option = "--" + setting.name.replace("_", "-")
            text = f"{setting.metadata['help']} (default: %(default)s)"
            command.add_argument(option, type=setting.type, default=setting.default, help=text)
        if stage in ("embeddings", "build"):
            command.add_argument(
                "--image-captions",
                metavar="FILE",
                help="captions of whole training images, as COCO has them, which join those of regions: C-OVD, WS-OVD",
            )
        if stage == "cluster":
            text = "the captions that `pool embeddings --image-captions` has embedded join those of regions"
            command.add_argument("--image-captions", action="store_true", help=text)
        if models:
            if "captioner" in models:
                text = "auto spreads the captioner over all devices (default: it is on one)"
                command.add_argument("--device-map", metavar="MAP", help=text)
            command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
        command.add_argument("--overwrite", action="store_true", help="make stages of other settings in OUT again")
    inspected = commands.add_parser(
        "inspect",
        help="say what a pool holds and what it covers",
        description="Sizes, duplicates, nearest captions to texts and pictures, how well names are covered, and a map "
        "that can be searched.",
    )
    _add_inspection(inspected)
    drawn = commands.add_parser(
        "map",
        help="draw a pool in two dimensions",
        description="Draw a pool in two dimensions: its coarse prototypes with captions, the fine ones around them.",
    )
    drawn.add_argument("pool", metavar="POOL", help="folder, Hub or shipped name of a prototype pool")
    drawn.add_argument("--output", required=True, metavar="FILE", help="picture to write, such as map.png")


def _add_data(command):
    command.add_argument("--data", required=True, metavar="DIR", help=DATA_HELP)
    add_form_arguments(command)
    command.add_argument("--annotations", metavar="FILE", help="annotation file (default: DIR/annotations/train.json)")
    command.add_argument("--images", metavar="DIR", help="image folder (default: found beside the annotations)")
    command.add_argument(
        "--names-split",
        metavar="FILE",
        help="JSON with base and novel names, or none (default: DIR/names.json, if it is there); only annotations of "
        "base names are used",
    )


def _add_inspection(parser):
    parser.add_argument("pool", metavar="POOL", help="folder, Hub or shipped name of a prototype pool")
    parser.add_argument("--vocabulary", metavar="NAME", help="say which of its names the pool covers well and badly")
    parser.add_argument("--text", nargs="+", default=[], metavar="TEXT", help="nearest captions to these texts")
    parser.add_argument("--image", nargs="+", default=[], metavar="FILE", help="nearest captions to these pictures")
    parser.add_argument(
        "--clip", metavar="NAME", help="the pool's encoder, for --text and --image (default: as it says)"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="write map.png, map.html, which can be searched, and pool.json"
    )
    add_picture_limit(parser)


def run(args):
    """Run `decodetr pool ...`; returns the exit status."""
    if args.pool_command == "map":
        from decodetr.pool_builder.pool_map import run as run_map

        return run_map(args)
    if args.pool_command == "inspect":
        from decodetr.pool_builder.inspection import run as run_inspection

        return run_inspection(args)
    from decodetr.pool_builder.preflight import check

    given = {setting.name: getattr(args, setting.name, setting.default) for setting in fields(PoolSettings)}
    settings, output = PoolSettings(**given), Path(args.output)
    read = {option: getattr(args, option, None) for option in ("data", "images", "annotations", *_MODELS)}
    captions = getattr(args, "image_captions", None)
    read["image-captions"] = captions if isinstance(captions, str) else None
    apart("--output", output, {f"--{option}": path for option, path in read.items()}, ())
    check(args, settings)
    rank = process_rank()  # several processes share a folder, each with its own shards
    with claim(output, f"decodetr pool {args.pool_command}", f"rank-{rank}" if rank else ""):
        return _run(args, settings, output)


def _run(args, settings, output):
    from decodetr.pool_builder import build
    from decodetr.pool_builder.preflight import check_room
    from decodetr.pool_builder.shards import Ranks
    from decodetr.pool_builder.space import describe

    stage, shared = args.pool_command, {"overwrite": args.overwrite}
    if stage == "filter":
        result = build.filter_regions(output, settings, **shared)
    elif stage == "cluster":
        result = build.cluster_regions(output, settings, **shared, image_captions=args.image_captions)
    else:
        models = _models(args, settings)
        coco, shared["ranks"] = _annotations(args), Ranks.from_environment()
        if stage == "build":
            check_room(coco, models["clip"].load().dim, output)
            shared["image_captions"] = args.image_captions
            result = build.build_pool(coco, output, settings, **models, **shared)
        else:
            function = {"proposals": "propose", "captions": "caption", "embeddings": "embed"}[stage]
            result = getattr(build, f"{function}_regions")(coco, output, settings, *models.values(), **shared)
            if getattr(args, "image_captions", None):
                build.embed_image_captions(coco, args.image_captions, output, models["clip"], **shared)
    if stage != "build" and Ranks.from_environment().rank == 0:
        build.refresh_report(output)
        _tell_stale(output)
    if stage in ("build", "cluster") and result is not None:
        fine, info = int((result.level == 1).sum()), result.info
        sys.stdout.write(
            f"{info['regions']} regions, {info['kept']} kept, {info['distinct_captions']} distinct captions, "
            f"M1 = {len(result) - fine}, M2 = {fine}: {output / 'regions'}, {output / 'pool'}\n"
            f"{describe(info['space'])}\n"
        )
    if stage in ("build", "filter") and Ranks.from_environment().rank == 0:
        _tell_delta(output)
    _tell_problems(output)
    return 0


def _tell_delta(output):
    """Say what was chosen, if it was."""
    from decodetr.pool_builder.selection import REGIONS
    from decodetr.pool_builder.shards import StageFolder

    identity = StageFolder.open(output / REGIONS, REGIONS).identity
    if chosen := identity["delta_chosen"]:
        above = f"{100 * chosen['others_above']:.1f} % are above it"
        sys.stdout.write(
            f"--delta {identity['delta']} was chosen: cos(image, caption) has the median {chosen['own']}, "
            f"{chosen['others']} with captions of other regions, of which {above}\n"
        )


def _annotations(args):
    from decodetr.annotations.names_split import names_split_file, read_split
    from decodetr.annotations.sources import load_annotations

    split = names_split_file(args.data, args.names_split)
    form = form_of(args.class_names, args.box_format)
    coco = load_annotations(args.data, "train", args.annotations, args.images, **form)
    return coco if split is None else coco.select(read_split(split)[0])


def _models(args, settings):
    """{argument of `build_pool`: its [`Model`]} of the stage's models."""
    from decodetr.pool_builder import build
    from decodetr.pool_builder.proposers import proposer_model
    from decodetr.utils.devices import pick_device

    device = pick_device(args.device)
    makers = {
        "clip": lambda name: build.clip_model(name, device),
        "captioner": lambda name: build.captioner_model(name, settings, device, args.device_map),
        "detector": lambda name: proposer_model(name, device),
    }
    models = {}
    for option, make in makers.items():
        if (name := getattr(args, option, None)) is not None:
            models["proposer" if option == "detector" else option] = _load(option, name, make)
        elif option == "detector" and hasattr(args, option):
            models["proposer"] = None
    return models


def _load(what, name, make):
    """A model, with a plain error if there is none."""
    from decodetr.utils.hub import local_only
    from decodetr.utils.shipped import cannot_load, resolve

    what = "CLIP" if what == "clip" else what
    folder = resolve(name, what)
    try:
        with local_only(folder):
            model = make(folder)
    except OSError as error:
        raise cannot_load(what, name, error) from error

    def load():
        with local_only(folder):
            return model.load()

    return replace(model, load=load)


def _tell_stale(output):
    """Say which later stages are of what was there before."""
    from decodetr.pool_builder.stages import INPUTS, finished_stages

    found = finished_stages(output)
    stale = [str(output / stage) for stage in INPUTS if stage not in found and (output / stage / MANIFEST).is_file()]
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: made from what is no longer there, or unfinished; make them again\n")


def _tell_problems(output):
    """Say which images could not be used."""
    from decodetr.pool_builder.shards import StageFolder

    problems = StageFolder.open(output / "proposals", "proposals").totals["problems"]
    for problem in problems[:5]:
        sys.stderr.write(f"left out: {problem['problem']}\n")
    if problems:
        sys.stderr.write(f"{len(problems)} images were left out; OUT/report.json names all after a build\n")
