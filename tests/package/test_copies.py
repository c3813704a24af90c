"""Copies of the process that tests (helpers/processes.py): what works there, though it has none of its threads."""

import gc
import os

import pytest
import torch
from helpers import processes  # noqa: F401, what it does first is what is tested

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a copy is a POSIX fork")


class _EndsOnce:
    """Part of a circle, so only a search for garbage ends it; it writes down the process that does."""

    def __init__(self, file):
        self.file, self.itself = file, self

    def __del__(self):
        with open(self.file, "a") as file:
            file.write(f"{os.getpid()}\n")


def _in_copy(function):
    """What a copy of this process exits with: 0 unless the function raises."""
    child = os.fork()
    if not child:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_garbage_of_a_process_does_not_end_in_its_copy(tmp_path):
    ended = tmp_path / "ended"
    held = [_EndsOnce(ended)]
    _EndsOnce(ended)

    def let_go():
        held.clear()
        gc.collect()

    assert _in_copy(let_go) == 0
    assert not ended.exists()
    gc.collect()
    assert ended.read_text().split() == [str(os.getpid())]


def test_a_copy_learns_after_an_export():
    torch.export.export(torch.nn.Linear(1, 1).eval(), (torch.ones(1, 1),))
    torch.ones((), requires_grad=True).backward()
    assert _in_copy(torch.ones((), requires_grad=True).backward) == 0
