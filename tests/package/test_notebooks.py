"""The notebooks are whole, hold no outputs, say what decodetr understands, and run from top to bottom."""

import ast
import importlib
import json
import re

import matplotlib.pyplot as plt
import pytest
from helpers import notebooks
from helpers.notebooks import FOLDER, NAMES
from PIL import Image

from decodetr.cli import command_parser
from decodetr.cli.train import read_fields

# Parameters with which a notebook takes little time. What it shows then is worth nothing.
SMALL = {
    "photos_to_detector": {"SCENES": 20, "STEPS": 4},
    "fine_tune": {"SCENES": 24, "STEPS": 4},
    "explore_a_pool": {},
    "export_and_serve": {"RUNS": 2},
}
WRITES = {
    "photos_to_detector": ["out/model/model.safetensors", "out/report/report.html", "out/pictures/detections.json"],
    "fine_tune": ["mine/model.safetensors", "mine/README.md", "found/detections.json"],
    "explore_a_pool": ["map.png", "why/detections.json", "everything/detections.json"],
    "export_and_serve": ["exported/model.onnx", "exported/export.json"],
}
PICTURES = {"photos_to_detector": 3, "fine_tune": 2, "explore_a_pool": 4, "export_and_serve": 1}


def _values(book):
    """Parameters of a notebook, and what it makes of them for its commands, as far as texts go."""
    values = notebooks.assigned(notebooks.parameters_cell(book).source)
    values |= {"val": 8, "pictures": "a.jpg b.jpg", "texts": "'a b' c"}
    values["PICTURE"] = values.get("PICTURE") or "a.jpg"
    for cell in notebooks.code_cells(book):
        for node in ast.walk(ast.parse(notebooks.python_of(cell))):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in ("BUILD", "TRAIN"):
                values[node.targets[0].id] = eval(compile(ast.Expression(node.value), "cell", "eval"), {}, values)
            if isinstance(node, ast.AugAssign):
                added = eval(compile(ast.Expression(node.value), "cell", "eval"), {}, values)
                values[node.target.id] += added
    return values


def test_there_are_four():
    assert NAMES == sorted(SMALL) == sorted(WRITES) == sorted(PICTURES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_no_outputs(name):
    book = notebooks.read(name)
    for cell in notebooks.code_cells(book):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert book.metadata.kernelspec.name == "python3" and "widgets" not in book.metadata
    raw = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert raw == json.dumps(json.loads(raw), indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # small diffs


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_first_how_to_install_and_what_to_change(name):
    book = notebooks.read(name)
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# ")
    first = notebooks.code_cells(book)[0].source
    assert 'find_spec("decodetr") is None' in first and re.search(r"^    %pip install ", first, re.MULTILINE)
    values = notebooks.assigned(notebooks.parameters_cell(book).source)
    (own,) = [cell.source for cell in book.cells if re.match(r"\*\*Your own \w+\.\*\*", cell.source)]
    (said,) = re.findall(r"^```python\n(.*?)^```$", own, re.MULTILINE | re.DOTALL)
    assert set(notebooks.assigned(said)) <= set(values)
    assert ("SCENES" in values) == (notebooks.assigned(said).get("SCENES") == 0)  # else drawn ones take their place


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_imports_and_links_to_is_there(name):
    book = notebooks.read(name)
    for cell in notebooks.code_cells(book):
        for node in ast.walk(ast.parse(notebooks.python_of(cell))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module
    links = [link for cell in book.cells for link in re.findall(r"\]\(([^)]+)\)", cell.source)]
    assert [link for link in links if not (FOLDER / link).is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_a_notebook_are_understood(name):
    book = notebooks.read(name)
    found = notebooks.commands(book, _values(book))
    assert len(found) > 1
    for command, *words in found:
        _, rest = command_parser(command)[1].parse_known_args(words)
        if command == "train":
            read_fields(rest)
        else:
            assert rest == [], (command, rest)


def test_own_pictures_are_found_whatever_they_are_called(tmp_path, capsys):
    book = notebooks.read("photos_to_detector")
    own = [cell for cell in notebooks.code_cells(book) if "PHOTOS" in cell.source and "show(" in cell.source]
    assert len(own) == 2
    (helper,) = [cell for cell in notebooks.code_cells(book) if "def show" in cell.source]
    values = {"SCENES": 0, "PHOTOS": str(tmp_path)}
    plt.switch_backend("agg")
    exec(notebooks.python_of(helper), values)
    for name in ("1.PNG", "a b/2.webp", "a b/3.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    exec(notebooks.python_of(own[0]), values)
    assert sum(len(axis.images) for axis in plt.gcf().axes) == 3
    plt.close("all")
    values["show"]([])
    assert capsys.readouterr().out == "no pictures\n" and not plt.get_fignums()


@pytest.mark.parametrize("name", NAMES)
def test_long_commands_are_quiet(name):
    for command, *words in notebooks.commands(book := notebooks.read(name), _values(book)):
        assert command not in ("build", "train", "predict") or {"--quiet", "--plan"} & set(words)


def test_a_word_that_nobody_knows_would_be_found(capsys):
    book = notebooks.read("explore_a_pool")
    notebooks.code_cells(book)[-1].source = "!decodetr predict {PICTURE} --output o --explane"
    *_, (command, *words) = notebooks.commands(book, {**_values(book), "VOCABULARY": "v"})
    assert command_parser(command)[1].parse_known_args(words)[1] == ["--explane"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    book = notebooks.execute(name, tmp_path, SMALL[name])
    assert [file for file in WRITES[name] if not (tmp_path / file).is_file()] == []
    outputs = [output for cell in notebooks.code_cells(book) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
    assert [output for output in outputs if output.output_type == "error"] == []


@pytest.mark.slow
def test_a_command_that_fails_ends_a_notebook(tmp_path):
    with pytest.raises(Exception, match=r"AssertionError(\x1b\[\d+m)*: 1"):
        notebooks.execute("explore_a_pool", tmp_path, {"POOL": "nowhere"})
