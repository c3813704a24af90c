"""Files of modeling_decodetr/ that the ground floor needs too.

They lie there because they travel to the Hub with the model. They are loaded without the model: that
imports torch, and who only asks a command for its help need not wait for it.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def load(name: str) -> ModuleType:
    """The module of `modeling_decodetr/NAME.py`, a file that imports nothing of ours."""
    file = Path(__file__).resolve().parent.parent / "modeling_decodetr" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"decodetr.utils.{name}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
