"""Files that follow from others: made once, and found again by whoever needs them next.

They lie where `datasets` keeps what it makes, HF_DATASETS_CACHE or else HF_HOME/datasets, in decodetr/KIND: data are
read-only in many places. A folder is named after what it was made of and what that was like, so that changed data have
another. The old one stays, as those of `datasets` do: a run may still read it.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, json_text, output_folder, reading, write_json
from decodetr.utils.preflight import free_bytes, in_units

if TYPE_CHECKING:
    from typing import Any

_CACHE = "the cache of data sets (HF_DATASETS_CACHE or HF_HOME)"
_WHOLE = "complete.json"  # the sizes of the other files: a folder without it, or with other sizes, is made again
_SPARE = 1 << 28  # bytes that are left to others
_MUCH = 10**8  # bytes: who writes so many says it unasked
_passing = {}  # folders of this process alone, and the locks that say so

logger = logging.getLogger(__name__)


class NotKept(OSError):
    """There is no room for what would be made, or no right to write it."""


def cache_folder() -> Path:
    """The folder of all such files. Need not exist."""
    from huggingface_hub import constants

    home = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    return Path(home).expanduser() / "decodetr"


def made_once(
    kind: str, source: str | Path, identity: Any, needed: Callable[[], int], make: Callable[[Path], None]
) -> Path:
    """
    The folder of what follows from a source. Made now, unless a process has made it before or is making it.

    Args:
        kind (str): a name of files of one form, such as "regions-2": another form is another kind.
        source: where the data are. It is named in messages.
        identity: anything that JSON can hold: the same data have the same, changed data have another.
        needed: gives the bytes that will be written, at most.
        make: writes the files into the folder that it is given. What it raises is raised here, and nothing is left.

    Raises:
        NotKept: there is no room, or the folder cannot be written. The message says what to do.
    """
    place = os.path.realpath(source)
    above = cache_folder() / kind
    folder = above / f"{_digest(place)}-{_digest(json_text(identity))}"
    if _is_whole(folder):
        return folder
    from filelock import FileLock

    _make_folder(above)
    with FileLock(f"{folder}.lock"):  # the others wait, and find it
        if _is_whole(folder):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        most = needed()
        _check_room(above, place, source, most)
        logger.log(
            logging.WARNING if most >= _MUCH else logging.INFO,
            "%s: up to %s are written to %s, once; runs after this one find it there",
            source, in_units(most), folder,
        )  # fmt: skip
        try:
            with committed(folder) as staging:
                make(staging)
                sizes = {file.name: file.stat().st_size for file in sorted(staging.iterdir())}
                write_json(staging / _WHOLE, sizes)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        logger.info("%s: wrote %s to %s", source, in_units(sum(sizes.values())), folder)
    return folder


def passing_folder(kind: str, source: str | Path, needed: int) -> Path:
    """
    A new folder for `kind` in the same place, of what a run alone can use. [`remove_with`] says when it goes; what
    killed runs left there goes now.

    Args:
        kind (str). source: where the data are from, for messages. needed (int): bytes that will be written, at most.

    Raises:
        NotKept: there is no room, or the folder cannot be written. The message says what to do.
    """
    from filelock import FileLock, Timeout

    above = cache_folder() / kind
    _make_folder(above)
    for file in above.glob("*.lock"):
        try:
            with FileLock(file, timeout=0):  # its run has ended
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
            file.unlink(missing_ok=True)
        except Timeout:
            continue
    check_room(above, f"what a run makes of {source}", needed)
    folder = above / secrets.token_hex(8)
    lock = FileLock(f"{folder}.lock", thread_local=False)
    lock.acquire()
    _passing[folder] = lock
    folder.mkdir()
    return folder


def remove_with(owner: object, folder: Path) -> None:
    """Remove a [`passing_folder`] when nothing holds `owner` any more, or when the process ends."""
    weakref.finalize(owner, _remove, folder, os.getpid())


def _remove(folder, process):
    if process == os.getpid():  # and none that was forked from it, as loaders are
        shutil.rmtree(folder, ignore_errors=True)
        lock = _passing.pop(folder)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _make_folder(folder):
    try:
        output_folder(folder, _CACHE).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise NotKept(f"{error}; set HF_DATASETS_CACHE to a folder that can be written") from error


def check_room(folder: str | Path, what: str, needed: int, more: str = "") -> None:
    """NotKept unless the disk of a folder, which need not exist, has `needed` bytes for `what`.

    Args:
        more (str): another way out, for the message.
    """
    free = free_bytes(folder)
    if needed + _SPARE > free:
        raise NotKept(
            errno.ENOSPC,
            f"{what} needs {in_units(needed)}, and {in_units(free)} are free; make room{more}, or set "
            "HF_DATASETS_CACHE to a folder of a larger disk",
            str(folder),
        )


def _check_room(above, place, source, needed):
    older = [folder for folder in above.glob(f"{_digest(place)}-*") if folder.is_dir()]
    held = sum(file.stat().st_size for folder in older for file in folder.iterdir())
    more = f" (what was made of older data of the same place holds {in_units(held)}: {older[0]})" if held else ""
    check_room(above, f"what is made once of {source}", needed, more)


def _is_whole(folder):
    with reading(folder):
        try:
            sizes = read_json(folder / _WHOLE, dict)
        except (FileNotFoundError, ValueError):
            return False
        return all(
            (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
        )


def _digest(text):
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]
