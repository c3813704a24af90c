"""Pictures to detect in, and the files that the annotated ones are written to."""

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from decodetr.annotations.left_over import NO_PICTURE, in_a_line, sort_out
from decodetr.utils.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

SIGNATURE = "decodetr predict"  # in the header of its pictures


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Image files of files, folders (not their sub-folders) and glob patterns (** too). Each file once, in that order.

    Files that are given by name are taken whatever they are called, of the others those with the suffix of a picture.
    A warning says which are passed over.

    Raises:
        FileNotFoundError: a source that does not exist, or holds no images.
    """
    paths, left_over = [], {NO_PICTURE: [], "sub-folders, for whose pictures give a pattern such as 'DIR/**/*'": []}
    for source in map(str, sources):
        path = Path(source)
        if os.path.lexists(path) and not path.is_dir():
            paths.append(path)
            continue
        entries = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(source, recursive=True)))
        folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        found, others = sort_out(entry for entry in entries if not entry.is_dir())
        for what, more in zip(left_over, (others, folders if path.is_dir() else [])):
            left_over[what] += more
        if not found:
            kind = "has no images" if path.is_dir() else "is no file, no folder and matches no image"
            rest = f"; passed over: {line}" if (line := in_a_line(left_over)) else ""
            raise FileNotFoundError(f"{source} {kind}; expected files with {', '.join(sorted(IMAGE_SUFFIXES))}{rest}")
        paths += found
    if line := in_a_line(left_over):
        logger.warning("passed over: %s", line)
    return list({os.path.realpath(path): path for path in paths}.values())


def picture_paths(images: Sequence[Path], output: str | Path, taken: Iterable[str | Path] = ()) -> list[Path]:
    """A different output file for every image, also for equal names from different folders. Never an image, a file of
    `taken`, or one that is there and is not a picture of this command.

    Compared without case, because some file systems do.
    """
    taken = {os.path.realpath(path).lower() for path in (*images, *taken)}
    result = []
    for image in images:
        stems = [image.stem, f"{Path(os.path.realpath(image)).parent.name}_{image.stem}"]
        number = 1
        while True:
            stem = stems[number - 1] if number <= 2 else f"{stems[1]}_{number - 1}"
            path = Path(output) / f"{stem}.png"
            free = not os.path.lexists(path) or _is_ours(path)
            if (key := os.path.realpath(path).lower()) not in taken and free:
                break
            number += 1
        taken.add(key)
        result.append(path)
    return result


def _is_ours(path):
    """Whether a file is a picture that this command wrote."""
    try:
        with open(path, "rb") as file:
            return SIGNATURE.encode() in file.read(1024)
    except OSError:
        return False
