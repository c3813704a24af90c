"""The command `decodetr demo`: a model in the browser.

Heavy imports are inside the functions, so that `decodetr demo --help` is instant.
"""

import argparse
import sys

from decodetr.cli.options import add_clip, add_device, add_picture_limit, add_threshold
from decodetr.demo.settings import HOST, PORT, DemoSettings, check_port
from decodetr.utils.name_list import read_typed_names
from decodetr.utils.preflight import require_package, run_checks
from decodetr.utils.shipped import DEFAULT_MODEL, expect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr demo`."""
    add = parser.add_argument
    add(
        "--model",
        default=DEFAULT_MODEL,
        help=f"folder, Hub name or shipped name of a DeCo-DETR (default: {DEFAULT_MODEL}, which knows drawn scenes "
        "only)",
    )
    add(
        "--names",
        help="""names that are typed when the page opens: 'cat,"salt, pepper"'. pool: all that the pool of the model
        speaks of (default: all names of the model)""",
    )
    add(
        "--vocabulary",
        nargs="+",
        default=[],
        metavar="NAME",
        help="vocabularies that can be chosen besides: folders, Hub names or shipped names (default: none)",
    )
    add_clip(
        parser, "CLIP that embeds names which the model lacks, and boxes (default: the one that the model records)"
    )
    add_threshold(parser)
    add_device(parser)
    add(
        "--examples",
        metavar="DIR",
        help="pictures to try, the first twelve of a folder (default: drawn scenes for the shipped model, else none)",
    )
    add("--host", default=HOST, help=f"address to listen at; 0.0.0.0: all of this machine (default: {HOST})")
    add("--port", type=int, default=PORT, help=f"port to listen at; 0: a free one (default: {PORT})")
    add(
        "--share",
        choices=("true", "false"),
        default="false",
        help="true: a public address for some days, through a server of Gradio; pictures then pass that server "
        "(default: false)",
    )
    add_picture_limit(parser)


def run(args: argparse.Namespace) -> int:
    """Load the model, show its page until a signal."""
    from decodetr.utils.devices import pick_device

    settings, names, *_ = run_checks(
        lambda: DemoSettings(threshold=args.threshold),
        lambda: _typed(args.names),
        lambda: check_port(args.port),
        lambda: require_package("gradio", "decodetr demo", "'decodetr[demo]'"),
        lambda: expect("model", args.model, "config.json"),
        *[lambda name=name: expect("vocabulary", name, "vocabulary.json") for name in args.vocabulary],
        lambda: expect("CLIP", args.clip, "config.json"),
        lambda: pick_device(args.device),
    )
    from decodetr.demo.server import launch

    launch(
        args.model,
        names,
        args.vocabulary,
        args.clip,
        settings,
        args.device,
        args.examples,
        args.host,
        args.port,
        args.share == "true",
        tell=_tell,
    )
    return 0


def _typed(text):
    """The text that stands where names are typed: that of --names, or the names of a file as one would type them."""
    names = None if text == "pool" else read_typed_names(text, "--names")
    return text if names is None else ", ".join(f'"{name}"' if "," in name else name for name in names)


def _tell(address):
    sys.stdout.write(f"{address}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
