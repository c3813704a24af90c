"""Pictures of any mode as 8-bit RGB, the one way for files, PIL images, arrays and tensors.

`convert("RGB")` clips what an 8-bit picture cannot hold: a 16-bit one turns white. Here values are scaled by what
their kind holds. This file is copied to the Hub with the image processors, so it imports only PIL, numpy and torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

_STRIP = 1 << 22  # pixels that are converted at once


def to_rgb(image: Image.Image, full: int | None = None) -> Image.Image:
    """A PIL image of any mode as 8-bit RGB, itself if it is. Transparency is dropped.

    Args:
        image (`PIL.Image.Image`).
        full (`int`, *optional*): value of white in the modes I and I;16; default 65,535.

    Raises:
        ValueError: values that are no colours: negative, above white, not finite, or floats that are neither in 0 to 1
            nor in 0 to 255.
    """
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBa", "La", "PA"):  # PIL converts them to RGB by way of these alone
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image.convert("RGB")
    return Image.fromarray(_scaled(np.asarray(image), full, f"mode {image.mode}")).convert("RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as 8-bit RGBA. One without transparency is opaque.

    Raises:
        ValueError: as [`to_rgb`].
    """
    if image.mode in ("RGBA", "RGBa", "LA", "P", "PA"):
        return image.convert("RGBA")
    alpha = image.convert("RGBA").getchannel("A")  # of a colour that is stored as transparent
    result = to_rgb(image).copy()
    result.putalpha(alpha)
    return result


def to_eight_bits(image: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """A numpy array or torch tensor as one of 8 bits, for an image processor that scales by 1/255.

    Values of 0 to 255 stay, of whatever type they are. Booleans, whole numbers of 16 bits and floats of 0 to 1 are
    scaled.

    Raises:
        ValueError: as [`to_rgb`].
    """
    if isinstance(image, np.ndarray):
        return image if image.dtype == np.uint8 else _scaled(image, None, f"an array of {image.dtype}", arrays=True)
    import torch

    if not isinstance(image, torch.Tensor) or image.dtype == torch.uint8:
        return image
    kind, values = f"a tensor of {image.dtype}", image.detach().cpu()
    values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    return torch.from_numpy(_scaled(values.numpy(), None, kind, arrays=True))


def _scaled(values, full, kind, arrays=False):
    """uint8 of the same shape. `arrays`: whole numbers may be 8-bit ones in a larger type."""
    if values.size == 0:
        raise ValueError(f"expected a picture, got {kind} of shape {values.shape}, without a pixel")
    low, high = values.min(), values.max()
    if values.dtype == bool:
        full = 1
    elif np.issubdtype(values.dtype, np.floating):
        full = 1 if high <= 1 else 255
    elif full is None:
        full = 255 if arrays and high <= 255 and values.dtype != np.uint16 else 65535
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= full):
        raise ValueError(
            f"expected colours, 0 to 255, 0 to 65,535, or floats of 0 to 1, got values from {low:g} to {high:g} in "
            f"{kind}: convert the picture to 8 bits"
        )
    result = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, _STRIP * len(values) // values.size)
    for start in range(0, len(values), rows):
        strip = values[start : start + rows].astype(np.float32)
        result[start : start + rows] = np.rint(strip * np.float32(255 / full))
    return result


__all__ = ["to_eight_bits", "to_rgb", "to_rgba"]
