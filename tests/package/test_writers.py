"""Whoever writes a result goes through utils/files.py: whole, or not at all."""

import ast

import pytest
from helpers.paths import sources

from decodetr.utils.files import committed, is_unused, replacing, write_json, write_text

MECHANISM = {"committed", "replacing"}
METHODS = {"write_text", "write_bytes", "savefig", "save", "save_pretrained", "save_model", "rename", "touch"}
FUNCTIONS = {
    "json": {"dump"}, "os": {"replace", "rename"}, "pickle": {"dump"}, "torch": {"save"}, "np": {"save", "savez"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move"}, "pq": {"write_table", "ParquetWriter"},
    "csv": {"writer", "DictWriter"}, "zipfile": {"ZipFile"},
}  # fmt: skip
BARE = {"save_file"}
# Who may write otherwise, and why.
ALLOWED = {
    "modeling_decodetr/file_commit.py": "the mechanism",
    "utils/files.py": "the mechanism",
    "modeling_decodetr/embedding_artifact.py": "the same mechanism, in a file that travels to the Hub",
    "modeling_decodetr/modeling_decodetr.py": "likewise",
    "modeling_decodetr/hub_push.py": "a temporary folder, in a file that travels to the Hub",
    "training/trainer.py": "transformers' Trainer writes; complete.json says which of its checkpoints are whole",
    "training/results/hub.py": "likewise",
    "train.py": "calls the Trainer's save_model",
    "inference/journal.py": "lines are appended; one that was cut off is passed over",
    "cli/vocabulary.py": "Vocabulary.save_pretrained is the mechanism",
    "pool_builder/served_captioner.py": "a picture in memory",
    "training/planning/plan.py": "likewise",
    "demo/stage.py": "likewise",
    "benchmarks/hostile_files.py": "makes hostile inputs, in a temporary folder",
    "benchmarks/standin.py": "likewise",
    "publishing/contents.py": "a zip file is read",
    "speed/exported.py": "names of one measurement, in a temporary folder",
    "speed/machine.py": "a switch of the kernel",
}


def direct_writes(tree):
    """(line, code) of every call that writes a file outside of a block of the mechanism."""
    found = []

    def visit(node, staged):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            parameters = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            staged = {parameter.arg for parameter in parameters} & {"staging"}
        if isinstance(node, ast.With):
            for item in node.items:
                called = getattr(getattr(item.context_expr, "func", None), "id", None)
                of_staged = any(isinstance(part, ast.Name) and part.id in staged for part in ast.walk(item))
                if (called in MECHANISM or of_staged) and isinstance(item.optional_vars, ast.Name):
                    staged = staged | {item.optional_vars.id}
        if isinstance(node, ast.Call) and writes(node):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if not names & staged:
                found.append((node.lineno, ast.unparse(node)))
        for child in ast.iter_child_nodes(node):
            visit(child, staged)

    visit(tree, set())
    return found


def writes(call):
    function = call.func
    if isinstance(function, ast.Name):
        mode = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), None)
        mode = call.args[1] if len(call.args) > 1 else mode
        opens = function.id == "open" and isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+")
        return bool(opens) or function.id in BARE
    if not isinstance(function, ast.Attribute):
        return False
    owner = getattr(function.value, "id", None)
    if owner in FUNCTIONS:
        return function.attr in FUNCTIONS[owner]
    if function.attr == "replace":  # of a path; that of a text has two arguments
        return len(call.args) == 1 and not call.keywords
    if function.attr == "open":
        return any(isinstance(a, ast.Constant) and set(str(a.value)) & set("wax+") for a in call.args[:1])
    return function.attr in METHODS


def test_no_file_of_the_package_writes_directly():
    found = []
    for name, tree in sources().items():
        for line, code in [] if name in ALLOWED else direct_writes(tree):
            found.append(f"{name}:{line}: {code}")
    assert not found, "write through decodetr.utils.files, so that a kill leaves the old file:\n" + "\n".join(found)


def test_a_direct_write_would_be_found():
    bad = """
def f(file, staging):
    file.write_text("x"); open(file, "w"); open(file, mode="ab"); json.dump(1, file); os.replace(a, file)
    image.save(file); figure.savefig(file); pq.write_table(t, file); save_file(t, file); part.replace(file)
    shutil.copy(a, file); model.save_pretrained(file); file.open("x")
    with replacing(file) as partial:
        figure.savefig(other)
"""
    assert len(direct_writes(ast.parse(bad))) == 14
    good = """
def f(file, staging):
    image.save(staging / "a.png"); "a".replace("b", "c"); open(file); file.open(); write_text(file, "x")
    with committed(folder) as part:
        pq.write_table(t, part / "x.parquet")
"""
    assert not direct_writes(ast.parse(good))


def test_a_commit_inside_a_commit_is_part_of_it(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), committed(tmp_path) as staging:
        write_text(staging / "a.txt", "new")
        with replacing(staging / "deep" / "b.txt") as partial:
            partial.write_text("b")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"
    with committed(tmp_path) as staging:
        write_text(staging / "a.txt", "new")
        write_json(staging / "deep" / "b.json", {"x": float("nan")})
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "deep" / "b.json").read_text() == '{\n "x": null\n}\n'


def test_a_folder_with_what_a_killed_writer_left_is_unused(tmp_path):
    assert is_unused(tmp_path / "missing") and is_unused(tmp_path)
    (tmp_path / ".decodetr-staging-x").mkdir()
    (tmp_path / ".decodetr.lock").touch()
    assert is_unused(tmp_path)
    (tmp_path / "file").touch()
    assert not is_unused(tmp_path)
