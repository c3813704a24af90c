"""Running statistics of batch norms on several processes, each of which sees its own share of the images."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _NormBase

if TYPE_CHECKING:
    from decodetr.training.trainer import DeCoDetrTrainer


@torch.no_grad()
def share_statistics(trainer: "DeCoDetrTrainer") -> None:
    """Give every process the running means and variances of the first one. All processes must call it.

    Weights, pool and vocabulary are updated alike everywhere, running statistics are not: without this each process
    would measure a model of its own, and keep another best one. Those of the first process rather than a mean over
    processes, because it is the first one that saves: what is evaluated is what is saved, without communication in
    `save_model`, and it is also what DDP does with `ddp_broadcast_buffers`.
    """
    if trainer.accelerator.num_processes < 2:
        return
    layers = [module for module in trainer.model.modules() if isinstance(module, _NormBase)]
    found = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    statistics = [tensor for tensor in found if tensor is not None]
    if not statistics:
        return
    together = torch.cat(statistics)  # one message instead of hundreds
    dist.broadcast(together, src=0)
    for tensor, part in zip(statistics, together.split([len(tensor) for tensor in statistics])):
        tensor.copy_(part)
