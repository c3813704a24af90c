"""Options of a command: which there are, which are given, and those that take several values."""

import argparse
from collections.abc import Collection, Sequence
from typing import Any


class Extend(argparse.Action):
    """`--x a b --x c` is a, b, c. The default is what holds where nothing is said, and no part of the list then, as it
    would be with argparse's own "extend"."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        so_far = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, _Said([*(so_far if isinstance(so_far, _Said) else ()), *(values or ())]))


class Joined(argparse.Action):
    """`--names a,b --names c` is "a,b,c": lists of names with commas in one value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        so_far = getattr(namespace, self.dest, None)
        if so_far is None or so_far == self.default:
            setattr(namespace, self.dest, values)
            return
        if so_far.count('"') % 2 or values.count('"') % 2:  # it would take the comma between the two for one of a name
            raise argparse.ArgumentError(self, f"{so_far!r} and {values!r}: a double quote lacks its pair")
        setattr(namespace, self.dest, f"{so_far},{values}")


class SaysOnce(argparse.Action):
    """An option with several spellings: two of them with different values are an error. Of one spelling the last
    counts, as everywhere."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        word = (option_string or "").replace("_", "-")
        spelled = getattr(namespace, "spelled", {})
        earlier, value = spelled.setdefault(self.dest, (word, values))
        if earlier != word and value != values:
            raise argparse.ArgumentError(
                None, f"{earlier} {value} and {word} {values} are two words for one thing; give one of them"
            )
        spelled[self.dest] = (word, values)
        setattr(namespace, self.dest, values)


class _Said(list):
    """Values of the words that are being parsed, not a default."""


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """{name: its first `argparse.Action`} of the options of a parser. --help is left out."""
    found = {}
    for action in parser._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            found.setdefault(action.dest, action)
    return found


def only_given(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Make a parser give what is said alone: what is not said is not in its namespace. Returns the parser."""
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def extend_lists(parser: argparse.ArgumentParser, but: Collection[str] = ()) -> argparse.ArgumentParser:
    """Make all options of a parser, and of its subcommands, that take several values keep what is said twice.

    Args:
        parser (argparse.ArgumentParser): with all its options.
        but: options whose values are one thing, such as height and width. The last of them counts.

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
