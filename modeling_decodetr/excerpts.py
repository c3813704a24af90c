"""Excerpts of what is too long for a message."""

from collections.abc import Callable, Iterable
from typing import Any


def short(value: object) -> str:
    """The `repr` of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def some_of(words: Iterable[Any], most: int = 5, say: Callable[[Any], str] = repr) -> str:
    """The first few of some words, each as `say` writes it."""
    words = list(words)
    return ", ".join(map(say, words[:most])) + (", ..." if len(words) > most else "")
