"""Time of things that are compared: in turn, with its spread.

Times of one run after another drift with the machine (frequency, neighbours, caches), so what is compared is timed in
turn in one process, A B A B ..., and a ratio is the median of the ratios of neighbours, not a ratio of two medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from typing import Any

Key = TypeVar("Key", bound=Hashable)


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has done what it was given. CPUs always have."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def clock(device: str | torch.device) -> float:
    """Seconds, after all work on the device."""
    synchronize(device)
    return time.perf_counter()


def in_turn(
    functions: Mapping[Key, Callable[[], Any]],
    *,
    device: str | torch.device = "cpu",
    warmup: int = 3,
    runs: int = 20,
    calls: int = 1,
    lead: int | Mapping[Key, int] = 0,
    after: Callable[[], Any] = lambda: None,
) -> dict[Key, list[float]]:
    """Time functions in turn.

    Args:
        functions (`dict[str, Callable]`): called without arguments.
        warmup (`int`): untimed rounds. runs (`int`): timed rounds, in which every function has one turn.
        calls (`int`): timed calls per turn. lead (`int`, or one for each function): untimed calls before them: after
            something large, what is small no longer finds its weights in the processor's caches, as it would in a
            separate run.
        after: called after each turn, outside of its time.

    Returns:
        `dict[str, list[float]]`: seconds per call, one value per round.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in functions}
    for round_number in range(warmup + runs):
        for name, function in functions.items():
            for _ in range(lead if isinstance(lead, int) else lead[name]):
                function()
            start = clock(device)
            for _ in range(calls):
                function()
            elapsed = (clock(device) - start) / calls
            if round_number >= warmup:
                seconds[name].append(elapsed)
            after()
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, first and third quartile, minimum and maximum, and how many values."""
    ordered = torch.tensor(values)
    low, median, high = ordered.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {
        "median": median,
        "q1": low,
        "q3": high,
        "min": ordered.min().item(),
        "max": ordered.max().item(),
        "runs": len(ordered),
    }


def ratios(seconds: Mapping[Key, Sequence[float]], of: Key, to: Key) -> dict[str, float]:
    """Spread of the ratios of two things that were timed in the same rounds."""
    return spread([a / b for a, b in zip(seconds[of], seconds[to])])


def show(summary: Mapping[str, float], scale: float = 1.0, digits: int = 2) -> str:
    """A spread as "median (q1 to q3)"."""
    median, low, high = (f"{summary[key] * scale:.{digits}f}" for key in ("median", "q1", "q3"))
    return f"{median} ({low} to {high})"
