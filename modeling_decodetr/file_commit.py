"""Several files of a folder change together, or not at all, whatever happens in between.

The new files are written into a hidden folder next to the old ones. When all of them are on the disk, that folder is
renamed: this is the commit. Then the files move to their places. A process that dies before the commit has changed
nothing. After it, whoever reads or writes the folder next finishes the move, inside the folder alone: a folder of
somebody else's may have a commit that names files elsewhere. Standard library and safetensors alone, because this file
travels to the Hub with the model.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path, PurePath

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows: single files are still replaced whole; two processes at once are not kept apart
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True

STAGING, COMMITTED = ".decodetr-staging-", ".decodetr-commit"
_MANIFEST = ".manifest.json"
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what was written is not on the disk


@contextmanager
def committed(folder: str | Path, remove: Iterable[str] | Callable[[set[str]], Iterable[str]] = ()) -> Iterator[Path]:
    """Yield an empty folder. The files and links that stand in it at the end become those of `folder`, all of them or
    none.

    Args:
        folder (`str` or `Path`): made if missing. Files of other names in it stay. What is written into the folder of
            another commit, or into a folder in it, becomes part of that one.
        remove (iterable of `str`, or function of the set of new names that returns one): names of files or links of
            `folder` that go in the same commit, unless they are written again.

    Raises:
        OSError: the disk is full, the folder cannot be written, or one of the names is a folder or a device there. The
            old files are all there.
    """
    folder = Path(folder).absolute()  # whoever writes may change the working directory
    folder.mkdir(parents=True, exist_ok=True)
    if any(part.startswith(STAGING) for part in folder.parts):
        yield folder  # inside another commit, which these files join. Waiting for its lock would be for ever
        return
    with ExitStack() as kept, named_when_full(folder):
        with _locked(folder):
            _finish(folder)
            _sweep(folder)
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
            kept.callback(shutil.rmtree, staging, ignore_errors=True)
            kept.enter_context(_locked(staging))  # so that nobody sweeps it away
        yield staging
        _commit(folder, staging, remove)


@contextmanager
def named_when_full(folder: str | Path) -> Iterator[None]:
    """Inside, the error of a full disk says what to do. It names the folder if it names no file, as of a write."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
        number = int(found[1]) if found else getattr(error, "errno", None)
        file, said = getattr(error, "filename", None), getattr(error, "strerror", None)
        if number not in _LOST or (file is not None and said != os.strerror(number)):  # it says so already
            raise
        text = f"{os.strerror(number)}: nothing was written; make room, or write to another disk"
        raise OSError(number, text, str(folder) if file is None else file) from error


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """Hold off writers of `folder` while it is read, and first finish what a killed one had committed.

    A folder that does not exist, or on which no lock can be had, is read as it is.

    Raises:
        OSError: a commit is unfinished and this process may not write, or it names files outside of the folder. The
            message says what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        yield
        return
    if unfinished(folder):
        with _locked(folder):
            _finish(folder)
    with _locked(folder, shared=True):
        yield


def unfinished(folder: str | Path) -> bool:
    """Whether a folder holds a commit whose files have not all moved; [`reading`] finishes it."""
    return _is_folder(Path(folder) / COMMITTED)


def _commit(folder, staging, remove):
    links = {str(file.relative_to(staging)) for file in staging.rglob("*") if file.is_symlink()}
    files = sorted(links | {str(file.relative_to(staging)) for file in staging.rglob("*") if file.is_file()})
    if not files:  # another process of a distributed run writes
        return
    for name in files:
        _check_place(folder, name, name in links)
    remove = sorted(set(remove(set(files)) if callable(remove) else remove) - set(files))
    manifest = staging / _MANIFEST
    manifest.write_text(json.dumps({"files": files, "remove": remove}), encoding="utf-8")
    mode = manifest.stat().st_mode & 0o777  # that of a file which open() makes. Some writers make theirs private
    for name in {*files, _MANIFEST} - links:  # what a link leads to is somebody else's
        os.chmod(staging / name, mode)
        _to_disk(staging / name)
    with _locked(folder):
        _finish(folder)  # what somebody else left since we began
        os.rename(staging, folder / COMMITTED)
        _to_disk(folder)
        _move(folder)


def _check_place(folder, name, is_link):
    """OSError where a new file cannot go: a commit that cannot be finished would hold off whoever opens the folder."""
    place = folder / name
    if place.exists() and not place.is_file() and not (is_link and place.is_symlink()):
        raise OSError(f"{place}: expected a file or nothing, got a folder or a device; choose another name")
    for above in list(place.parents)[: len(Path(name).parents) - 1]:
        if above.exists() and not above.is_dir():
            raise OSError(f"{above}: expected a folder or nothing, got a file; choose another name")


def _finish(folder):
    """Move the files of a commit that somebody left. OSError where it could touch anything outside of the folder."""
    ready = folder / COMMITTED
    if not _is_folder(ready):
        return
    for name in chain.from_iterable(_manifest(ready).values()):
        if not all(_is_inside(name, root) for root in (folder, ready)):
            raise OSError(
                f"{folder}: {COMMITTED} names {name!r}, which lies outside of the folder or behind a link, as no save "
                f"of decodetr's does: do not use the folder, or remove {COMMITTED} from it"
            )
    _move(folder)


def _move(folder):
    """Move the files of the commit to their places. May be repeated after a kill at any moment."""
    ready = folder / COMMITTED
    try:
        manifest = _manifest(ready)
        for name in manifest["files"]:
            if os.path.lexists(ready / name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(ready / name, folder / name)
        for name in manifest["remove"]:
            (folder / name).unlink(missing_ok=True)
        (ready / _MANIFEST).unlink(missing_ok=True)  # it goes last: without it everything has moved
        shutil.rmtree(ready)
    except OSError as error:
        raise OSError(
            f"{folder}: an interrupted save is complete in {COMMITTED}, but its files cannot be moved to their places "
            f"({error}); open the folder once with the right to write"
        ) from error


def _manifest(ready):
    """{"files": names, "remove": names} of a commit, without any where everything has moved."""
    file = ready / _MANIFEST
    if not file.is_file() or file.is_symlink():
        return {"files": [], "remove": []}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {key: [str(name) for name in found[key]] for key in ("files", "remove")}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise OSError(
            f"{file}: expected what a save of decodetr's writes: do not use the folder, or remove {COMMITTED} from it"
        ) from error


def _is_folder(path):
    return path.is_dir() and not path.is_symlink()


def _is_inside(name, root):
    """Whether a name leads to a place in a folder, and through no link to another one."""
    path = PurePath(name)
    if path.anchor or ".." in path.parts or not path.parts:
        return False
    return os.path.realpath((root / path).parent) == os.path.join(os.path.realpath(root), *path.parts[:-1])


def _sweep(folder):
    """Remove what killed writers left unfinished: hidden folders that nobody holds a lock on."""
    if not _HAS_LOCKS:
        return
    for staging in folder.glob(f"{STAGING}*"):
        try:
            descriptor = os.open(staging, os.O_RDONLY)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(staging, ignore_errors=True)
        except OSError:  # its writer lives
            pass
        finally:
            os.close(descriptor)


@contextmanager
def _locked(folder, shared=False):
    """Wait for the lock of a folder, which needs no extra file."""
    descriptor = None
    if _HAS_LOCKS:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError:  # some network file systems have no locks
            pass
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # by itself: a process forked meanwhile, as loaders are, has the descriptor too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _to_disk(path):
    """Wait until a file or a folder's listing is on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows has no descriptors of folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:  # nor have some file systems of anything
        if error.errno in _LOST:
            raise
    finally:
        os.close(descriptor)
