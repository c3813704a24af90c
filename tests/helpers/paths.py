"""Where things are in the checkout, and what its Python files say."""

import ast
import os
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
BENCHMARKS = ROOT / "benchmarks"
_ELSEWHERE = {"tests", "build"}


@cache
def sources() -> dict[str, ast.Module]:
    """{path from the root: tree} of the Python files of package, benchmarks and docs, sorted. Virtual environments and
    other hidden folders, of which some have ten thousands, are not looked into. The trees are read, never changed."""
    found = {}
    for folder, folders, files in os.walk(ROOT):
        top = Path(folder) == ROOT
        folders[:] = [name for name in folders if not name.startswith(".") and not (top and name in _ELSEWHERE)]
        for name in files:
            if name.endswith(".py") and not name.startswith("."):
                file = Path(folder, name)
                found[file.relative_to(ROOT).as_posix()] = ast.parse(file.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))
