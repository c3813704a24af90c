"""Options that several commands share."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from decodetr.annotations.formats import BOX_FORMATS
from decodetr.utils.limits import MAX_PIXELS, MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE


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
def own_variables() -> Iterator[None]:
    """At the end of a command, set the variables back that its options have set."""
    before = {name: os.environ.get(name) for name in (MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE)}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
