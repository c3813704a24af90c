"""The command `decodetr predict`: images and videos in, annotated pictures and files of detections out.

Heavy imports are inside the functions, so that `decodetr predict --help` is instant.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress

from decodetr.cli.options import (
    add_batch_size,
    add_clip,
    add_device,
    add_picture_limit,
    add_threshold,
    add_vocabulary,
    asked_names,
)
from decodetr.utils.devices import pick_device
from decodetr.utils.files import claim, output_folder
from decodetr.utils.images import open_image
from decodetr.utils.preflight import require_packages, run_checks
from decodetr.utils.shipped import (
    DEFAULT_MODEL,
    HUB_CARDS,
    expect,
    expect_file,
    resolve,
)

_PACKAGES = ("filelock", "supervision", "tqdm")  # that it always needs, also where decodetr's others are left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr predict`."""
    parser.add_argument(
        "images",
        nargs="+",
        help="images and videos: files, folders with their sub-folders, glob patterns, .txt files with one of these a "
        "line, camera:0; with --allow-urls also http(s):// and rtsp:// addresses",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="folder, Hub name or shipped name of a DeCo-DETR; or what `decodetr export` wrote, the folder or "
        "the .onnx or .xml in it, which needs no torch; or, with --clip, folder or Hub name of any detector of "
        f"transformers (default: {DEFAULT_MODEL}, which knows drawn scenes only)",
    )
    parser.add_argument(
        "--output", required=True, help="write detections and annotated images into this folder; required"
    )
    parser.add_argument(
        "--format",
        dest="formats",
        action="append",
        metavar="FORMS",
        help="write detections as json, jsonl, coco, yolo, voc, csv, parquet; repeat it or use commas (default: json)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no annotated images and videos")
    parser.add_argument(
        "--picture-format",
        choices=("png", "jpg"),
        help="of annotated images: png, or jpg, which is smaller and made much faster (default: png)",
    )
    parser.add_argument(
        "--save-crops", action="store_true", help="also write what is in the boxes, as crops/NAME/*.png"
    )
    parser.add_argument(
        "--names",
        help="""detect these names: 'cat,"salt, pepper"', or those of a .txt or .json file. pool: all that the pool of
        the model speaks of (default: all names of the model)""",
    )
    parser.add_argument(
        "--names-file",
        help="detect the names in this file, one per line; 'name: prompt; prompt' embeds the prompts for a name",
    )
    add_vocabulary(parser)
    add_clip(
        parser,
        "CLIP that embeds names which the model lacks (default: the one that the model records). With a detector of "
        "transformers, CLIP names what is in each of its boxes: nothing needs to be trained, but it is slow",
    )
    add_threshold(parser)
    parser.add_argument(
        "--top-k",
        type=int,
        help="detections to keep per image (default: 100, or as many as the graph of an exported model gives)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="also write which prototypes each detection used, with their captions"
    )
    parser.add_argument(
        "--slice",
        type=int,
        metavar="PIXELS",
        help="also detect in overlapping tiles of this side, for small objects in large images (default: no tiles)",
    )
    parser.add_argument("--slice-overlap", type=float, help="share of a tile that the next one has too (default: 0.2)")
    parser.add_argument(
        "--track", action="store_true", help="number the objects of videos; needs `pip install 'decodetr[track]'`"
    )
    parser.add_argument("--frame-stride", type=int, help="use every so many frames of a video (default: 1)")
    parser.add_argument("--max-frames", type=int, help="stop after so many frames of a video (default: at its end)")
    parser.add_argument(
        "--allow-urls", action="store_true", help="fetch images and videos from addresses (default: an error)"
    )
    add_batch_size(parser, default=4)
    parser.add_argument(
        "--workers", type=int, default=2, help="threads that read and draw images meanwhile, 0 for none (default: 2)"
    )
    parser.add_argument(
        "--font", help="TrueType font of the labels, for scripts that the default lacks (default: DejaVu Sans)"
    )
    add_device(parser)
    parser.add_argument(
        "--optimize",
        metavar="WAY",
        help="auto: try the ways to run the model that this machine has (OpenVINO, ONNX Runtime, ...), keep the "
        "fastest that detects the same, and remember it; or one of them, such as openvino (default: eager PyTorch)",
    )
    add_picture_limit(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, draw, write. Returns 1 if some image could not be read (the others are done), else 0."""
    require_packages(_PACKAGES, "decodetr predict")
    from decodetr.inference.result_files import check_formats
    from decodetr.inference.sources import find_sources
    from decodetr.inference.tracking import require_trackers

    for name, given, least in _whole_numbers(args):
        if given is not None and given < least:
            raise ValueError(f"--{name} must be at least {least}, got {given}")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold must be in 0..1, got {args.threshold}")
    if args.slice_overlap is not None and not 0 <= args.slice_overlap < 1:
        raise ValueError(f"--slice-overlap must be at least 0 and below 1, got {args.slice_overlap}")
    if args.slice is not None and args.explain:
        raise ValueError("--explain shows what the queries of one image read; leave out --slice or --explain")
    args.formats = [name.strip() for names in args.formats or ["json"] for name in names.split(",")]
    names, sources, formats, *_ = run_checks(
        lambda: asked_names(args),
        lambda: find_sources(args.images, args.output, args.allow_urls),
        lambda: check_formats(args.formats, args.output),
        lambda: require_trackers() if args.track else None,
        lambda: output_folder(args.output, "--output"),
        lambda: _expect_model(args),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("text model", args.clip, "config.json"),
        lambda: expect_file("--font", args.font),
        lambda: _expect_way(args),
    )
    _check_use(args, sources)
    args.formats = formats
    with claim(args.output, "decodetr predict"):
        return _predict(args, names, sources)


def _check_use(args, sources):
    """ValueError for an option that would change nothing."""
    no_video, no_image = not sources.videos, args.no_pictures or not sources.pictures
    for option, given, is_idle, why in (
        ("--track", args.track or None, no_video, "numbers the objects of videos, and no video is given"),
        ("--frame-stride", args.frame_stride, no_video, "is of videos, and none is given"),
        ("--max-frames", args.max_frames, no_video, "is of videos, and none is given"),
        ("--slice-overlap", args.slice_overlap, args.slice is None, "is of tiles, and --slice is not given"),
        ("--font", args.font, args.no_pictures, "is of annotated pictures, and none are made"),
        ("--picture-format", args.picture_format, no_image, "is of annotated images, and none are made"),
    ):
        if given is not None and is_idle:
            raise ValueError(f"{option} {why}; leave it out")


def _expect_model(args):
    """Check that the model is there, and that the device is."""
    from decodetr.runtime.description import find_export

    if find_export(args.model) is None:
        expect("model", args.model, "config.json")
        pick_device(args.device)


def _expect_way(args):
    """Check that a model can be optimized as it is asked."""
    if not args.optimize:
        return
    from decodetr.optimizing.memory import memory_folder
    from decodetr.optimizing.ways import check_way
    from decodetr.runtime.description import find_export

    if args.explain:
        raise ValueError(
            "--explain shows what queries look up, which an optimized model does not; leave out --optimize"
        )
    if find_export(args.model) is not None:
        raise ValueError(f"--optimize: {args.model} is an exported model; give the model itself, or leave it out")
    if args.optimize != "auto":
        check_way("--optimize", args.optimize, pick_device(args.device))
    memory_folder()


def _whole_numbers(args):
    """(option, what is given, its least value)."""
    named = {"top-k": 1, "batch-size": 1, "workers": 0, "slice": 32, "frame-stride": 1, "max-frames": 1}
    return [(name, getattr(args, name.replace("-", "_")), least) for name, least in named.items()]


def _predict(args, names, sources):
    from functools import partial

    from decodetr.runtime.description import find_export

    if find_export(args.model) is not None:  # before torch is imported, which it does without
        return _predict_exported(args, names, sources)
    from decodetr.inference.detection import detect
    from decodetr.inference.loading import answer_digest, load_model
    from decodetr.inference.picture_run import PredictRun
    from decodetr.inference.shown import FAINT, least_score

    if args.clip and _is_other_detector(args.model):
        if args.optimize:
            raise ValueError("--optimize is for a DeCo-DETR, not for a detector with --clip; leave it out")
        return _predict_by_clip(args, names, sources)
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
    least = least_score(model.config, args.threshold) * (FAINT if args.track else 1)
    find_in: Callable[..., list[dict[str, list]]] = partial(detect, model, image_processor, min_score=least)
    digest = answer_digest(model, image_processor)
    if args.optimize:
        optimized = _optimized(args, model, image_processor, sources)
        find_in, digest = partial(optimized.find, min_score=least), f"{digest} {optimized.way}"
    return PredictRun(_options(args), model, sources, find_in, digest).run()


def _optimized(args, model, image_processor, sources):
    """The model in the fastest way, or in the one that was asked for, checked on pictures of the run."""
    from decodetr.optimizing.optimize import optimize

    pictures = _readable(sources.pictures) if sources.pictures else None
    way = None if args.optimize == "auto" else args.optimize
    optimized = optimize(model, pictures, way=way, image_processor=image_processor, progress=True)
    sys.stderr.write(optimized.table())
    return optimized


def _readable(paths):
    """Pictures that can be opened, as they are asked for. The others are named when their turn comes."""
    for path in paths:
        with suppress(OSError, ValueError):
            yield open_image(path)


def _predict_exported(args, names, sources):
    """By the runtime of an exported model."""
    from decodetr.inference.exported_model import ExportedModel
    from decodetr.inference.picture_run import PredictRun
    from decodetr.runtime.providers import providers_of

    for option, given in {"--clip": args.clip, "--explain": args.explain}.items():
        if given:
            raise ValueError(f"{option}: {args.model} is exported, and cannot do that; give the model itself")
    model = ExportedModel(args.model, names, args.vocabulary, providers_of(args.model, args.device))
    most = model.config.top_k
    if most is not None and args.top_k is not None and args.top_k > most:
        raise ValueError(f"--top-k {args.top_k}: the graph of {args.model} gives at most {most} detections")
    return PredictRun(_options(args, most), model, sources, model.find, model.digest(), model.detector.size_of).run()


def _is_other_detector(model):
    """Whether a folder or Hub name is of no DeCo-DETR."""
    from transformers import AutoConfig

    from decodetr.modeling_decodetr import DeCoDetrConfig
    from decodetr.modeling_decodetr.safe_loading import load_safely
    from decodetr.utils.shipped import loading

    with loading("model", model) as folder:
        return load_safely(AutoConfig, folder).model_type != DeCoDetrConfig.model_type


def _predict_by_clip(args, names, sources):
    """Boxes of a detector, names of CLIP on crops of them."""
    from decodetr.building.clip_detector import ClipDetector
    from decodetr.inference.picture_run import PredictRun

    if not isinstance(names, dict):
        raise ValueError(
            f"CLIP has to be told what to look for in the boxes of {args.model}, which is no DeCo-DETR with names of "
            "its own: give --names 'cat,dog' or --names-file FILE"
        )
    if args.explain or args.vocabulary:
        raise ValueError(f"--explain and --vocabulary are of a DeCo-DETR, which {args.model} is not; leave them out")
    sys.stderr.write(
        f"CLIP looks at every box of {args.model}: slow. `decodetr build` makes a model of the two that looks names "
        "up instead\n"
    )
    detector = ClipDetector.from_pretrained(args.model, args.clip, names, args.device)
    return PredictRun(_options(args), detector, sources, detector, detector.digest()).run()


def _options(args, most=None):
    """What a run is asked. `most`: detections that a graph gives."""
    from decodetr.inference.picture_run import PredictOptions

    top_k = args.top_k
    if top_k is None:
        top_k = PredictOptions.top_k if most is None else min(PredictOptions.top_k, most)
    own = {name: getattr(args, name) for name in ("picture_format", "slice_overlap", "frame_stride")}
    return PredictOptions(
        output=args.output,
        model=args.model,
        vocabulary=args.vocabulary,
        threshold=args.threshold,
        top_k=top_k,
        explain=args.explain,
        batch_size=args.batch_size,
        font=args.font,
        formats=args.formats,
        pictures=not args.no_pictures,
        crops=args.save_crops,
        workers=args.workers,
        slice=args.slice,
        track=args.track,
        max_frames=args.max_frames,
        **{name: value for name, value in own.items() if value is not None},  # else the defaults there
    )
