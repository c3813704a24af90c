"""Boxes, class logits and the detector's loss in float32 under autocast.

In bfloat16 a coordinate near 1 is a multiple of 1/256: on an image of 1,000 pixels boxes are off by up to two, and the
matcher and the box losses see steps instead of slopes. The heads that give boxes, their reference points and logits
are small, so they leave autocast, unless their own weights are in half precision. So does the loss with its matcher,
which is in float32 without autocast too. Else nothing changes without autocast.

On the CPU, torch's `grid_sample` reads wrong values, and memory that is not its own, from half-precision maps that are
not contiguous, as deformable attention has them. A model in half precision samples in float32 there.

They are changed by an attribute, such as `forward`, that is a partial of a function of this file: it survives
deepcopy, pickling, `torch.compile` and `torch.export`, and names of weights stay what they are.
"""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Last name, without a number, of the modules of all families that give boxes, reference points of boxes or logits.
_HEADS = {
    "bbox_predictor",
    "bbox_embed",
    "enc_bbox_head",
    "enc_out_bbox_embed",
    "pre_bbox_head",
    "integral",  # D-FINE, DEIMv2: from distributions to distances
    "reference_points",  # Deformable DETR
    "ref_point_head",  # Conditional DETR: centres. In other families it embeds positions, and is as small
    "class_labels_classifier",
    "class_embed",
    "enc_score_head",
    "enc_out_class_embed",
    "lqe_layers",
}
# Of two-stage families: boxes of the places of the feature maps, else in the type of the maps.
_PROPOSALS = "gen_encoder_output_proposals"


def keep_boxes_in_float32(detector: nn.Module) -> nn.Module:
    """Let the heads and the loss of a detector of transformers leave autocast, in place. Returns the detector."""
    for module in _heads(detector):
        if not isinstance(module, nn.ModuleList):
            module.forward = partial(_in_float32, module, "forward")
    for module in detector.modules():
        if hasattr(module, _PROPOSALS):
            setattr(module, _PROPOSALS, partial(_in_float32, module, _PROPOSALS))
    detector.loss_function = Float32Loss(detector.loss_function)
    return detector


def _heads(detector):
    for name, module in detector.named_modules():
        last = [part for part in name.split(".") if not part.isdigit()][-1:]
        if last and last[0] in _HEADS:
            yield module


def halve(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a DeCo-DETR to half precision in place, but for the heads of its detector, for calls under autocast to
    this `dtype`. Boxes are then as exact as under autocast alone, which rounds all weights anew in each call.

    Returns the model.
    """
    model.to(dtype)
    # Normalisations take inputs of both types where their weights are in float32.
    norms = (module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm))
    for module in (*_heads(model.detector), *norms):
        module.float()
    return model


def _in_float32(module, method, *args):
    """What the class of `module` has as `method`, without autocast and on float32 tensors. args[0] is a tensor."""
    function, device = getattr(type(module), method), args[0].device.type
    if not torch.is_autocast_enabled(device):
        return function(module, *args)
    # Of a model that was loaded in half precision, autocast makes the inputs agree with the weights.
    half = any(_is_half(weight) for weight in module.parameters())
    with contextlib.nullcontext() if half else torch.autocast(device, enabled=False):
        return function(module, *as_float32(args))


class Float32Loss:
    """The loss function of a detector, without autocast and on float32 tensors, also of a model in half precision:
    matchers have no operators for it on the CPU. A class, because closures cannot be pickled."""

    def __init__(self, loss_function: Callable) -> None:
        self.loss_function = loss_function

    def __call__(self, logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (torch.is_autocast_enabled(logits.device.type) or _is_half(logits)):
            return self.loss_function(logits, *args, **kwargs)
        with torch.autocast(logits.device.type, enabled=False):
            return self.loss_function(as_float32(logits), *as_float32(args), **as_float32(kwargs))


class Float32Buffers(nn.Module):
    """Base of modules whose own buffers stay in float32 when `.half()` or `.bfloat16()` converts a model."""

    def _apply(self, fn, recurse=True):
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if new.dtype != old.dtype:  # moved to half precision: keep the exact values, follow the device only
                self._buffers[name] = old.to(new.device)
        return self


def safe_sampling(pixel_values: torch.Tensor) -> contextlib.AbstractContextManager:
    """A context in which `grid_sample` is right for a model that gets these pixels."""
    return (
        SamplingInFloat32()
        if _is_half(pixel_values) and pixel_values.device.type == "cpu"
        else contextlib.nullcontext()
    )


class SamplingInFloat32(TorchFunctionMode):
    """Inside, in this thread alone, `grid_sample` computes in float32. Its result has the type of the map."""

    def __torch_function__(
        self, func: Callable, types: Iterable[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.grid_sample:
            return func(*args, **kwargs)
        return func(*as_float32(args), **as_float32(kwargs)).to(args[0].dtype)


def as_float32(value: Any) -> Any:
    """`value` with every half-precision tensor in it, also in lists, tuples and dicts, in float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if _is_half(value) else value
    if isinstance(value, dict):
        return {key: as_float32(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_float32(entry) for entry in value)
    return value


def _is_half(tensor):
    return tensor.dtype in (torch.float16, torch.bfloat16)
