"""What the benchmarks share: timing of things in turn, spread, the machine, config files and Markdown tables.

Times of one run after another drift with the machine (frequency, neighbours, caches), so what is compared is timed in
turn in one process, A B A B ..., and a ratio is the median of the ratios of neighbours, not a ratio of two medians.
"""

import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import torch


def synchronize(device):
    """Wait until the device has done what it was given. CPUs always have."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(device)


def clock(device) -> float:
    """Seconds, after all work on the device."""
    synchronize(device)
    return time.perf_counter()


def in_turn(functions, *, device="cpu", warmup=3, runs=20, calls=1, lead=0):
    """Time functions in turn.

    Args:
        functions (`dict[str, Callable]`): called without arguments.
        warmup (`int`): untimed rounds. runs (`int`): timed rounds, in which every function has one turn.
        calls (`int`): timed calls per turn. lead (`int`): untimed calls before them: after something large, what is
            small no longer finds its weights in the processor's caches, as it would in a separate run.

    Returns:
        `dict[str, list[float]]`: seconds per call, one value per round.
    """
    seconds = {name: [] for name in functions}
    for round_number in range(warmup + runs):
        for name, function in functions.items():
            for _ in range(lead):
                function()
            start = clock(device)
            for _ in range(calls):
                function()
            elapsed = (clock(device) - start) / calls
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def spread(values) -> dict:
    """Median, first and third quartile, minimum and maximum, and how many values."""
    values = torch.tensor(values)
    low, median, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {
        "median": median,
        "q1": low,
        "q3": high,
        "min": values.min().item(),
        "max": values.max().item(),
        "runs": len(values),
    }


def ratios(seconds, of, to) -> dict:
    """Spread of the ratios of two things that were timed in the same rounds."""
    return spread([a / b for a, b in zip(seconds[of], seconds[to])])


def show(summary, scale=1.0, digits=2) -> str:
    """A spread as "median (q1 to q3)"."""
    median, low, high = (f"{summary[key] * scale:.{digits}f}" for key in ("median", "q1", "q3"))
    return f"{median} ({low} to {high})"


def environment(device, **settings) -> dict:
    """Machine, versions and settings: everything that a reader must know with a number."""
    import psutil
    import transformers

    from decodetr import __version__

    device = torch.device(device)
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({_cpu_name()})",
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "decodetr": __version__,
        **settings,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_gb() -> float:
    """Greatest memory that this process has had since it started, GB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts what the process had that started this one
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def used_bytes(device) -> int:
    """Memory in use now: on CUDA what PyTorch has allocated there, else what is resident of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def reset_peak(device):
    """Reset the peak. On CPU this needs Linux. Elsewhere the peak stays that of the whole process."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device) -> int:
    """The most memory since [`reset_peak`]. See [`used_bytes`]."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(peak_gb() * 2**30)


def read_config(file) -> dict:
    """Fields of a DeCoDetrConfig from a YAML or JSON file, read as `decodetr train` does."""
    from decodetr.utils.documents import read_yaml

    return read_yaml(file, dict)


def say(text=""):
    """A line of the report, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(header, rows) -> str:
    """A Markdown table for a terminal: first column to the left, numbers to the right."""
    from decodetr.utils.tables import markdown_table

    return markdown_table(header, rows, escape=False)
