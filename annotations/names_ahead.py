"""Names of a COCO file's categories without reading its images and annotations, which are nearly all of it."""

import json
import mmap
import re
from pathlib import Path

from decodetr.utils.files import regular_file

_CATEGORIES = re.compile(rb'"categories"\s*:\s*\[')
_MOST = 64 << 20  # bytes of the list


def names_ahead(file: str | Path) -> list[str] | None:
    """The names in a file's one list of categories. None where that cannot be told without reading the file.

    Args:
        file (`str` or `Path`): a COCO annotation file.

    Returns:
        list[str] or None.
    """
    file = regular_file(file)
    if not file.stat().st_size:
        return None
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        places = [match.end() - 1 for match in _CATEGORIES.finditer(content)]
        if len(places) != 1:
            return None
        text = content[places[0] : places[0] + _MOST].decode("utf-8", errors="replace")
    try:
        rows, _ = json.JSONDecoder().raw_decode(text)
        names = [row["name"] for row in rows]
    except (KeyError, RecursionError, TypeError, ValueError):  # the reader says what is wrong
        return None
    return names if all(isinstance(name, str) for name in names) else None
