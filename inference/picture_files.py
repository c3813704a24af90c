"""Pictures to detect in, and the files that the annotated ones are written to."""

import glob
import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from decodetr.annotations.left_over import NO_PICTURE, in_a_line, sort_out
from decodetr.utils.images import IMAGE_SUFFIXES, is_image
from decodetr.utils.paths import files_below

logger = logging.getLogger(__name__)

SIGNATURE = "decodetr predict"  # in the header of its pictures
_NAME_BYTES = 255  # of a file name, which most file systems allow
_CUT_BYTES = 200


def find_images(
    sources: Iterable[str | Path], output: str | Path | None = None, videos: Collection[str] = ()
) -> list[Path]:
    """Image files of files, folders and glob patterns (** too). Each file once, in that order, and those of a folder
    and its sub-folders by path. Hidden folders are left out. Links to one file are as many pictures: git-annex, DVC
    and the Hub's cache keep equal files once.

    Files that are given by name are taken whatever they are called, of the others those with the suffix of a picture
    or video. A warning says which are passed over.

    Args:
        output (*optional*): a folder of results, which is left out below another folder.
        videos: suffixes of videos, in small letters, which are taken too.

    Raises:
        FileNotFoundError: a source that does not exist, or holds nothing of the kind.
    """
    paths, left_over = [], {NO_PICTURE: []}
    for source in map(str, sources):
        path = Path(source)
        if os.path.lexists(path) and not path.is_dir():
            paths.append(path)
            continue
        if path.is_dir():
            entries = [Path(file) for file in files_below(path) if _is_meant(path, file, output)]
        else:
            entries = sorted(file for file in map(Path, glob.glob(source, recursive=True)) if not file.is_dir())
        others = set(sort_out(entry for entry in entries if entry.suffix.lower() not in videos)[1])
        found = [entry for entry in entries if is_image(entry) or entry.suffix.lower() in videos]
        left_over[NO_PICTURE] += [entry for entry in entries if entry in others]
        if not found:
            wanted = "images or videos" if videos else "images"
            kind = f"has no {wanted}" if path.is_dir() else f"is no file, no folder and matches no {wanted}"
            kinds = f"{', '.join(sorted(IMAGE_SUFFIXES))} (images)"
            kinds += f" or {', '.join(sorted(videos))} (videos)" if videos else ""
            rest = f"; passed over: {line}" if (line := in_a_line(left_over)) else ""
            raise FileNotFoundError(f"{source} {kind}; expected files with {kinds}{rest}")
        paths += found
    if line := in_a_line(left_over):
        logger.warning("passed over: %s", line)
    return list({os.path.abspath(path): path for path in paths}.values())


def _is_meant(folder, file, output):
    """Whether a file below a folder is neither hidden, nor in a hidden folder, nor among the results."""
    if any(part.startswith(".") for part in Path(file).relative_to(folder).parts):
        return False
    if output is None:
        return True
    results, top = os.path.realpath(output), os.path.realpath(folder)
    return not results.startswith(top + os.sep) or not os.path.realpath(file).startswith(results + os.sep)


def fitting(stem: str, end: str = "") -> str:
    """The name of a file or folder, `stem` and then `end`. Where file systems do not allow one so long, `stem` is cut,
    and a digest of it keeps such names apart."""
    return f"{_cut(stem, end)}{end}"


def _cut(stem, end):
    content = os.fsencode(stem)
    if len(content) + len(os.fsencode(end)) <= _NAME_BYTES:
        return stem
    return f"{content[:_CUT_BYTES].decode(errors='ignore')}-{hashlib.sha256(content).hexdigest()[:8]}"


def picture_paths(
    images: Sequence[Path], output: str | Path, taken: Iterable[str | Path] = (), suffix: str = ".png"
) -> list[Path]:
    """A different output file for every image, also for equal names from different folders. Never an image, a file of
    `taken`, or one that is there and is not a picture of this command.

    Compared without case, because some file systems do.
    """
    taken = {os.path.realpath(path).lower() for path in (*images, *taken)}
    result, tried = [], {}
    for image in images:
        stems = [image.stem, f"{Path(os.path.abspath(image)).parent.name}_{image.stem}"]
        number = tried.get(stems[1], 1)  # of that folder and name: a thousand such would be tried a thousand times
        while True:
            stem = stems[number - 1] if number <= 2 else f"{stems[1]}_{number - 1}"
            path = Path(output) / fitting(stem, suffix)
            free = not os.path.lexists(path) or _is_ours(path)
            if (key := os.path.realpath(path).lower()) not in taken and free:
                break
            number += 1
        tried[stems[1]] = number
        taken.add(key)
        result.append(path)
    return result


def unique_names(files: Iterable[str | Path]) -> Iterator[str]:
    """A name for every file, its own where no earlier one has its stem, in any case."""
    taken, tried = set(), {}
    for file in map(Path, files):
        stem, number = file.stem, tried.get(file.stem.lower(), 1)
        while (name := _cut(stem if number == 1 else f"{stem}_{number}", file.suffix)).lower() in taken:
            number += 1
        tried[stem.lower()] = number + 1
        taken.add(name.lower())
        yield f"{name}{file.suffix}"


def _is_ours(path):
    """Whether a file is a picture that this command wrote."""
    try:
        with open(path, "rb") as file:
            return SIGNATURE.encode() in file.read(1024)
    except OSError:
        return False
