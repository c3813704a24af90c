"""The rooms stand on floors (docs/architecture.md): a module imports from its own floor or from lower ones, and never
in a circle. All imports count: relative ones, those inside functions, and those for types alone; only a circle may
have one of these, as a callback has a trainer, and a trainer callbacks."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from helpers.paths import ROOT, sources

# Files that `save_pretrained` copies beside the weights, where only files of the same folder are: the ground.
HUB = re.compile(r"modeling_decodetr\b|processing\.(image_processing_|picture_modes$|float_resizing$)")
LIMIT = 60  # imports of ours inside functions; cli/ is not counted, because its --help has to be instant
ELSEWHERE = ("benchmarks", "docs")


class Import(NamedTuple):
    by: str
    line: int
    of: str
    inside: bool  # a function
    sibling: bool  # from .x import y
    types: bool  # under `if TYPE_CHECKING`

    def __str__(self):
        return f"{self.by}, line {self.line}: {self.of}"


@cache
def floors():
    """{room: its height}, from the table of docs/architecture.md, which begins with the lowest."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^## Floors\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)[1]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    found = {room.removesuffix(".py"): i for i, row in enumerate(rows) for room in re.findall(r"`([\w.]+)`", row)}
    return found | {"__main__": found["cli"]}


def room(module):
    """That of a module: the innermost that has a floor."""
    inner = ".".join(module.split(".")[:2])
    return inner if inner in floors() else module.partition(".")[0]


def height(module):
    return -1 if HUB.match(module) else floors()[room(module)]


def within(one):
    """Whether an import is for types alone, of one room: the Trainer is a type to all folders of training/."""
    return one.types and one.by.partition(".")[0] == one.of.partition(".")[0]


@cache
def modules():
    """{name without `decodetr.`: (whether it is a package, its tree)}; the root is the empty name."""
    found = {}
    for path, tree in ((Path(file), tree) for file, tree in sources().items()):
        if path.parts[0] not in ELSEWHERE:
            is_package = path.name == "__init__.py"
            name = ".".join((path.parent if is_package else path.with_suffix("")).parts)
            found[name] = is_package, tree
    return found


def _source(module, statement):
    """The module that a `from ... import` names; None where it is not ours."""
    if not statement.level:
        first, _, rest = statement.module.partition(".")
        return rest if first == "decodetr" else None
    above = module.split(".")[: len(module.split(".")) - statement.level + modules()[module][0]]
    return ".".join([*above, *([statement.module] if statement.module else [])])


def _home(module, name):
    """Where a name of a module is made: a package passes on names of its modules, by imports or by a table of text."""
    below = f"{module}.{name}".removeprefix(".")
    if below in modules():
        return below
    is_package, tree = modules()[module]
    for node in ast.walk(tree) if is_package else ():
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            if _source(module, node) is not None:
                return _home(_source(module, node), name)
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values):
                if isinstance(key, ast.Constant) and key.value == name and isinstance(value, ast.Constant):
                    beside = f"{module}.{value.value}"
                    return _home(beside if beside in modules() else value.value.removeprefix("decodetr."), name)
    return module


@cache
def imports():
    """Every import of one of our modules by another. Those of the root are left out: it is lazy, and all rooms may
    use its names, which count as imports of the modules that make them."""
    found = []

    def visit(module, node, inside, types):
        for child in ast.iter_child_nodes(node):
            homes, level = [], 0
            if isinstance(child, ast.Import):
                homes = [a.name.removeprefix("decodetr.") for a in child.names if a.name.startswith("decodetr.")]
            elif isinstance(child, ast.ImportFrom) and _source(module, child) is not None:
                homes, level = [_home(_source(module, child), alias.name) for alias in child.names], child.level
            found.extend(
                Import(module, child.lineno, home, inside, level == 1, types) for home in dict.fromkeys(homes)
            )
            called = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checked = isinstance(child, ast.If) and getattr(child.test, "id", None) == "TYPE_CHECKING"
            visit(module, child, inside or called, types or checked)

    for module, (_, tree) in modules().items():
        visit(module, tree, False, False)
    return [one for one in found if one.by and one.of and one.by != one.of]


def circles():
    """Groups of modules of which each leads to all others, by Tarjan's algorithm."""
    leads = {
        module: sorted({one.of for one in imports() if one.by == module and not one.types}) for module in modules()
    }
    order, low, stack, found = {}, {}, [], []

    def visit(module):
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in leads[module]:
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            place = stack.index(module)
            found.append(stack[place:])
            del stack[place:]

    for module in leads:
        if module not in order:
            visit(module)
    return [group for group in found if len(group) > 1]


def test_every_room_has_a_floor():
    packages = {module for module, (is_package, _) in modules().items() if is_package}
    rooms = (packages | {module.partition(".")[0] for module in modules()}) - {""}
    assert rooms == floors().keys() - {"benchmarks"}


def test_no_room_is_imported_by_its_bare_name():
    """It would be the folder of its tests, which is on the path here, or a file of benchmarks/."""
    found = []
    for module, (_, tree) in modules().items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found += [f"{module}, line {node.lineno}: {name}" for name in names if name.partition(".")[0] in floors()]
    assert not found, "\n".join(found)


def test_no_import_goes_up():
    found = [str(one) for one in imports() if height(one.of) > height(one.by) and not within(one)]
    assert not found, "\n".join(found)


def test_files_that_travel_to_the_hub_import_siblings_alone():
    found = [str(one) for one in imports() if HUB.match(one.by) and not one.sibling]
    assert not found, "\n".join(found)


def test_no_import_goes_round():
    assert not circles(), "\n".join(" -> ".join(group) for group in circles())


def test_imports_stand_at_the_top_of_files():
    inside = {(one.by, one.line) for one in imports() if one.inside and one.by.partition(".")[0] != "cli"}
    assert len(inside) <= LIMIT, str(Counter(module for module, _ in inside).most_common())
