"""Pictures to pixel_values, as the image processor of the model makes them, without torch.

Pillow's resizing and torchvision's, the default backend of the image processor, agree but for a few values in a
thousand, which are off by one of 255 (docs/export.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image

from decodetr.processing.picture_modes import to_rgb

FIELDS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class Preprocessing:
    """
    Args:
        fields (dict): those of `FIELDS`, as the image processor has them. `size` is {"height", "width"},
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
        # (3, 256) float32: what each of the 256 values of a channel becomes.
        values = np.arange(256, dtype=np.float32)[None]
        factor = fields["rescale_factor"] if fields["do_rescale"] else 1.0
        if fields["do_normalize"]:
            scale = np.float32(1.0 / factor)
            mean, std = (np.array(fields[name], dtype=np.float32)[:, None] for name in ("image_mean", "image_std"))
            values = (values - mean * scale) / (std * scale)
        else:
            values = values * np.float32(factor)
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

    def resized(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """A PIL image of any mode in RGB, at its target size."""
        image = to_rgb(image)
        height, width = self.target_size(image.height, image.width)
        return image if image.size == (width, height) else image.resize((width, height), self.resample)

    def values(self, resized: PIL.Image.Image, out: np.ndarray | None = None) -> np.ndarray:
        """pixel_values (3, H, W) float32 of what `resized` gives, written into `out` if it is given."""
        values = np.asarray(resized)
        result = np.empty((3, *values.shape[:2]), dtype=np.float32) if out is None else out
        for channel in range(3):
            np.take(self.table[channel], values[..., channel], out=result[channel], mode="clip")
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
