"""Run a `decodetr` command for a file that is a program itself, such as `python eval.py`."""

import runpy
import sys


def run_command(name: str, argv: list[str] | None = None) -> int:
    """
    Run a command as `python -m decodetr` does. No import of the command line, which stands on all other floors.

    Args:
        name: of the command, such as "eval". argv: its words. Default: those of this process.

    Returns:
        The exit status.
    """
    before = sys.argv
    sys.argv = ["decodetr", name, *(before[1:] if argv is None else argv)]
    try:
        runpy.run_module("decodetr", run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0
