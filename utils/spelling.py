"""Words that nobody knows, and the known ones that are near."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for an unknown word, or nothing if no known one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
