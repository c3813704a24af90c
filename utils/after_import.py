"""Do something as soon as a module of somebody else has been imported, without importing it."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def after_import(module: str, call: Callable[[], object]) -> None:
    """Call a function once a module is there: at once if it is imported already, else right after its import.

    Args:
        module (`str`): its full name. call (function): of no arguments. What it raises ends the import.
    """
    if module in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _Watcher(module, call))


class _Watcher:
    """A finder of one module, which leaves finding it to Python and adds a call to its loading."""

    def __init__(self, module: str, call: Callable[[], object]) -> None:
        self._module, self._call = module, call

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run, call = spec.loader.exec_module, self._call

            def exec_module(module: ModuleType) -> None:
                run(module)
                call()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
