"""Results are written whole or not at all, and never by two runs at once. What is read is a regular file."""

import json
import logging
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from decodetr.utils.model_room import load

__all__ = [
    "claim",
    "clear",
    "committed",
    "file_state",
    "finite",
    "folder_state",
    "is_unused",
    "json_text",
    "max_bytes",
    "output_folder",
    "reading",
    "regular_file",
    "remembering_folder",
    "replacing",
    "write_json",
    "write_text",
]

logger = logging.getLogger(__name__)

_commit = load("file_commit")
STAGING, committed, reading = _commit.STAGING, _commit.committed, _commit.reading
named_when_full = _commit.named_when_full

LOCK = ".decodetr.lock"
_held = set()  # (folder, name of the lock, thread of this process that holds it)
MAX_BYTES = 4 << 30  # of one file that is read into memory. LVIS' training annotations are 1.1 GB
_OF_MODELS = (".json", ".safetensors", ".bin")
_MAX_BYTES_VARIABLE = "DECODETR_MAX_FILE_BYTES"


@contextmanager
def replacing(file: str | Path) -> Iterator[Path]:
    """Yield a path to write to. At the end its content becomes `file`, whole, and the old one is gone.

    Args:
        file (`str` or `Path`): its folder is made if missing.
    """
    file = Path(file)
    with committed(file.parent) as staging:
        yield staging / file.name


def write_text(file: str | Path, text: str) -> Path:
    """Write a UTF-8 text file, whole or not at all. Returns its `Path`.

    Names of files that are no UTF-8, which Python reads with surrogates, become \\udcXX, which JSON reads back.

    Raises:
        OSError: the disk is full. The old file is there.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    with replacing(file) as partial:
        partial.write_bytes(content)
    return Path(file)


def json_text(value: object, indent: int | None = 1) -> str:
    """A JSON document as it stands in our files: readable names, null for NaN and infinity, a line break at its
    end."""
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        return encoder.encode(value) + "\n"
    except ValueError:
        return encoder.encode(finite(value)) + "\n"


def finite(value: Any) -> Any:
    """The same with None for what is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: str | Path, value: object, indent: int | None = 1) -> Path:
    """Write a JSON file, whole or not at all. Returns its `Path`. Raises as [`write_text`]."""
    return write_text(file, json_text(value, indent))


def file_state(file: str | Path) -> tuple[str, int, int]:
    """(real path, bytes, time of the last change in nanoseconds) of a file: what it is, without reading it.

    Raises:
        OSError: it is gone.
    """
    state = os.stat(file)
    return os.path.realpath(file), state.st_size, state.st_mtime_ns


def folder_state(folder: str | Path) -> tuple[tuple[str, int, int], ...]:
    """What tells that a folder has another model or processor than before. Empty if there is no such folder."""
    files = sorted(Path(folder).glob("*"))
    return tuple(file_state(file) for file in files if file.suffix in _OF_MODELS and file.is_file())


def is_unused(folder: str | Path) -> bool:
    """Whether a folder is missing, or empty but for the lock of a run and what killed writers left."""
    folder = Path(folder)
    with reading(folder):  # which finishes what a killed one had committed
        return not folder.exists() or all(file.name.startswith((LOCK, STAGING)) for file in folder.iterdir())


@contextmanager
def claim(folder: str | Path | None, what: str, part: str = "", wait: bool = False) -> Iterator[None]:
    """Hold a folder for one run: a second one, of another process or thread, is refused at once. Inside a run that
    holds it, nothing happens.

    Args:
        folder (`str`, `Path` or None): made if missing. A file `.decodetr.lock` marks it meanwhile. Whether it is
            held, the system knows: the file that a killed run leaves holds nobody off. None: nothing is held.
        what (`str`): who holds it, for the message, such as "decodetr train".
        part (`str`): of runs that share a folder on purpose, what this one alone writes, such as its rank.
        wait (`bool`): until nobody else holds it.

    Raises:
        ValueError: another run holds it, or it is a file. OSError: it cannot be made or written.
    """
    from filelock import FileLock, Timeout

    if folder is None:
        yield
        return
    folder = output_folder(folder, what)
    name = f"{LOCK}-{part}" if part else LOCK
    key = (str(folder.resolve()), name, threading.get_ident())
    if key in _held:
        yield
        return
    made = not folder.exists()
    with named_when_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / name, thread_local=False), folder / f"{name}.holder"
    try:
        with named_when_full(folder):
            _acquire(lock, 0)
    except Timeout as error:
        said = f"{folder}: another run ({_holder(holder)}) writes here"
        if not wait:
            raise ValueError(f"{said}; wait for it, stop it, or choose another output") from error
        logger.warning("%s; waiting for it", said)
        _acquire(lock, -1)
    _held.add(key)
    try:
        holder.unlink(missing_ok=True)  # what lies there is not written through: it may be a link
        with named_when_full(folder):
            holder.write_text(f"{what}, process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        _held.discard(key)
        holder.unlink(missing_ok=True)
        with suppress(OSError):  # where an open file cannot be removed, it stays
            os.unlink(lock.lock_file)
        lock.release()
        if made:
            with suppress(OSError):  # not empty: something was written
                folder.rmdir()


def _acquire(lock, seconds):
    """Raises `filelock.Timeout`."""
    lock.acquire(timeout=seconds)
    while not Path(lock.lock_file).exists():  # its last holder removed it between our opening and our locking it
        lock.release()
        lock.acquire(timeout=seconds)


def _holder(file):
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return "unknown"


def output_folder(folder: str | Path, option: str) -> Path:
    """Return the path if results can be written into that folder, which need not exist yet.

    Args:
        folder (`str` or `Path`). option (`str`): what names it, for messages, such as "--output".

    Raises:
        ValueError: it, or a folder above it, is a file. PermissionError: nothing can be written there.
    """
    folder = Path(folder)
    there = _nearest(folder)
    if not there.is_dir():
        raise ValueError(f"{option} {folder}: expected a folder, got a file ({there}); choose another output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {folder}: nothing can be written into {there}; choose another output")
    return folder


def remembering_folder(folder: str | Path, remedy: str) -> Path:
    """Return the path if what is remembered can be read there, or written for the first time.

    Args:
        folder (`str` or `Path`). remedy (`str`): what to do, for the message.

    Raises:
        PermissionError: it, or a folder above it, may not be entered or written, or is a file.
    """
    folder = Path(folder)
    there = _nearest(folder)
    if not os.access(there, os.X_OK | (os.R_OK if there == folder else os.W_OK)) or not there.is_dir():
        raise PermissionError(
            f"{folder}: nothing can be kept there, as {there} may not be entered or written; {remedy}"
        )
    return folder


def _nearest(folder):
    """The path, or the nearest one above it that is there, as far as this process may look."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def clear(folder: str | Path) -> None:
    """Remove what is in a folder, but for the lock of the run that holds it."""
    for path in Path(folder).iterdir():
        if path.name.startswith(LOCK):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def max_bytes() -> int:
    """Size up to which files are read: the environment variable DECODETR_MAX_FILE_BYTES, else 4 GiB."""
    return limit(_MAX_BYTES_VARIABLE, MAX_BYTES)


def limit(variable: str, default: int) -> int:
    """A positive whole number of an environment variable, which loader workers inherit, or the default.

    Raises:
        ValueError: the variable is set to something else.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not text.isdecimal() or not int(text):
        raise ValueError(f"the environment variable {variable} must be a positive whole number, got {text!r}")
    return int(text)


def regular_file(path: str | Path, most: int | None = None) -> Path:
    """Return the path if an ordinary file is there that may be read into memory.

    Devices, pipes and sockets never end or never begin, so nothing is read from them.

    Args:
        path (`str` or `Path`).
        most (`int`, *optional*): bytes. Default [`max_bytes`].

    Raises:
        FileNotFoundError: nothing is there. ValueError: a folder, a device, a pipe, or more bytes than the limit.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a NUL byte
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise ValueError(f"{path}: expected a regular file, got {kind}")
    remedy = "is it the right file?"
    if most is None:
        most = max_bytes()
        remedy = f"if you trust the file, set the environment variable {_MAX_BYTES_VARIABLE}"
    if found.st_size > most:
        raise ValueError(f"{path}: {found.st_size:,} bytes, more than the {most:,} that are read at most; {remedy}")
    return path
