"""What may be a stranger's is loaded through `load_safely` alone: the library would ask on the terminal whether to run
code of the folder, and read pickles."""

import ast

from helpers.paths import sources

# Classes of ours: none of them takes code or pickles. `cls` and others are what a class method of ours is called on.
OURS = {"DeCoDetrConfig", "DeCoDetrForObjectDetection", "DeCoDetrImageProcessor", "PrototypePool", "Vocabulary"}
OURS |= {"ClipDetector", "DetectorProposer", "config_class", "_model_class", "super", "table"}
THE_DOOR = "modeling_decodetr/safe_loading.py"


def _name(node):
    """The last name of `a.b`, of `a.b()`, or of a name."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", ast.unparse(node))


def _loads(tree):
    """(line, what is loaded) of the calls by which transformers loads a model, a config or a processor."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            yield node.lineno, _name(node.func.value)
        elif _name(node.func) == "pipeline":
            yield node.lineno, "pipeline"


def test_what_transformers_loads_goes_through_one_door():
    found = {
        f"{file}, line {line}: {what}"
        for file, tree in sources().items()
        if not file.startswith(("benchmarks/", "docs/")) and file != THE_DOOR
        for line, what in _loads(tree)
        if what not in OURS
    }
    assert not found, f"load_safely(kind, source) loads it without a stranger's code and without pickles: {found}"


def test_the_check_sees_what_it_is_for():
    code = "AutoConfig.from_pretrained(a)\n(X if b else Y).from_pretrained(a)\ntransformers.pipeline('x')\n"
    assert [line for line, what in _loads(ast.parse(code)) if what not in OURS] == [1, 2, 3]
