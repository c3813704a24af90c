"""How names of models, data sets and folders are written into a card: what is on the Hub by its name there, a folder
of somebody's machine by its last part."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from decodetr.utils.shipped import HUB_CARDS, is_hub_name, resolve

_ABSOLUTE = re.compile(r"(?:~?/|[A-Za-z]:[\\/]|\\\\|file://).+", re.DOTALL)


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


def shown_place(value: Any) -> Any:
    """A value of a record with folders of one machine by their last part, also inside of lists and dicts."""
    if isinstance(value, dict):
        return {key: shown_place(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown_place(item) for item in value]
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name
    return value


def shown_command(words: Iterable[str]) -> str:
    """A command line for a shell, with folders of one machine by their last part."""
    shown = []
    for word in words:
        option, equals, value = word.partition("=")
        shown.append(f"{option}={shown_place(value)}" if equals and word.startswith("-") else shown_place(word))
    return shlex.join(shown)


def is_shipped(name: str) -> bool:
    """Whether a name, as it stands, is one of those that travel with the package."""
    return Path(resolve(name)).parent == HUB_CARDS and not Path(name).is_dir()
