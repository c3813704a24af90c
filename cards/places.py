"""How names of models, data sets and folders are written into a card: what is on the Hub by its name there, a folder
of somebody's machine by its last part."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from decodetr.modeling_decodetr.hub_repository import shown_place
from decodetr.utils.shipped import HUB_CARDS, is_hub_name, resolve

_SECRET = re.compile(r"(token|keys?|secrets?|passw\w*)$", re.IGNORECASE)  # --max-new-tokens is none
_HIDDEN = "***"

__all__ = ["hub_dataset", "hub_name", "is_shipped", "last_part", "shown_command", "shown_place"]


def hub_name(name: str | None) -> str | None:
    """A name of the Hub, OWNER/NAME. None for a folder, a shipped name and anything else."""
    return name if name is not None and is_hub_name(name) else None


def hub_dataset(name: str | None) -> str | None:
    """The same of a data set, whose configuration may follow after a colon."""
    return None if name is None else hub_name(name.partition(":")[0])


def last_part(path: str | None) -> str:
    """The last part of a path, without the ending of a JSON file. Empty for None."""
    if not path:
        return ""
    path = str(path).removeprefix("file://").rstrip("/\\")
    parts = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    return parts.name.removesuffix(".json")


def shown_command(words: Iterable[str]) -> str:
    """A command line for a shell, with folders of one machine by their last part, and without secrets: what follows
    an option of a token, a key or a password, and those in addresses."""
    shown, secret = [], False
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("-"):
            secret = bool(_SECRET.search(option))
            value = _HIDDEN if secret else shown_place(value)
            shown.append(f"{option}={value}" if equals else word)
        else:
            shown.append(_HIDDEN if secret else shown_place(word))
    return shlex.join(shown)


def is_shipped(name: str) -> bool:
    """Whether a name, as it stands, is one of those that travel with the package."""
    return Path(resolve(name)).parent == HUB_CARDS and not Path(name).is_dir()
