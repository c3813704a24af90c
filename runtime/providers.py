"""What `--device` means to the runtime of an exported model."""

from __future__ import annotations

from pathlib import Path

from decodetr.runtime.description import find_export, read_description

_PROVIDERS: dict[str, dict[str, list[str]]] = {
    "onnx": {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
    "openvino": {"cpu": ["CPU"], "gpu": ["GPU"]},
    "pt2": {"cpu": []},
}


def providers_of(place: str | Path, device: str) -> list[str]:
    """The providers of [`open_session`] for a `--device`: auto and cpu are the processor.

    Args:
        place: folder of an exported model, or the graph in it. device (str): of the option.

    Raises:
        ValueError: the runtime has no such device.
    """
    folder = find_export(place)
    if folder is None:
        raise FileNotFoundError(f"{place}: no exported model is there")
    runtime = read_description(folder).runtime
    known = _PROVIDERS[runtime]
    name = "cpu" if device == "auto" else device
    if name not in known:
        raise ValueError(f"--device {device}: a model exported as {runtime} runs on auto, {', '.join(known)}")
    return known[name]
