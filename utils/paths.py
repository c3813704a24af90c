"""Paths that somebody else's files name, and what lies below a folder."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from decodetr.utils.files import replacing
from decodetr.utils.limits import OUTSIDE_VARIABLE


def inside(folders: Sequence[str | Path], path: str | Path, where: object) -> str:
    """Return a path that somebody else's file names, if it leads into one of the folders that the user gave.

    What decides is how the path is written: absolute, or with `..`. Links inside of a folder are followed, as who put
    them there could have put the files there.

    Args:
        folders (list of `str` or `Path`): a relative `path` begins in the first of them.
        path (`str` or `Path`). where (`str`): the file and row that name it, for the message.

    Returns:
        `str`, without `..`.

    Raises:
        ValueError: it leads elsewhere, and [`allow_outside`] says no.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError(f"{where}: expected a path, got {text!r}")
    if not (os.path.isabs(text) or os.path.splitdrive(text)[0] or ".." in text):
        return os.path.join(folders[0], text)
    joined = os.path.normpath(os.path.join(folders[0], text))
    if allow_outside() or any(_below(joined, folder) for folder in folders):
        return joined
    raise ValueError(
        f"{where}: {text} leads out of {folders[0]}; if you trust this file, give --allow-outside or set the "
        f"environment variable {OUTSIDE_VARIABLE}=1"
    )


def _below(path, folder):
    for real in (os.path.abspath, os.path.realpath):
        place, root = real(path), real(folder)
        try:
            if os.path.commonpath([place, root]) == root:
                return True
        except ValueError:  # on other drives
            continue
    return False


def allow_outside() -> bool:
    """Whether files of data sets may name pictures anywhere: the environment variable DECODETR_ALLOW_OUTSIDE is 1."""
    return os.environ.get(OUTSIDE_VARIABLE, "").strip() == "1"


def link_pictures(folder: str | Path, part: str, images: str | Path) -> str:
    """Make FOLDER/PART a link to a folder of pictures, so that no annotation in FOLDER names a path out of it.

    Args:
        folder (`str` or `Path`), part (`str`), images (`str` or `Path`): the folder of the pictures.

    Returns:
        What `info.image_folder` of the annotations has to be: `part`, or where no link could be made (something else
        is there, or the system does not let everyone), the whole path, which is read with --allow-outside alone. A
        message says so.
    """
    place, images = os.path.join(folder, part), os.path.abspath(images)
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.islink(place):
            os.unlink(place)
        os.symlink(images, place, target_is_directory=True)
    except (OSError, NotImplementedError):
        sys.stderr.write(f"no link to {images} could be made: read the annotations of {part} with --allow-outside\n")
        return images
    return part


def link_files(folder: str | Path, files: Mapping[str, str | Path]) -> None:
    """Make links in a folder to files elsewhere, or copies where links cannot be made. What is there under these
    names is replaced.

    Args:
        folder (`str` or `Path`): made if missing. files (`dict`): name in the folder -> file.
    """
    os.makedirs(folder, exist_ok=True)
    for name, file in files.items():
        place = os.path.join(folder, name)
        if os.path.lexists(place):
            os.unlink(place)
        try:
            os.symlink(os.path.realpath(file), place)
        except (OSError, NotImplementedError):
            with replacing(place) as partial:
                shutil.copyfile(file, partial)


def file_names(folder: str | Path) -> set[str]:
    """Return the set of names in a folder that are no folders. Empty if there is no such folder."""
    if "\0" in os.fspath(folder) or not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not _is_folder(entry)}


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files_below(folder: str | Path, strict: bool = True) -> list[str]:
    """Return everything below a folder that is no folder, as texts, sorted by path: links are followed, no folder is
    entered twice.

    Args:
        folder (`str` or `Path`). strict (`bool`): a folder that cannot be listed is an OSError, else passed over.
    """

    def fail(error):
        if strict:
            raise error

    entered, found = set(), []
    for place, folders, files in os.walk(os.fspath(folder), followlinks=True, onerror=fail):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        found += [os.path.join(place, name) for name in files]
    return sorted(found, key=lambda path: path.split(os.sep))


def visible_below(folder: str | Path, strict: bool = True) -> list[Path]:
    """The same as `Path`s, without hidden files and what is in hidden folders, such as .ipynb_checkpoints."""
    files = map(Path, files_below(folder, strict))
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
