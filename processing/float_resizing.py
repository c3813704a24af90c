"""Pictures resized in floats, as torch's `interpolate` does it, with numpy and Pillow alone.

Pillow rounds 8-bit pictures to 8 bits, and always smooths them as it shrinks them (antialiasing). RF-DETR has learned
from pictures that are neither rounded nor smoothed. Of two pixels that are equally near, Pillow takes the other one
than torch. This file is copied to the Hub with the image processors, so it imports only PIL and numpy.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_CUBIC = np.float32(-0.75)  # what torch's cubic has without antialiasing. With it, it has Pillow's -0.5


def is_pillows(resample: int, antialias: bool) -> bool:
    """Whether Pillow resizes 8-bit pictures so, as torchvision does but for one step of 255 in few of the values."""
    return antialias and resample != Image.Resampling.NEAREST


def resize_floats(
    pixels: np.ndarray,
    size: tuple[int, int],
    resample: int = Image.Resampling.BILINEAR,
    antialias: bool = True,
    factor: float = 1.0,
) -> np.ndarray:
    """
    Args:
        pixels (C, H, W), of any type. size: (height, width) of the result.
        resample (int), antialias (bool): see [`DeCoDetrImageProcessor`].
        factor (float): every value is multiplied by it before anything else, in float32.

    Returns:
        (C, height, width) float32, but for rounding what `interpolate` gives of the multiplied values.
    """
    times = np.float32(factor)
    if resample not in _TAPS or is_pillows(resample, antialias):
        channels = (Image.fromarray(channel.astype(np.float32) * times) for channel in pixels)
        return np.stack([np.asarray(channel.resize(size[::-1], resample)) for channel in channels])
    rows, columns = (_taps(*sides, resample) for sides in zip(pixels.shape[1:], size))
    result = np.zeros((len(pixels), *size), dtype=np.float32)
    for row, down in rows:
        read = pixels[:, row]  # few of the rows, so that a large picture is never floats as a whole
        line = sum((read[:, :, column].astype(np.float32) * times) * across for column, across in columns)
        result += line * down[:, None]
    return result


def resize_eight_bits(pixels: np.ndarray, size: tuple[int, int], resample: int, antialias: bool) -> np.ndarray:
    """As [`resize_floats`], of uint8 (C, H, W) to uint8: rounded after the rows and again after the columns, as
    torchvision rounds."""
    for part in ((pixels.shape[1], size[1]), size):
        pixels = np.rint(resize_floats(pixels, part, resample, antialias)).clip(0, 255).astype(np.uint8)
    return pixels


_TAPS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def _taps(length, wanted, resample):
    """[(place, weight)] of the 1, 2 or 4 pixels that each of the `wanted` new pixels of a side of `length` is made of,
    (wanted,) each, in float32 as torch computes them."""
    one, half = np.float32(1), np.float32(0.5)
    centre = np.float32(length) / np.float32(wanted) * (np.arange(wanted, dtype=np.float32) + half)
    if resample == Image.Resampling.NEAREST:
        return [(np.minimum(centre.astype(int), length - 1), np.ones_like(centre))]
    place = centre - half
    if resample == Image.Resampling.BILINEAR:
        place = np.maximum(place, np.float32(0))
    first = np.floor(place)
    part = place - first
    if resample == Image.Resampling.BICUBIC:
        steps = (-1, 0, 1, 2)
        weights = [_far(part + one), _near(part), _near(one - part), _far(np.float32(2) - part)]
    else:
        steps, weights = (0, 1), [one - part, part]
    return [(np.clip(first.astype(int) + step, 0, length - 1), weight) for step, weight in zip(steps, weights)]


def _near(x):
    """The weight of a pixel less than 1 away."""
    return ((_CUBIC + np.float32(2)) * x - (_CUBIC + np.float32(3))) * x * x + np.float32(1)


def _far(x):
    """The weight of a pixel 1 to 2 away."""
    return ((_CUBIC * x - np.float32(5) * _CUBIC) * x + np.float32(8) * _CUBIC) * x - np.float32(4) * _CUBIC


__all__ = ["is_pillows", "resize_eight_bits", "resize_floats"]
