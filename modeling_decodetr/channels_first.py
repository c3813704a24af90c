"""Backbones whose feature maps have their channels last, as timm's Swin: detectors want (B, C, H, W)."""

from torch import nn


def channels_first(detector: nn.Module) -> nn.Module:
    """Let the timm backbone of a detector give its maps (B, H, W, C) as (B, C, H, W). Returns the detector."""
    for module in detector.modules():
        if type(module).__module__.startswith("timm.") and getattr(module, "output_fmt", None) == "NHWC":
            module.register_forward_hook(_permute)
            break  # the outermost: those inside it have the same attribute
    return detector


def _permute(module, args, output):
    return [features.permute(0, 3, 1, 2).contiguous() for features in output]
