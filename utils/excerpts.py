"""Excerpts of what is too long for a message. Most of them travel with the model, which has messages too."""

import json

from decodetr.utils.model_room import load

__all__ = ["first_line", "last_line", "short", "short_json", "some_of"]

_excerpts = load("excerpts")
short, some_of = _excerpts.short, _excerpts.some_of
_MOST = 120  # characters of a value as JSON


def short_json(value: object) -> str:
    """A value as JSON, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its type where it says nothing."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last one, as of an error whose text is a traceback."""
    return _lines(error)[-1]


def _lines(error):
    return str(error).strip().splitlines() or [type(error).__name__]
