"""Options of a command that take several values."""

import argparse


class Extend(argparse.Action):
    """`--x a b --x c` is a, b, c. The default is what holds where nothing is said, and no part of the list then, as it
    would be with argparse's own "extend"."""

    def __call__(self, parser, namespace, values, option_string=None):
        so_far = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, _Said([*(so_far if isinstance(so_far, _Said) else ()), *values]))


class _Said(list):
    """Values of the words that are being parsed, not a default."""


def as_defaults(namespace):
    """What one parse gave, as the defaults of another: a list that is said there replaces one that was said before."""
    return argparse.Namespace(
        **{name: list(value) if isinstance(value, _Said) else value for name, value in vars(namespace).items()}
    )


def extend_lists(parser, but=()):
    """Make all options of a parser, and of its subcommands, that take several values keep what is said twice.

    Args:
        parser (argparse.ArgumentParser): with all its options.
        but: options whose values are one thing, such as height and width; the last of them counts.

    Returns:
        The parser.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                extend_lists(command, but)
        elif action.option_strings and action.nargs in ("+", "*") and not set(but).intersection(action.option_strings):
            action.__class__ = Extend
    return parser
