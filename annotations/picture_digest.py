"""Whether pictures are still what they were, without reading all of them.

Times of change say nothing: copies have others, and are the same pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.utils.files import regular_file

if TYPE_CHECKING:
    from typing import Any

READ = 256  # pictures that are read
_MOST = 1 << 20  # bytes of each


def picture_digest(pictures: Sequence[Any], source: Callable[[Any], str | Path | bytes]) -> str:
    """12 hexadecimal digits of a SHA-256 over the sizes in bytes of all files, and the first megabyte of 256 evenly
    drawn pictures, of all where there are fewer. The same wherever they lie.

    Args:
        pictures: paths, or what `source` makes a path or bytes of: then their sizes are not asked for.
        source: what can be read of one of them. Where it raises, as where a file is missing, that is what counts.
    """
    total, count = hashlib.sha256(f"{len(pictures)}".encode()), len(pictures)
    for picture in pictures:
        if isinstance(picture, str | os.PathLike):
            total.update(f" {_size(picture)}".encode())
    for place in sorted({number * count // READ for number in range(READ)} if count > READ else range(count)):
        total.update(hashlib.sha256(_content(pictures[place], source)).digest())
    return total.hexdigest()[:12]


def _size(path):
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None


def _content(picture, source):
    try:
        found = source(picture)
        if isinstance(found, bytes):
            return found[:_MOST]
        with regular_file(found).open("rb") as file:
            return file.read(_MOST)
    except (OSError, ValueError):
        return b"cannot be read"
