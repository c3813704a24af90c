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
    add("--class-names", metavar="NAMES", help="names of a `datasets` data set whose categories are bare numbers")
    add(
        "--box-format",
        choices=BOX_FORMATS,
        help="of a `datasets` data set, or of what validate repairs (default: coco)",
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
        help=f"open pictures of up to so many pixels (default: {MAX_PIXELS:,})",
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
        help="read pictures that the data set's files name outside of its folder (default: an error)",
    )


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
