"""Notebooks of notebooks/: read, with other parameters, executed in a kernel of this interpreter and this checkout."""

import ast
import os
import re
import shlex
import sys

import nbformat
from nbclient import NotebookClient

from helpers.paths import ROOT

FOLDER = ROOT / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))


def read(name):
    """The notebook of a name, checked against its format."""
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(book)
    return book


def code_cells(book):
    """Cells of code, in order."""
    return [cell for cell in book.cells if cell.cell_type == "code"]


def parameters_cell(book):
    """The one cell of values to change."""
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def python_of(cell):
    """The Python of a cell: a line for the shell or for IPython becomes `pass`."""
    return re.sub(r"^(\s*)[!%].*$", r"\1pass", cell.source, flags=re.MULTILINE)


def shell_lines(book):
    """(line after its `!`) of each line that goes to the shell."""
    return [line for cell in code_cells(book) for line in re.findall(r"^\s*!(.+)$", cell.source, re.MULTILINE)]


def commands(book, values):
    """Words after `decodetr` of each command.

    Args:
        values ({name: value}): what names in braces stand for; expressions are evaluated with them.
    """
    found = []
    for line in shell_lines(book):
        filled = re.sub(r"\{([^}]+)\}", lambda match: str(eval(match[1], {}, values)), line)
        words = shlex.split(filled)
        if words[0] == "decodetr":
            found.append(words[1:])
    return found


def assigned(source):
    """{name: value} of the plain assignments of literals in a piece of Python."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def execute(name, folder, values):
    """The notebook with its outputs, run in `folder`. A command that fails ends it, which a reader's would not.

    Args:
        values ({name: value}): instead of those of its parameters.
    """
    book = read(name)
    assert set(values) <= set(assigned(parameters_cell(book).source))
    for cell in code_cells(book):
        lines = []
        for line in cell.source.splitlines():
            lines.append(line)
            if match := re.match(r"(\s*)!", line):
                lines.append(f"{match[1]}assert _exit_code == 0, _exit_code")
        cell.source = "\n".join(lines)
    parameters_cell(book).source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in values.items())
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    client = NotebookClient(book, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.km = client.create_kernel_manager()
    client.km.transport = "ipc"  # sockets of the network are blocked
    client.km.ip = str(folder / "kernel")
    client.execute(env=environment)
    return book
