"""Words that nobody knows, and the known ones that are near."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for an unknown word, or nothing if no known one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def spelled_otherwise(unknown: Iterable[str], known: Iterable[str]) -> str:
    """ "; ... is ... there" for the first unknown name that a known one equals but for case, underscores and hyphens,
    or nothing."""
    plain = {_plain(name): name for name in known}
    pair = next(((name, plain[_plain(name)]) for name in unknown if _plain(name) in plain), None)
    return f"; {pair[0]!r} is {pair[1]!r} there, and names must be equal to the letter" if pair else ""


def _plain(name):
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
