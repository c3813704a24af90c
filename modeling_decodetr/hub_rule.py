"""Who may ask the Hub: a name that the user typed, never one that stands in a file.

It imports nothing of ours: `utils` loads it by its path, without the model.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

HUB_CARDS = Path(__file__).resolve().parent.parent / "hub_cards"  # models and tables that travel with the package


@contextmanager
def local_only(source: str | Path, asked_by: str | None = None) -> Iterator[None]:
    """Inside, nothing is asked of the Hub, unless `source` is a name of the Hub that the user gave.

    The configs of a folder can name backbones and tokenizers of the Hub, and tables can name their text model. What is
    in the Hub's cache on this machine is used. Nothing is sent.

    Args:
        source (`str` or `Path`): what is loaded inside.
        asked_by (`str`, *optional*): the file or table that names `source`, if the user did not, and what to do, for
            the message.

    Raises:
        ValueError: something would have to be asked of the Hub, or a file names a folder by a relative path, which may
            have come with the file. The message says what, and who wants it.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if asked_by is not None and Path(source).exists() and not Path(source).is_absolute():
        raise ValueError(
            f"{source} lies in the current folder, but a file can only name a text model by its whole path, its Hub "
            f"name or a shipped name; {asked_by}"
        )
    if asked_by is None and not Path(source).is_dir():
        yield
        return
    with _offline():
        try:
            yield
        except Exception as error:
            if not any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in _causes(error)):
                raise
            if asked_by is not None:
                raise ValueError(f"{source} is not on this machine; {asked_by}") from error
            raise ValueError(
                f"{source}: its config wants something of the Hub that is not on this machine, and a folder does not "
                f"decide what is fetched: {error}"
            ) from error


@contextmanager
def _offline():
    """Offline mode of the Hub's library for this thread alone: another one may send a checkpoint, or fetch what the
    user named."""
    from huggingface_hub import constants

    # It lies with the library, because this file is loaded by the model and by `utils`.
    inside = vars(constants).setdefault("_decodetr_offline", SimpleNamespace(threads=Counter(), lock=threading.Lock()))
    thread = threading.get_ident()
    with inside.lock:
        if not inside.threads:
            inside.before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, _Switch(inside)  # type: ignore
        inside.threads[thread] += 1
    try:
        yield
    finally:
        with inside.lock:
            inside.threads[thread] -= 1
            inside.threads += Counter()  # without those at zero
            if not inside.threads:
                constants.HF_HUB_OFFLINE = inside.before


class _Switch:
    """What the Hub's library asks for: true for threads that are inside, for others what it was."""

    def __init__(self, inside):
        self._inside = inside

    def __bool__(self):
        return threading.get_ident() in self._inside.threads or bool(self._inside.before)


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def recorded_place(name: str | Path) -> str:
    """How a folder, Hub or shipped name is written into a file that will be read elsewhere: folders by their whole
    path, names as they are."""
    return os.path.abspath(name) if os.path.isdir(name) or os.path.isfile(name) else str(name)


def packaged(name: str | Path, cards: Path | None = None) -> str:
    """Where to load a model or table from: an existing folder as it is; else of NAME, or of a path that ends in
    hub_cards/NAME, the folder of that name in the package (in `cards`), if there is one; else what was given, a Hub
    name."""
    path, cards = Path(name), cards or HUB_CARDS
    shipped = cards / path.name
    named = str(name) == path.name or path.parent.name == cards.name
    return str(shipped) if path.name and named and not path.is_dir() and shipped.is_dir() else str(name)
