"""What files from outside may ask of us, as environment variables and as options of commands.

Variables, because the worker processes that read pictures inherit them. Nothing heavy is imported, so that `--help` is
instant.
"""

import argparse
import os
from contextlib import contextmanager

MAX_PIXELS = 1 << 26  # 67 megapixels: a process with a model stays below 2 GB; of JPEG 2000 half as many
MAX_PIXELS_VARIABLE = "DECODETR_MAX_IMAGE_PIXELS"
OUTSIDE_VARIABLE = "DECODETR_ALLOW_OUTSIDE"


def add_picture_limit(parser):
    """Add --max-image-pixels to a command that opens pictures."""
    parser.add_argument(
        "--max-image-pixels",
        action=_Variable,
        type=int,
        metavar="N",
        variable=MAX_PIXELS_VARIABLE,
        help=f"open pictures of up to so many pixels (default: {MAX_PIXELS:,})",
    )


def add_limits(parser):
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
def own_variables():
    """At the end of a command, set the variables back that its options have set."""
    before = {name: os.environ.get(name) for name in (MAX_PIXELS_VARIABLE, OUTSIDE_VARIABLE)}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
