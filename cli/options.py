"""Options that several commands share."""

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from decodetr.annotations.formats import BOX_FORMATS
from decodetr.pool_builder.settings import ENGINES
from decodetr.utils.limits import MAX_PIXELS, MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE
from decodetr.utils.model_room import load
from decodetr.utils.name_list import read_prompts

DEFAULT_THRESHOLD = load("default_threshold").DEFAULT_THRESHOLD
CAPTIONER = (
    "folder, Hub name or shipped name of a LLaVA or another image-text-to-text model; or MODEL@URL of a chat "
    "completion server, such as vLLM; required"
)


def add_output(parser: argparse.ArgumentParser, text: str, metavar: str = "DIR", required: bool = False) -> None:
    """Add --output: what a command writes, and where. `text` says what."""
    parser.add_argument("--output", required=required, metavar=metavar, help=text + ("; required" if required else ""))


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite to a command that refuses a finished output (docs/command_line.md, "Outputs")."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run of the command wrote (default: an error)",
    )


def add_written_folder(parser: argparse.ArgumentParser, text: str, metavar: str = "DIR") -> None:
    """Add the folder that a command writes, as a word of its own or as --output. [`written_folder`] reads it."""
    parser.add_argument("folder", nargs="?", metavar=metavar, help=f"{text}; or --output {metavar}")
    parser.add_argument("--output", metavar=metavar, help=argparse.SUPPRESS)


def written_folder(args: argparse.Namespace) -> str:
    """The folder of [`add_written_folder`].

    Raises:
        ValueError: none is given, or two.
    """
    given = {place for place in (args.folder, args.output) if place is not None}
    if len(given) != 1:
        got = " and ".join(sorted(given)) or "none"
        raise ValueError(f"give one folder to write, as a word of its own or by --output; got {got}")
    return given.pop()


def asked_names(args: argparse.Namespace) -> dict[str, list[str]] | str | None:
    """What `load_model` takes as names, of --names and --names-file: "pool", prompts by name, or None for the model's
    own. A file with the one name "pool" asks for pools.

    Raises:
        ValueError: as [`read_prompts`].
    """
    return "pool" if args.names == "pool" and not args.names_file else read_prompts(args.names, args.names_file)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device: where models run."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --engine, --ray-address and --workers: who makes the shards of a pool (docs/pools.md)."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="who makes the shards of a pool: datasets: this process, one after another; ray: the workers of a "
        "cluster of Ray, whose nodes share OUT (default: %(default)s)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of --engine ray: the cluster, such as HOST:6379 or auto (default: $RAY_ADDRESS, else one that runs on "
        "this machine, else one is started)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="of --engine ray: workers at once (default: one a GPU; without GPUs, as many as the CPUs allow)",
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Add --batch-size: images that go through a model at once."""
    parser.add_argument("--batch-size", type=int, default=default, help=f"images per batch (default: {default})")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Add --threshold: the least score of what is shown."""
    parser.add_argument(
        "--threshold",
        type=float,
        help="drop detections with a lower score, 0 to 1 (default: from the calibration of the model; "
        f"{DEFAULT_THRESHOLD} if it has none)",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add --workers: processes that read images."""
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read images; 0: the main process (default: 0)",
    )


def add_vocabulary(parser: argparse.ArgumentParser) -> None:
    """Add --vocabulary: other names than those of the model."""
    parser.add_argument(
        "--vocabulary",
        metavar="NAME",
        help="vocabulary that replaces that of the model: folder, Hub name or shipped name",
    )


def add_clip(
    parser: argparse.ArgumentParser,
    text: str = "CLIP that embeds names which the model lacks (default: the one that the model records)",
    required: bool = False,
) -> None:
    """Add --clip: a CLIP or another model that embeds texts in its space. `text` says what for."""
    parser.add_argument("--clip", required=required, metavar="NAME", help=text + ("; required" if required else ""))


def at_least(args: argparse.Namespace, **least: int) -> None:
    """Raise ValueError where an option, if given, is less than it must be."""
    for name, number in least.items():
        if (value := getattr(args, name)) is not None and value < number:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {number}, got {value}")


def add_form_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a command that reads a data set must be told of a `datasets` data set, and its limits."""
    add = parser.add_argument
    add(
        "--class-names",
        metavar="NAMES",
        help="""name the categories 0, 1, ... of a `datasets` data set that has numbers only: 'cat,"salt, pepper"'""",
    )
    add(
        "--box-format",
        choices=BOX_FORMATS,
        help="format of the boxes of a `datasets` data set. coco: x, y, width, height in pixels. pascal_voc: x0, y0, "
        "x1, y1 in pixels. yolo: centre x, centre y, width, height from 0 to 1 (default: coco)",
    )
    add_limits(parser)


def add_picture_limit(parser: argparse.ArgumentParser) -> None:
    """Add --max-image-pixels to a command that opens pictures."""
    parser.add_argument(
        "--max-image-pixels",
        action=_Variable,
        type=int,
        metavar="N",
        variable=MAX_PIXELS_VARIABLE,
        help=f"refuse images of more than this many pixels (default: {MAX_PIXELS:,})",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add --max-image-pixels and --allow-outside to a command that reads a data set."""
    add_picture_limit(parser)
    parser.add_argument(
        "--allow-outside",
        action=_Variable,
        nargs=0,
        const=1,
        variable=OUTSIDE_VARIABLE,
        help="also read images outside the folder of the data set, if its files name them (default: an error)",
    )


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to a help text, except None and False, which the text says in words."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class _Variable(argparse.Action):
    """An option that sets an environment variable."""

    def __init__(self, option_strings, dest, variable, **options):
        super().__init__(option_strings, dest, **options)
        self.variable = variable

    def __call__(self, parser, namespace, values, option_string=None):
        value = self.const if self.nargs == 0 else values
        if value < 1:
            raise argparse.ArgumentError(self, f"expected a number of at least 1, got {value}")
        os.environ[self.variable] = str(value)
        setattr(namespace, self.dest, value)


@contextmanager
def restored(names: Iterable[str]) -> Iterator[None]:
    """At the end, set environment variables back."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def own_variables() -> AbstractContextManager[None]:
    """At the end of a command, set the variables back that its options have set."""
    return restored((MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE, "CUDA_VISIBLE_DEVICES"))  # the last by --device of train
