"""Checks before the work: each in a moment, their problems together, nothing read in full."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TypeVar

    Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Problems:
    """Problems of several checks, told together."""

    def __init__(self) -> None:
        self.errors = {}  # by their text, so that each is told once

    def call(self, check: Callable[..., Result], *args: Any) -> Result | None:
        """Return what a check returns. None where it raises ImportError, OSError or ValueError, which is kept."""
        try:
            return check(*args)
        except (ImportError, OSError, ValueError) as error:
            self.errors.setdefault(str(error), error)
            return None

    def tell(self) -> None:
        """Raise what was found: one problem as it is, several as one ValueError that lists them."""
        errors = list(self.errors.values())
        if len(errors) == 1 and not isinstance(errors[0], ImportError):
            raise errors[0]
        if len(errors) == 1:
            raise ValueError(str(errors[0])) from errors[0]
        if errors:
            lines = [f"- {text}" for text in self.errors]
            raise ValueError("\n".join([f"{len(lines)} problems, found before any work was done:", *lines]))


def run_checks(*checks: Callable[[], Any]) -> list[Any]:
    """Call all of the checks, and raise what they found together.

    Args:
        checks: functions without arguments that raise ImportError, OSError or ValueError.

    Returns:
        list: what each returned.

    Raises:
        ValueError, OSError: see [`Problems.tell`].
    """
    findings = Problems()
    results = [findings.call(check) for check in checks]
    findings.tell()
    return results


def require_package(module: str, what: str, install: str) -> None:
    """Raise ValueError, with the pip line, unless a module can be imported.

    Args:
        module (`str`): as in `import`. what (`str`): the option that needs it. install (`str`): words for pip.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{what} needs {module}, which is not installed: pip install {install}")


def require_packages(modules: Sequence[str], what: str) -> None:
    """The same of several modules that are called as pip calls them. All that are missing are named."""
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        verb = "is" if len(missing) == 1 else "are"
        raise ValueError(
            f"{what} needs {', '.join(missing)}, which {verb} not installed: pip install {' '.join(missing)}"
        )


def require_room(folder: str | Path, needed: int, what: str, remedy: str) -> None:
    """Raise ValueError where the disk of a folder has certainly too little room.

    Args:
        folder (`str` or `Path`): need not exist yet. needed (`int`): bytes that will be written at least.
        what (`str`): will be written. remedy (`str`): what to do, with the option.
    """
    folder, free = Path(folder).absolute(), free_bytes(folder)
    if needed > free:
        raise ValueError(
            f"{folder}: {what} take at least {in_units(needed)}, and {in_units(free)} are free there; {remedy}"
        )


def free_bytes(folder: str | Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def written(folder: str | Path) -> int:
    """Bytes that earlier runs have written into a folder, which a new one replaces or goes on with. Files that another
    process moves meanwhile may be left out."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def in_units(count: float) -> str:
    """A number of bytes for people: "1.5 GB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} EB"


def process_rank() -> int:
    """Rank of this process, by what `accelerate launch` and `torchrun` put into the environment. 0 without them."""
    return int(os.environ.get("RANK", 0))
