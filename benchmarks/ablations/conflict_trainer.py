"""How L_det and L_align pull at the layers that both reach, over a training of both streams."""

import math
from typing import Any

import torch
from torch import nn

from decodetr.training.streams import stream_of
from decodetr.training.trainer import DeCoDetrTrainer

_POINTS = 40  # of a training at which they are compared


class ConflictTrainer(DeCoDetrTrainer):
    """
    [`DeCoDetrTrainer`] whose steps are the same, and of some of which the gradients of the two losses are compared.

    Attributes:
        conflict (dict): "step" of the training, how many numbers of the detector both losses reach ("shared"), and in
            these the "cosine" between their gradients (None where there is none) and the "ratio" of the lengths,
            |dL_align| / |dL_det|: lists with a value for each step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conflict: dict[str, list] = {name: [] for name in ("step", "shared", "cosine", "ratio")}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of [`DeCoDetrTrainer`]."""
        step, every = self.state.global_step, max(1, self.state.max_steps // _POINTS)
        if step % every:
            return super().compute_loss(model, inputs, *args, **kwargs)
        terms: dict[str, torch.Tensor] = {}
        watch = self.model.register_forward_hook(lambda module, given, outputs: terms.update(outputs.loss_dict))
        try:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            watch.remove()
        detector = [
            p for name, p in self.model.named_parameters() if p.requires_grad and stream_of(name) != "semantic"
        ]
        compared = compare_gradients(terms["loss_det"], terms["loss_align"], detector)
        for name, value in {"step": step, **compared}.items():
            self.conflict[name].append(value)
        return loss


def compare_gradients(
    first: torch.Tensor, second: torch.Tensor, parameters: list[nn.Parameter]
) -> dict[str, int | float | None]:
    """How two losses, scalars of one graph, pull at parameters.

    Returns:
        {"shared": numbers that both reach, "cosine" of the gradients there, "ratio" of their lengths, second by
        first}. Where they share none, cosine is None and the ratio 0.
    """
    gradients = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (first, second)
    ]
    pairs = [(a.flatten(), b.flatten()) for a, b in zip(*gradients) if a is not None and b is not None]
    if not pairs:
        return {"shared": 0, "cosine": None, "ratio": 0.0}
    a, b = (torch.cat(column).double() for column in zip(*pairs))
    products = torch.stack([a @ a, b @ b, a @ b]).tolist()
    lengths = [math.sqrt(product) for product in products[:2]]
    cosine = products[2] / (lengths[0] * lengths[1]) if all(lengths) else None
    return {"shared": len(a), "cosine": cosine, "ratio": lengths[1] / lengths[0] if lengths[0] else None}
