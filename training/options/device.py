"""The device of a training run: `--device`, for what TrainingArguments say by `use_cpu` and the environment."""

import os
from collections.abc import Mapping
from typing import Any

from decodetr.utils.devices import pick_device

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def device_fields(device: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of DeCoDetrTrainingArguments that --device stands for.

    A GPU by its number becomes the only one that this process sees, by the environment, because Trainer takes all that
    it sees. CUDA reads that once: nothing may have asked for its devices before.

    Args:
        device: auto, cpu, cuda, cuda:1, mps, ... None as auto: an accelerator if there is one.
        given: fields that are given otherwise.

    Returns:
        dict: {field: value}.

    Raises:
        ValueError: no such device here, one of several processes names a number, or `use_cpu` says another.
    """
    if device is None or device == "auto":
        return {}
    kind, _, index = device.partition(":")
    if given.get("use_cpu", kind == "cpu") != (kind == "cpu"):
        raise ValueError(f"--device {device} and --use-cpu {given['use_cpu']} contradict each other; give one of them")
    if index and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"--device {device}: of several processes each takes its own; give --device {kind}")
    if kind == "cuda" and index.isdecimal():
        visible = os.environ.get(_VISIBLE)
        numbers = visible.split(",") if visible else [index] * (int(index) + 1)
        if int(index) >= len(numbers):
            raise ValueError(f"--device {device}: {_VISIBLE}={visible} leaves {len(numbers)}, from cuda:0 on")
        os.environ[_VISIBLE] = numbers[int(index)]
        device = "cuda"
    pick_device(device)
    return {"use_cpu": kind == "cpu"}
