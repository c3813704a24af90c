"""Who may ask the Hub: a name that the user typed, never one that stands in a file."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ONE_AT_A_TIME = threading.RLock()  # the library's switch is one for all threads


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
        ValueError: something would have to be asked of the Hub. The message says what, and who wants it.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if asked_by is None and not Path(source).is_dir():
        yield
        return
    with _ONE_AT_A_TIME:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
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
        finally:
            constants.HF_HUB_OFFLINE = before


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def recorded_place(name: str | Path) -> str:
    """How a folder, Hub or shipped name is written into a file that will be read elsewhere: folders by their whole
    path, names as they are."""
    return os.path.abspath(name) if os.path.isdir(name) or os.path.isfile(name) else str(name)
