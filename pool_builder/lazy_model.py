"""A model that is loaded only if a stage has something to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """A model that a stage needs only if it has something to do.

    Args:
        identity (dict): what the stage's manifest says of it. load: makes it.
        devices (int, optional): accelerators that it takes where there are some. 0 of a grid or a server, None: all
            of a machine.
    """

    identity: dict[str, Any]
    load: Callable[[], Any]
    devices: int | None = 1
