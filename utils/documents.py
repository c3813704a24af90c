"""The one reader of JSON and text that somebody else wrote.

Everything that a file can do to its reader is an error that names the file: no regular file, too many bytes, another
encoding, a depth that no data have, keys that are there twice.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from decodetr.utils.excerpts import short
from decodetr.utils.files import regular_file
from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

TEXT_BYTES = 64 << 20  # of a list of names, a label file
MAX_DEPTH = 100  # of lists in lists. A config has 6
_NESTED = frozenset((dict, list))
DIGITS = 300  # of a number; beyond, no float holds it
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)


def read_text(file: str | Path, most: int = TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 or UTF-32 one that begins with a byte order mark.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, or another encoding. The message names
            file and line.
    """
    return decoded(regular_file(file, most).read_bytes(), file)


def decoded(content: bytes, where: str | Path) -> str:
    """The text of a file's bytes. `where` names the file in the message. Raises ValueError for another encoding."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}: line {line}: not a text in {encoding.removesuffix('-sig').upper()} (byte "
            f"0x{content[error.start]:02x} at {error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(
            f"{where}: line {line}: not a text in UTF-8 (a NUL character); save it as UTF-8, or UTF-16 with a byte "
            "order mark"
        )
    return text


def read_json(
    file: str | Path,
    shape: type | None = None,
    most: int | None = None,
    unique: bool = False,
    each: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """Return what a JSON file holds. Whole numbers that no float holds are infinite, as 1e400 is.

    Args:
        file (`str` or `Path`).
        shape (`type`, *optional*): what the top must be, `dict` or `list`.
        most (`int`, *optional*): bytes. Default [`decodetr.utils.files.max_bytes`].
        unique (`bool`): refuse a key that is in one object twice. For files whose keys are ids.
        each (*optional*): what an object becomes as it is read, such as one without some key. Not with `unique`.

    Raises:
        FileNotFoundError: no such file. ValueError: no regular file, too large, no JSON, nested more than 100 deep, a
            key that is there twice, or another shape. The message names the file.
    """
    return parse_json(decoded(regular_file(file, most).read_bytes(), file), file, shape, unique, each)


def parse_json(
    text: str,
    where: str | Path,
    shape: type | None = None,
    unique: bool = False,
    each: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """The value of a JSON text. As [`read_json`]."""
    try:
        with no_collection():
            pairs_hook = _unique_keys if unique else None
            value = json.loads(text, parse_int=_whole, object_hook=each, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise ValueError(f"{where}: {TOO_DEEP}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON file, got: {error}; it may be cut off: write it again") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if _is_deep(value):
        raise ValueError(f"{where}: {TOO_DEEP}")
    return shaped(value, shape, where)


@contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python does not look for garbage: it would go through the millions of objects of annotations again and
    again, which makes reading a third slower."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


TOO_DEEP = f"nested more than {MAX_DEPTH} deep; no data that belong here are"


def _whole(digits):
    return int(digits) if len(digits) < DIGITS else float(digits)


def _unique_keys(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice; leave one")
    return value


def _is_deep(value):
    level = [[value]]
    for _ in range(MAX_DEPTH + 1):
        wholes = (whole.values() if type(whole) is dict else whole for whole in level)
        level = [part for whole in wholes for part in whole if type(part) in _NESTED]
        if not level:
            return False
    return True


def shaped(value: Any, shape: type | None, where: str | Path) -> Any:
    """A value that has been read, as it is. Raises ValueError unless it is a `dict` or a `list`, as `shape` says."""
    if shape is None or isinstance(value, shape):
        return value
    expected = "a list" if shape is list else "a mapping (name: value)"
    raise ValueError(f"{where}: expected {expected}, got {short(value)}")
