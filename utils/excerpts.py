"""Excerpts of what is too long for a message. Most of them travel with the model, which has messages too."""

import json

from decodetr.utils.model_room import load

__all__ = ["short", "short_json", "some_of"]

_excerpts = load("excerpts")
short, some_of = _excerpts.short, _excerpts.some_of
_MOST = 120  # characters of a value as JSON


def short_json(value: object) -> str:
    """A value as JSON, cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."
