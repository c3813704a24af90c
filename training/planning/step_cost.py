"""What one training step costs, counted while it runs: FLOPs, operations, and bytes kept for the backward pass."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from decodetr.training.features.feature_cache import feature_collate

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

CACHED = "cached"  # the semantic stream over cached features


@dataclass(frozen=True)
class StepCost:
    """
    Args:
        convolutions, others (int): FLOPs of forward and backward, two for every multiply-add, as
            `torch.utils.flop_counter` counts them.
        operations (int): calls of PyTorch's operators. On a GPU each starts at least one kernel.
        kept (int): bytes of tensors that the forward keeps for the backward, weights apart.
    """

    convolutions: int
    others: int
    operations: int
    kept: int


def step_cost(
    model: "DeCoDetrForObjectDetection",
    pixel_values: torch.Tensor,
    labels: list[dict[str, torch.Tensor]],
    streams: str,
) -> StepCost:
    """Make one step, without an update, and count. The model is left in another mode, and without gradients.

    Args:
        model (DeCoDetrForObjectDetection). pixel_values (B, 3, H, W). labels: B dicts, see `forward`.
        streams (str): "joint", "localization", "semantic", or "cached".
    """
    model.train()
    only_semantics = streams in ("semantic", CACHED)
    if only_semantics:
        model.detector.eval()
    learn = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (only_semantics and name.startswith("detector.")))
    if streams == CACHED:
        found = model.extract_semantic_features(pixel_values=pixel_values, labels=labels)
        # As the cache keeps them, with embeddings of captions that only a pool that moves reads: none here.
        inputs = feature_collate([{**item, "region_text_embeds": item["region_embeds"][:0]} for item in found])
    else:
        inputs = {"pixel_values": pixel_values, "labels": labels, "localization_only": streams == "localization"}
    try:
        return _counted(model, lambda: model(**inputs).loss)
    finally:
        model.zero_grad(set_to_none=True)
        for parameter, required in learn.items():
            parameter.requires_grad_(required)


def forward_cost(model: "DeCoDetrForObjectDetection", pixel_values: torch.Tensor) -> StepCost:
    """The cost of a forward of the detector alone, as of the step that fills the cache of features."""
    model.eval()
    with torch.no_grad():
        return _counted(model, lambda: model.detector(pixel_values) and None)


def _counted(model: torch.nn.Module, loss: Callable[[], Any]) -> StepCost:
    with FlopCounterMode(display=False) as counter, _Operations() as operations:
        with _kept_tensors(model) as kept:
            value = loss()
        if value is not None and value.requires_grad:
            value.backward()
    counts = counter.get_flop_counts()["Global"]
    total = sum(counts.values())
    convolutions = sum(number for operator, number in counts.items() if "convolution" in str(operator))
    return StepCost(convolutions, total - convolutions, operations.count, sum(kept.values()))


class _Operations(TorchDispatchMode):
    """Counts calls of operators, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _kept_tensors(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """{address of a storage: its bytes} of what is kept for the backward pass, without weights and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept
