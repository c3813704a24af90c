"""Benchmarks are imported as `python benchmarks/x.py` imports them."""

import pytest
import torch
from helpers.paths import BENCHMARKS


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    """As `python benchmarks/x.py` has them; on one thread, because several are many times slower on a busy machine."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
