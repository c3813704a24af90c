"""The moving average of the weights (EMA): smoother than the last step's, and usually a little better."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from decodetr.training.fsdp import whole
from decodetr.utils.files import replacing

FILE = "ema.safetensors"


class WeightAverage:
    """
    Averages of the trainable parameters of a model, stored next to it. Everything else (frozen weights, batch norm
    statistics, pool, vocabulary) has no average.

    Args:
        model: its parameters as they are now are the first averages.
        decay (`float`): of `torch.optim.swa_utils.get_ema_multi_avg_fn`, between 0 and 1.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters. After each optimizer step."""
        self._average(list(self.averages.values()), [p.detach() for p in self._parameters.values()], None)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights. Afterwards its own ones, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self):
        for name, parameter in self._parameters.items():
            own = parameter.detach().clone()
            parameter.copy_(self.averages[name])
            self.averages[name].copy_(own)

    @torch.no_grad()
    def adopt(self) -> None:
        """Give the model the averaged weights for good."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.averages[name])

    def save(self, folder: str | Path, write: bool = True) -> None:
        """Write the averages to FOLDER/ema.safetensors, under the names of `model.named_parameters()`. With sharded
        parameters all processes must call it. Only those with `write` write."""
        tensors = {name: whole(average).cpu().contiguous() for name, average in self.averages.items()}
        if write:
            with replacing(Path(folder) / FILE) as partial:
                save_file(tensors, partial, metadata={"format": "pt"})

    @torch.no_grad()
    def load(self, folder: str | Path) -> None:
        """Read FOLDER/ema.safetensors.

        Raises:
            ValueError: it holds the averages of other parameters.
        """
        file = Path(folder) / FILE
        stored = load_file(file)
        if wrong := sorted(stored.keys() ^ self.averages.keys()):
            raise ValueError(
                f"{file}: expected averages of the {len(self.averages)} parameters that this run trains, got "
                f"{len(stored)}, and they differ in {wrong[:3]}; resume with the same --streams."
            )
        for name, average in self.averages.items():
            loaded = stored[name].to(average.device)
            if isinstance(average, DTensor):
                loaded = distribute_tensor(loaded, average.device_mesh, average.placements)
            average.copy_(loaded)
