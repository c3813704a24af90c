"""Pictures to pixel_values, as the image processor of the model makes them, without torch.

Pillow's resizing and torchvision's, the default backend of the image processor, agree but for a few values in a
thousand, which are off by one of 255 (docs/export.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image

from decodetr.processing.float_resizing import is_pillows, resize_eight_bits, resize_floats
from decodetr.processing.picture_modes import to_rgb

FIELDS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
STEPS = {"antialias": True, "rescale_first": False}  # fields that an older export.json lacks: what it meant


class Preprocessing:
    """
    Args:
        fields (dict): those of `FIELDS` and `STEPS`, as the image processor has them. `size` is {"height", "width"},
            {"shortest_edge", "longest_edge"} or {"max_height", "max_width"}.

    Raises:
        ValueError: a field is missing, or cannot be used.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        if missing := [name for name in FIELDS if name not in fields]:
            raise ValueError(f"preprocessing: {', '.join(missing)} missing; export the model again")
        self.size = dict(fields["size"] or {}) if fields["do_resize"] else None
        self.resample = PIL.Image.Resampling(fields["resample"])
        if self.size is not None and not any(set(rule) <= set(self.size) for rule in _RULES):
            raise ValueError(f"preprocessing: expected a size by {' or '.join(map(str, _RULES))}, got {self.size}")
        steps = {name: fields.get(name, usual) for name, usual in STEPS.items()}
        self.antialias = steps["antialias"]
        self.factor = fields["rescale_factor"] if fields["do_rescale"] else 1.0
        self.in_floats = steps["rescale_first"] and bool(fields["do_rescale"])
        self.normalise = None
        if fields["do_normalize"]:
            mean, std = (np.array(fields[name], dtype=np.float32) for name in ("image_mean", "image_std"))
            self.normalise = np.broadcast_to(mean, 3)[:, None], np.broadcast_to(std, 3)[:, None]
        # (3, 256) float32: what each of the 256 values of a channel becomes.
        values = np.arange(256, dtype=np.float32)[None]
        if self.normalise:
            scale = np.float32(1.0 / self.factor)
            mean, std = self.normalise
            values = (values - mean * scale) / (std * scale)
        else:
            values = values * np.float32(self.factor)
        self.table = np.ascontiguousarray(np.broadcast_to(values, (3, 256)))

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture of this height and width is resized to."""
        size = self.size
        if size is None:
            return height, width
        if "height" in size:
            return size["height"], size["width"]
        if "max_height" in size:
            factor = min(size["max_height"] / height, size["max_width"] / width)
            return int(height * factor), int(width * factor)
        return _shortest_edge(height, width, size["shortest_edge"], size["longest_edge"])

    def __call__(self, image: PIL.Image.Image) -> np.ndarray:
        """pixel_values (3, H, W) float32 of a PIL image of any mode."""
        return self.values(self.resized(image))

    def resized(self, image: PIL.Image.Image) -> np.ndarray:
        """A PIL image of any mode in RGB, at its target size: (H, W, 3), uint8, or float32 in 0 to 1 where pictures
        are rescaled before they are resized."""
        image = to_rgb(image)
        size = self.target_size(image.height, image.width)
        same = (image.height, image.width) == size
        if not same and not self.in_floats and is_pillows(self.resample, self.antialias):
            image, same = image.resize(size[::-1], self.resample), True
        pixels = np.asarray(image)
        if same:
            return pixels
        how = pixels.transpose(2, 0, 1), size, self.resample, self.antialias
        made = resize_floats(*how, self.factor) if self.in_floats else resize_eight_bits(*how)
        return made.transpose(1, 2, 0)

    def values(self, resized: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """pixel_values (3, H, W) float32 of what `resized` gives, written into `out` if it is given."""
        result = np.empty((3, *resized.shape[:2]), dtype=np.float32) if out is None else out
        for channel in range(3):
            if resized.dtype == np.uint8:
                np.take(self.table[channel], resized[..., channel], out=result[channel], mode="clip")
                continue
            result[channel] = resized[..., channel]
            if self.normalise:
                mean, std = self.normalise
                result[channel] = (result[channel] - mean[channel]) / std[channel]
        return result


_RULES = (("height", "width"), ("shortest_edge", "longest_edge"), ("max_height", "max_width"))


def _shortest_edge(height, width, shortest, longest):
    """The rule of the library (`get_size_with_aspect_ratio`): the short side as asked, unless the long one would be
    too long."""
    low, high = float(min(height, width)), float(max(height, width))
    raw = None
    if high / low * shortest > longest:
        raw = longest * low / high
        shortest = int(round(raw))
    if min(height, width) == shortest:
        return height, width
    if width < height:
        return int(raw * height / width) if raw is not None else int(shortest * height / width), shortest
    return shortest, int(raw * width / height) if raw is not None else int(shortest * width / height)
