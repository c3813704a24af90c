"""The command `decodetr bench`: how long models take here, beside bare detectors and other zero-shot detectors."""

import argparse
import os
import shutil
import sys
from importlib.util import find_spec

from decodetr.cli.options import add_device, add_output, add_overwrite, at_least
from decodetr.runtime.description import find_export
from decodetr.speed.catalog import HOWS, OURS, PEERS
from decodetr.utils.devices import pick_device
from decodetr.utils.files import claim, output_folder
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect
from decodetr.utils.spelling import closest

_SIDE = 32  # sides of pictures are multiples of it, for all models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr bench`."""
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        default=list(OURS),
        metavar="MODEL",
        help=f"DeCo-DETRs: {', '.join(OURS)} (random weights), folders, Hub names, shipped names, what `decodetr "
        f"export` wrote. Others are compared with the first (default: {' '.join(OURS)})",
    )
    add(
        "--peers",
        nargs="*",
        default=[],
        metavar="PEER",
        help=f"zero-shot detectors of transformers beside them, of random weights: {', '.join(PEERS)}, or all "
        "(default: none)",
    )
    add("--name-counts", nargs="+", type=int, default=[80], metavar="K", help="numbers of names (default: 80)")
    add("--batch-sizes", nargs="+", type=int, default=[1], metavar="B", help="images at once (default: 1)")
    add(
        "--queries",
        nargs="+",
        type=int,
        default=[300],
        metavar="N",
        help=f"detector queries of {', '.join(OURS)}; other models have theirs (default: 300)",
    )
    add(
        "--queries-read",
        nargs="+",
        default=["rule"],
        metavar="R",
        help="queries of an image that the semantic stream reads, one row each: a number, all, or rule, as the model "
        "decides by their objectness (default: rule)",
    )
    add(
        "--image-size",
        default="standard",
        metavar="SIDE",
        help="side of the square images that all models see, a multiple of 32; standard: to each its own (default: "
        "standard)",
    )
    add(
        "--what",
        nargs="+",
        choices=["forward", "file"],
        default=["forward", "file"],
        help="the forward alone, or all from a JPEG to boxes (default: both)",
    )
    add(
        "--how",
        nargs="+",
        choices=HOWS,
        default=["eager"],
        help="as it is; with the channels of maps last; in bfloat16; by torch.compile, on CUDA with CUDA graphs; by "
        "OpenVINO (default: eager)",
    )
    add("--runs", type=int, default=5, help="timed calls of each row (default: 5)")
    add("--warmup", type=int, default=1, help="untimed rounds before them (default: 1)")
    add(
        "--limit-s",
        type=float,
        default=600,
        metavar="SECONDS",
        help="skip rows that would take longer than this, and say so (default: 600)",
    )
    add("--threads", type=int, help="CPU threads (default: those of PyTorch)")
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of weights and images (default: float32)",
    )
    add_device(parser)
    add_output(
        parser,
        "write bench.json, bench.md and plots into this folder; rows that are there with equal settings are kept "
        "(default: print only)",
    )
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run `decodetr bench`. Returns the exit status."""
    models, peers, size, queries_read, *_ = run_checks(
        lambda: _models(args.models),
        lambda: _peers(args.peers),
        lambda: _side(args.image_size),
        lambda: _queries_read(args.queries_read),
        lambda: at_least(args, runs=1, warmup=0, threads=1),
        lambda: _lists(args),
        lambda: pick_device(args.device),
        lambda: _compiler(args.how),
        lambda: _openvino(args),
        lambda: None if args.output is None else output_folder(args.output, "--output"),
    )
    from decodetr.speed.bench import COMMAND, Bench, BenchOptions, earlier_run
    from decodetr.speed.report import text_of, write_report

    options = BenchOptions(
        models=models,
        peers=peers,
        names=_unique(args.name_counts),
        batch_sizes=_unique(args.batch_sizes),
        queries=_unique(args.queries),
        queries_read=queries_read,
        image_size=size,
        what=_unique(args.what),
        how=_unique(args.how),
        runs=args.runs,
        warmup=args.warmup,
        limit_s=args.limit_s,
        threads=args.threads,
        device=args.device,
        dtype=args.dtype,
        output=args.output,
        overwrite=args.overwrite,
    )
    earlier_run(args.output)
    with claim(args.output, COMMAND):
        document = Bench(options).run()
        sys.stdout.write(text_of(document))
        if args.output is not None:
            for file in write_report(document, args.output):
                sys.stdout.write(f"written: {file}\n")
    return 0


def _unique(values):
    return tuple(dict.fromkeys(values))


def _models(given):
    """The models, each of which is there and has a title of its own."""
    models = _unique(given)
    titles = {}
    for name in models:
        if name not in OURS and find_export(name) is None:
            expect("model", name, "config.json")
        title = OURS[name].title if name in OURS else os.path.basename(os.path.realpath(name))
        if title in titles:
            raise ValueError(f"--models: {titles[title]} and {name} are both called {title}; rename a folder")
        titles[title] = name
    return models


def _peers(given):
    peers = _unique(name for word in given for name in (PEERS if word == "all" else [word]))
    if unknown := [name for name in peers if name not in PEERS]:
        near = closest(unknown[0], [*PEERS, "all"])
        raise ValueError(f"--peers: expected some of {', '.join(PEERS)}, or all, got {unknown[0]!r}{near}")
    return peers


def _side(text):
    if text == "standard":
        return None
    if not text.isdecimal() or not int(text) or int(text) % _SIDE:
        raise ValueError(f"--image-size must be standard or a multiple of {_SIDE}, got {text!r}")
    return int(text)


def _queries_read(words):
    for word in words:
        if word not in ("rule", "all") and not (word.isdecimal() and int(word)):
            raise ValueError(f"--queries-read must be rule, all or numbers of at least 1, got {word!r}")
    return _unique(int(word) if word.isdecimal() else word for word in words)


def _lists(args):
    for option in ("name_counts", "batch_sizes", "queries"):
        if wrong := [value for value in getattr(args, option) if value < 1]:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, got {wrong[0]}")
    if not args.limit_s > 0:
        raise ValueError(f"--limit-s must be above 0, got {args.limit_s:g}")


def _compiler(how):
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if "compile" in how and shutil.which(compiler) is None:
        raise ValueError(
            f"--how compile needs a C++ compiler, and there is no {compiler}; install one, or set the environment "
            "variable CXX"
        )


def _openvino(args):
    if not any(how.startswith("openvino") for how in args.how):
        return
    if find_spec("openvino") is None:
        raise ImportError("--how openvino needs OpenVINO: pip install 'decodetr[openvino]'")
    if args.dtype != "float32" or pick_device(args.device).type != "cpu":
        raise ValueError(
            "--how openvino starts from float32 on the CPU; leave --dtype out, give --device cpu, and take "
            "--how openvino-bfloat16 for bfloat16"
        )
