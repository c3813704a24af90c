"""Commands and Python of README.md and docs/*.md: each command is read by the real parser of its command, each block
of Python is compiled, and what it imports of decodetr is there. `-s` prints the counts."""

import ast
import importlib
import sys

import pytest
from helpers.fenced import blocks, commands, decodetr_words
from helpers.paths import ROOT

from decodetr.cli import COMMANDS, command_parser

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(language, code, id=f"{page.name}-{i}")
    for page in PAGES
    for i, (language, code) in enumerate(blocks(page.read_text(encoding="utf-8")))
]
# First words of what is in a block without being a command of ours, and why it is not parsed here.
OTHERS = {
    "pip": "installs packages",
    "apt-get": "installs packages",
    "make": "a target of the Makefile",
    "python": "a benchmark or a script: tests/benchmarks",
    "accelerate": "starts processes around `decodetr.train`: tests/training",
    "torchrun": "starts processes around `decodetr.train`: tests/training",
    "curl": "asks a server: tests/serving",
    "hf": "asks the Hub",
    "CHROME_PATH=/usr/bin/chromium": "needs a browser and npm",
}
ONE_WORD = ("output_dir", "batch_size", "workers", "epochs")  # docs/command_line.md
COUNTED = {"parsed": 0, "others": 0, "python": 0}


def of_python():
    return [param for param in BLOCKS if param.values[0] == "python"]


def of_commands():
    return [
        param
        for param in BLOCKS
        if param.values[0] in ("", "bash", "sh")
        and any(decodetr_words(line) or line.split()[0] in OTHERS for line in commands(param.values[1]))
    ]


@pytest.mark.parametrize("language, code", of_commands())
def test_the_real_parser_takes_every_command(language, code, capsys):
    for line in commands(code):
        found = decodetr_words(line)
        if found is None:
            assert line.split()[0] in OTHERS, f"neither a command of decodetr nor in OTHERS: {line}"
            COUNTED["others"] += 1
            continue
        words, partial = found
        if words[0] in ("--version", "--help"):
            COUNTED["parsed"] += 1
            continue
        assert words[0] in COMMANDS, line
        _, parser = command_parser(words[0])
        try:
            _, rest = parser.parse_known_args(words[1:])
        except SystemExit:
            said = capsys.readouterr().err
            assert partial and "required" in said, f"{line}\n{said}"
            rest = []
        if words[0] == "train":  # fields of TrainingArguments, which a dataclass has
            rest = [word for word in rest if word.startswith("--") and not _field(word)]
        assert rest == [] or not any(word.startswith("-") for word in rest), f"{line}: unknown {rest}"
        COUNTED["parsed"] += 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_do_not_write_to_one_output(page):
    """Who types them in order would be refused. (A name in capitals is for the reader to choose.)"""
    found = []
    for language, code in blocks(page.read_text(encoding="utf-8")):
        for words, _ in filter(None, map(decodetr_words, commands(code) if language in ("", "bash", "sh") else [])):
            if words[0] != "bench" and "--output" in words:  # bench adds to what it has measured
                found.append(words[words.index("--output") + 1].rstrip("/"))
    assert [output for output in set(found) if output != output.upper() and found.count(output) > 1] == []


def _field(word):
    from decodetr import DeCoDetrTrainingArguments

    name = word.partition("=")[0].lstrip("-").replace("-", "_")
    return name in DeCoDetrTrainingArguments.__dataclass_fields__ or name in ONE_WORD


@pytest.mark.parametrize("language, code", of_python())
def test_python_compiles_and_its_imports_are_there(language, code):
    tree = ast.parse(code)
    compile(tree, "a page", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "decodetr":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "decodetr":
            assert hasattr(importlib.import_module("decodetr"), node.attr)
    COUNTED["python"] += 1


def test_nothing_was_left_out():
    """Runs after the others: every block is of a kind that is looked at, or text that no program reads."""
    texts = {
        "README.md": 0,
        "names.md": 1,
        "serving.md": 1,
        "pools.md": 1,
        "model.md": 1,
        "data.md": 1,
        "training_options.md": 1,
    }
    looked = {param.id for param in [*of_python(), *of_commands()]}
    left = [param.id for param in BLOCKS if param.id not in looked]
    for page in {name.rpartition("-")[0] for name in left}:
        assert len([name for name in left if name.startswith(f"{page}-")]) == texts.get(page, 0), (page, left)
    sys.stdout.write(f"\n{len(looked)} of {len(BLOCKS)} blocks: {COUNTED}; {len(left)} are text: {left}\n")
