"""The machine: what it is, whether it is busy, how fast it can be at all, and how much memory a call took."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from decodetr.speed.timing import clock
from decodetr.utils.versions import package_versions

if TYPE_CHECKING:
    from typing import Any

_BUSY_PERCENT = 10  # of all cores, used by others
_SIDES = {"cpu": 2048}  # of the square matrices; of an accelerator
_SIDE, _COPIED, _TRIES = 8192, 1 << 28, 5  # other devices' side; bytes of the copy


def environment(device: str | torch.device, **settings: Any) -> dict[str, Any]:
    """Machine, versions and settings: everything that a reader must know with a number."""
    device = torch.device(device)
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({_cpu_name()})",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,  # which says of which build it is
        **package_versions(["transformers", "decodetr"]),
        **settings,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def used_by_others() -> float:
    """Percent of all cores that are in use while this process waits half a second."""
    return psutil.cpu_percent(interval=0.5)


def busy_warning(percent: float) -> str | None:
    """What to say of a machine of which others use so much. None where it is quiet."""
    if percent <= _BUSY_PERCENT:
        return None
    return (
        f"the machine is busy: others use {percent:.0f} % of its cores. Times are longer than on a quiet one; ratios "
        "of what is measured in turn still hold, roughly"
    )


def floor(device: str | torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What the device reaches at best, measured: "gflops", 10^9 FLOP a second in a product of large square matrices,
    and "gbytes", 10^9 bytes a second that a large copy reads and writes."""
    device = torch.device(device)
    side = _SIDES.get(device.type, _SIDE)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    multiply = _fastest(lambda: left @ right, device)
    copy = _fastest(lambda: target.copy_(source), device)
    return {"gflops": 2 * side**3 / multiply / 1e9, "gbytes": 2 * _COPIED / copy / 1e9}


def _fastest(function, device):
    function()
    times = []
    for _ in range(_TRIES):
        start = clock(device)
        function()
        times.append(clock(device) - start)
    return min(times)


def share_of_floor(seconds: float, flops: float, read: float, floor: dict[str, float]) -> float:
    """How near a call comes to the least that the machine can take for it, 0 to 1: by its FLOPs or by the bytes that
    it must read once, whichever takes longer."""
    return max(flops / (floor["gflops"] * 1e9), read / (floor["gbytes"] * 1e9)) / seconds


def peak_gb() -> float:
    """Greatest memory that this process has had since it started, GB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the process had that started this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def used_bytes(device: str | torch.device) -> int:
    """Memory in use now: on CUDA what PyTorch has allocated there, else what is resident of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def reset_peak(device: str | torch.device) -> None:
    """Reset the peak. On CPU this needs Linux. Elsewhere the peak stays that of the whole process."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: str | torch.device) -> int:
    """The most memory since [`reset_peak`]. See [`used_bytes`]."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(peak_gb() * 2**30)
