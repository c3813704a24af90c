"""Weights and gradients that FSDP has divided between processes (DTensor), and those it has not."""

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor


def whole(tensor):
    """The tensor itself; of a divided one the whole, on every process (all of them must call it)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def total_norm(norms):
    """The norm (scalar) over groups of gradients from the norm of each; 0 without groups."""
    return torch.stack([whole(norm) for norm in norms]).norm() if norms else torch.tensor(0.0)


def load_weights(model, weights):
    """`model.load_state_dict(weights)` from whole weights, into a model that may be divided."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=True))
    else:
        model.load_state_dict(weights)
