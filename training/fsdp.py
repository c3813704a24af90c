"""Weights and gradients that FSDP has divided between processes (DTensor), and those it has not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from decodetr.training.trainer import DeCoDetrTrainer


def check_sharded(trainer: "DeCoDetrTrainer") -> None:
    """Raises ValueError where Accelerate would leave FSDP out without a word, or divide in a way that does not train.

    Version 1 has one flat parameter for many, so streams cannot be clipped apart.
    """
    if not trainer.args.fsdp:
        return
    if trainer.accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "fsdp: Accelerate has FSDP for several GPU processes alone; start with `torchrun --nproc_per_node 2 -m "
            "decodetr.train ...` on a machine with as many GPUs, or leave --fsdp out."
        )
    if trainer.accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ValueError("fsdp: this trainer needs version 2 (fsdp_config={'version': 2}), which is also the default.")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself. Of a divided one the whole, on every process (all of them must call it)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def total_norm(norms: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm (scalar) over groups of gradients from the norm of each. 0 without groups."""
    return torch.stack([whole(norm) for norm in norms]).norm() if norms else torch.tensor(0.0)


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """`model.load_state_dict(weights)` from whole weights, into a model that may be divided."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=True))
    else:
        model.load_state_dict(weights)


def keep_class_name(model: torch.nn.Module, original: type) -> None:
    """FSDP makes a new class for a model. Give it name and module of the original one, of which
    `save_pretrained` writes the name and copies the code."""
    if type(model) is not original:
        type(model).__name__, type(model).__module__ = original.__name__, original.__module__
