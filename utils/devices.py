"""The device of a `--device` option."""

from __future__ import annotations

import os

from decodetr.utils.excerpts import first_line
from decodetr.utils.lazy import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device(device: str | torch.device) -> torch.device:
    """The torch.device of a `--device` argument. "auto" is the accelerator if there is one, else the CPU. Of several
    processes on a machine each takes its own.

    Raises:
        ValueError: no device of that name, or none on this machine. The message names those that there are.
    """
    import torch

    there = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if there else 0
    if str(device) == "auto":
        if there is None:
            return torch.device("cpu")
        rank = int(os.environ.get("LOCAL_RANK", -1))
        return torch.device(there.type, rank) if 0 <= rank < count else there
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        chosen = None
        reason = first_line(error)
    else:
        reason = "there is none on this machine"
    kinds = {"cpu": 1} | ({there.type: count} if there else {})
    if chosen is None or chosen.type not in kinds or (chosen.index or 0) >= kinds[chosen.type]:
        known = ", ".join(["auto", *kinds, *(f"{there.type}:{i}" for i in range(count))])
        raise ValueError(f"--device {device}: expected one of {known}, got {device!r} ({reason})")
    return chosen


def machine_name(device: torch.device) -> str:
    """What something ran on, for a card."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
