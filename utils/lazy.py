"""Packages whose public names are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping

TYPE_CHECKING = False  # as that of typing, which takes its time to import
if TYPE_CHECKING:
    from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str], plain: Iterable[str] = (), before: Callable[[], object] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package (`str`): `__name__` of the package.
        homes (`dict`): public name -> module that has it.
        plain: public names that the package has itself, for messages and `dir`.
        before (function, *optional*): called before a name is imported.

    Returns:
        (function, function).
    """
    public = sorted([*plain, *homes])

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; its public names are {public}")
        if before is not None:
            before()
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *public})

    return find, names
