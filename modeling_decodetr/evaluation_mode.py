"""Detect with a model that is in training, and leave it as it was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass
class _Held:
    """Modules of a model that were in training, and how many calls keep them from it."""

    modules: list[nn.Module]
    calls: int = 0


_LOCK = threading.Lock()  # not the model's: a lock cannot be copied
_HELD: dict[nn.Module, _Held] = {}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules of a model in evaluation mode: batch norms keep their statistics and nothing is dropped.

    Afterwards those that were in training are again, and what is frozen in evaluation mode stays so. The mode belongs
    to all threads, so the last call that ends puts it back. Of a model in evaluation mode nothing is written.
    """
    with _LOCK:
        held = _HELD.get(model)
        if held is None and _trains(model):
            held = _HELD[model] = _Held([module for module in model.modules() if module.training])
            for module in held.modules:
                module.training = False
        if held is not None:
            held.calls += 1
    try:
        yield
    finally:
        if held is not None:
            with _LOCK:
                held.calls -= 1
                if not held.calls:
                    for module in held.modules:
                        module.training = True
                    del _HELD[model]


def _trains(model):
    """Whether any module is in training mode. `modules()` takes six times as long, in every call."""
    waiting = [model]
    for module in waiting:
        if module.training:
            return True
        if module._modules:
            waiting += [child for child in module._modules.values() if child is not None]
    return False
