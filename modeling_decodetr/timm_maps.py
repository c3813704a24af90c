"""timm's backbones as detectors want them: maps (B, C, H, W) of images of any size, equal after save and load.

Some give their channels last (Swin, MambaOut, Sequencer). Swin is also built for squares of one size, and computes
with buffers that no file holds. CLIP's ResNets add maps of unequal sizes where a side is odd.
"""

from torch import nn


def fit_timm(detector: nn.Module) -> nn.Module:
    """Let the timm backbone of a detector, if it has one, give maps (B, C, H, W), and a Swin or a ResNet of CLIP take
    images of any size. Returns the detector."""
    for module in detector.modules():
        if _of_timm(module) and isinstance(pool := getattr(module, "aa", None), nn.AvgPool2d):
            pool.ceil_mode, pool.count_include_pad = True, False  # as timm has it in the shortcut beside it
    for module in detector.modules():
        if _of_timm(module) and getattr(module, "output_fmt", None) == "NHWC":
            module.register_forward_hook(_permute)
            _take_any_size(module)
            break  # the outermost: those inside it have the same attribute
    return detector


def fill_buffers(detector: nn.Module) -> None:
    """Compute the buffers of timm's modules that `save_pretrained` leaves out: `from_pretrained` builds a model
    without values, and the detectors of transformers fill in none of timm's."""
    for module in detector.modules():
        if _of_timm(module) and hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


def _of_timm(module):
    return type(module).__module__.startswith("timm.")


def _permute(module, args, output):
    return [features.permute(0, 3, 1, 2).contiguous() for features in output]


def _take_any_size(features):
    """As timm builds a Swin with dynamic_img_size and always_partition, which a config cannot ask for: masks are made
    for each image, and the last stage shifts its windows too, whose maps are larger than one window in detection."""
    blocks = [module for module in features.modules() if hasattr(module, "dynamic_mask")]
    for block in blocks:
        block.dynamic_mask, block.attn_mask = True, None
        block.set_input_size(block.input_resolution, block.window_size, always_partition=True)
    if blocks:
        features.patch_embed.strict_img_size = False
        features.patch_embed.dynamic_img_pad = True  # sides need not be multiples of a patch
