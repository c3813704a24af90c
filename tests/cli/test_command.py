"""The `decodetr` command: help is instant because nothing heavy is imported for it, and errors have no traceback."""

import os
import subprocess
import sys

import pytest
from helpers.light_imports import PROBE

from decodetr.cli import COMMANDS, command_parser, main, usage
from decodetr.cli.options import asked_names


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["scenes", "write"]])
def test_help_imports_nothing_heavy(command):
    result = subprocess.run([sys.executable, "-c", PROBE, *command, "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout and len(result.stdout) > 100


def test_importing_decodetr_imports_nothing_heavy():
    probe = "import sys, decodetr; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe]).returncode == 0


def test_usage_names_every_command():
    assert all(f"\n  {name} " in usage() for name in COMMANDS)


@pytest.mark.parametrize(
    "words", [["export", "m", "--format", "onnx", "--output", "o"], ["serve"], ["predict", "p", "--output", "o"]]
)
def test_pool_stands_for_all_that_the_pool_speaks_of(tmp_path, words):
    (tmp_path / "names.txt").write_text("pool\n")
    _, parser = command_parser(words[0])
    asked = [[], ["--names", "pool"], ["--names", "pool,cat"], ["--names-file", str(tmp_path / "names.txt")]]
    found = [asked_names(parser.parse_args([*words[1:], *more])) for more in asked]
    assert found == [None, "pool", {"pool": ["pool"], "cat": ["cat"]}, {"pool": ["pool"]}]


def test_unknown_command_and_argument(capsys):
    assert main(["fly"]) == 2
    assert "unknown command 'fly'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", "--model", "m", "--annotations", "a", "--what"])
    assert "unrecognized arguments: --what" in capsys.readouterr().err


def test_errors_of_users_have_no_traceback(capsys, tmp_path):
    assert main(["eval", "--model", str(tmp_path), "--annotations", str(tmp_path / "none.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("decodetr eval: error:") and "none.json" in error


def test_an_old_locale_is_said_with_what_mends_it():
    old = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    run = [sys.executable, "-c", "from decodetr.cli import main; main(['--version'])"]
    for utf_8, said in (("0", b"are read as ascii here"), ("1", b"")):
        result = subprocess.run(run, env={**os.environ, **old, "PYTHONUTF8": utf_8}, capture_output=True)
        assert result.stdout.startswith(b"decodetr 0.") and said in result.stderr
        assert (b"set PYTHONUTF8=1" in result.stderr) == bool(said)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("decodetr 0.")


@pytest.mark.parametrize(
    "words, buffered", [(["--help"], True), (["--help"], False), (["info", "scenes-vocabulary"], True)]
)
def test_nobody_reads_the_output(words, buffered):
    """`decodetr ... | head` ends as other programs do: no traceback, the status of a closed pipe."""
    run = f"import sys; sys.stdin.read(); from decodetr.cli import main; sys.exit(main({words}))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    process = subprocess.Popen([sys.executable, "-c", run], env=environment, **pipes)
    process.stdout.close()  # before it begins to write
    process.stdout = None
    _, said = process.communicate(b"go")
    assert (process.returncode, said) == (141, b"")
