"""Versions of packages, for cards, reports and bug reports."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from decodetr import __version__

# What decides how detection, training and evaluation behave.
_PACKAGES = """
torch torchvision transformers accelerate datasets supervision safetensors tokenizers numpy pillow
"""


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """{package: version}. This package may be a checkout that nobody installed."""
    return {package: __version__ if package == "decodetr" else version(package) for package in packages}


def version_line() -> str:
    """What `decodetr --version` prints."""
    return f"decodetr {__version__}\n"


def environment() -> str:
    """What `decodetr --version --verbose` prints: a line each for decodetr and where it is, Python, the system, the
    packages that decide how it behaves, the cores that this process may use, and the accelerators."""
    rows = {
        "decodetr": f"{__version__} ({os.path.dirname(os.path.dirname(os.path.abspath(__file__)))})",
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        **{package: _version_or_none(package) for package in _PACKAGES.split()},
        "cpu": f"{_cores()} of {os.cpu_count()} cores",
        "accelerators": _accelerators(),
    }
    width = max(map(len, rows))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in rows.items())


def _version_or_none(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cores():
    """Cores that this process may run on, where the system says it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _accelerators():
    try:
        import torch
    except (ImportError, OSError) as error:  # which may be what the report is about
        return f"unknown, as torch cannot be imported: {error}"
    there = torch.accelerator.current_accelerator(check_available=True)
    if there is None:
        return "none"
    module = torch.get_device_module(there)
    count = torch.accelerator.device_count()
    names = [module.get_device_name(i) if hasattr(module, "get_device_name") else there.type for i in range(count)]
    of_torch = f", CUDA {torch.version.cuda}" if there.type == "cuda" and torch.version.cuda else ""
    return f"{', '.join(f'{there.type}:{i} {name}' for i, name in enumerate(names))}{of_torch}"
