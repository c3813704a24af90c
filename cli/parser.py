"""The parser of all commands: one word for one thing, earlier spellings of it, and words that nobody knows.

A command names its options once, by the words of ours, with dashes. What is added here holds for all of them: earlier
words (`ALSO`) and underscores mean the same, a list that is said twice is one list, -q and -v set how much is said.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from decodetr.utils.arguments import Joined, SaysOnce, extend_lists
from decodetr.utils.spelling import closest

logger = logging.getLogger(__name__)

# The word for a thing, and what it was called earlier or is called in transformers.
ALSO = {
    "--output": ("--output-dir",),
    "--workers": ("--num-workers", "--dataloader-num-workers"),
    "--batch-size": ("--per-device-train-batch-size",),
    "--epochs": ("--num-train-epochs",),
    "--clip": ("--text-model",),
    "--overwrite": ("--overwrite-output-dir",),
}
# Those of them that were ours, and the version that will not know them any more (docs/versioning.md). They say so.
OLD = {"--text-model": "0.2.0"}
_OF_TRAINING = (
    "--dataloader-num-workers",
    "--per-device-train-batch-size",
    "--num-train-epochs",
    "--overwrite-output-dir",
)
NAME_LISTS = ("--names", "--class-names", "--novel-names")  # with commas in one value


class Said(argparse.Namespace):
    """What a command line says. `spelled` has, for each option with several spellings, the one that was used and its
    value; it is no entry of `vars`."""

    __slots__ = ("spelled",)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.spelled = {}


class CommandParser(argparse.ArgumentParser):
    """As argparse's, without abbreviations, with `_` in an option for `-`, and with the nearest known word where one
    is unknown. Its subcommands are of the same kind."""

    more_help: Callable[[], str] | None = None  # what --help says after the options

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)
        self.given: list[str] | None = None

    def format_help(self) -> str:
        """As argparse's, with `more_help`."""
        return super().format_help() + (self.more_help() if self.more_help else "")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, in a [`Said`]."""
        self.given = None if args is None else self._with_dashes(args)
        return super().parse_known_args(self.given, Said() if namespace is None else namespace)

    def _with_dashes(self, words):
        known, found = self._option_string_actions, list(words)
        for i, word in enumerate(found):
            if word == "--":
                break
            option, equals, value = word.partition("=")
            dashed = option.replace("_", "-")
            if option.startswith("--") and option not in known and dashed in known:
                found[i] = dashed + equals + value
        return found

    def _check_value(self, action, value):
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            unknown = [word for word in self.given or () if word.startswith("--") and self._unknown(word)]
            if isinstance(action, argparse._SubParsersAction) and unknown and not action.required:
                # The value of an option that nobody knows was taken for a subcommand.
                raise argparse.ArgumentError(None, self._about(unknown)) from error
            near = closest(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from error

    def refuse(self, unknown: Sequence[str], said: argparse.Namespace) -> None:
        """Stop with a message about words that nobody knows, from the parser of the subcommand that was called."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and (name := getattr(said, action.dest, None)):
                action.choices[name].refuse(unknown, said)
        self.error(self._about(unknown))

    def _unknown(self, word):
        return word.partition("=")[0] not in self._option_string_actions

    def _about(self, unknown):
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        near = closest(option.replace("_", "-"), self._option_string_actions) if option else ""
        return f"unrecognized arguments: {' '.join(unknown)}{near}"


def complete(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give a command's parser, and those of its subcommands, what all of them have. Returns it.

    Args:
        parser (argparse.ArgumentParser): with all its options.
    """
    extend_lists(parser)
    for one in parsers_of(parser):
        also_spelled(one)
        for option in NAME_LISTS:
            if (action := one._option_string_actions.get(option)) and _stores(action):
                action.__class__ = Joined
        _add_loudness(one)
    return parser


def parsers_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its subcommands, each once."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [below for one in dict.fromkeys(action.choices.values()) for below in parsers_of(one)]
    return found


def also_spelled(parser: argparse.ArgumentParser, but: Iterable[str] = _OF_TRAINING) -> argparse.ArgumentParser:
    """Let the options of a parser be called by their other words, which --help does not list. Two words for one option
    with different values are an error. Returns the parser.

    Args:
        parser (argparse.ArgumentParser). but: words that are not added.
    """
    known = parser._option_string_actions
    for word, others in ALSO.items():
        group = (word, *others)
        actions = {id(known[option]): known[option] for option in group if option in known}
        if len(actions) != 1:
            continue
        (action,) = actions.values()
        for option in group:
            if option not in but:
                known.setdefault(option, action)
        if _stores(action):
            action.__class__ = SaysOnce
    return parser


def tell_old(words: Iterable[str]) -> None:
    """Warn of each earlier option (`OLD`) among the words of a command line, or the keys of a recipe."""
    options = {f"--{word.partition('=')[0].lstrip('-').replace('_', '-')}" for word in words}
    for old in sorted(options & OLD.keys()):
        (new,) = (word for word, others in ALSO.items() if old in others)
        logger.warning("%s is now %s. decodetr %s will not know the old word any more", old, new, OLD[old])


def _stores(action):
    """Whether an option keeps its value as argparse does it."""
    return type(action) is argparse._StoreAction


def _add_loudness(parser):
    group = parser.add_mutually_exclusive_group()
    for words, text in (
        (("-q", "--quiet"), "say errors and results only: no warnings, no progress bars"),
        (("-v", "--verbose"), "also say what is done meanwhile, by decodetr and by the libraries"),
    ):
        group.add_argument(*words, action="store_true", default=argparse.SUPPRESS, help=text)
