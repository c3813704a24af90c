"""Words that nobody knows, and the known ones that are near."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Characters that nobody sees: zero width space, word joiner, byte order mark, soft hyphen, marks of direction. Zero
# width joiners stay: words of some languages, and emoji, are others without them.
_UNSEEN = re.compile("[\u200b\u2060\ufeff\u00ad\u200e\u200f]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")  # of Unicode, but for that of the keyboard


def as_seen(text: str) -> str:
    """A text without characters that nobody sees, with one kind of space, in the composed form of Unicode (NFC): what
    looks equal is equal."""
    return unicodedata.normalize("NFC", _SPACES.sub(" ", _UNSEEN.sub("", text)))


def spelled_as(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Names, those that look equal to one of `others` spelled as that one: a file of annotations and a keyboard may
    write one letter in two ways. What is there to the letter stays."""
    names, others = list(names), list(others)
    taken, letters = set(names), set(others)
    there = {as_seen(other): other for other in reversed(others) if other not in taken}
    return [name if name in letters else there.pop(as_seen(name), name) for name in names]


def closest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean ...?" for an unknown word, or nothing if no known one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def spelled_otherwise(unknown: Iterable[str], known: Iterable[str]) -> str:
    """ "; ... is ... there" for the first unknown name that a known one equals but for what [`folded`] takes away, or
    nothing."""
    plain = {folded(name): name for name in known}
    pair = next(((name, plain[folded(name)]) for name in unknown if folded(name) in plain), None)
    if pair is None:
        return ""
    looks_equal = unicodedata.normalize("NFC", pair[0]) == unicodedata.normalize("NFC", pair[1])
    name, there = map(ascii, pair) if looks_equal else map(repr, pair)
    return f"; {name} is {there} there, and names must be equal to the letter"


def folded(name: str) -> str:
    """A name without case, spaces, underscores and hyphens, in one of the ways that Unicode has for its letters."""
    return re.sub(r"[\s_-]+", "", as_seen(name).casefold())
