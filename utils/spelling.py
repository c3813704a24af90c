"""Words that nobody knows, and the known ones that are near."""

import difflib
import unicodedata
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for an unknown word, or nothing if no known one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def spelled_otherwise(unknown: Iterable[str], known: Iterable[str]) -> str:
    """ "; ... is ... there" for the first unknown name that a known one equals but for case, underscores, hyphens and
    the ways that Unicode has for one letter, or nothing."""
    plain = {_plain(name): name for name in known}
    pair = next(((name, plain[_plain(name)]) for name in unknown if _plain(name) in plain), None)
    if pair is None:
        return ""
    looks_equal = unicodedata.normalize("NFC", pair[0]) == unicodedata.normalize("NFC", pair[1])
    name, there = map(ascii, pair) if looks_equal else map(repr, pair)
    return f"; {name} is {there} there, and names must be equal to the letter"


def _plain(name):
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())
