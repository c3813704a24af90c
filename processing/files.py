"""A file is there whole, or as it was before."""

import os
from pathlib import Path


def write_whole(file, text):
    """Write a UTF-8 text file beside its place, then give it its name. Returns the `Path`."""
    file = Path(file)
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
    return file
