"""Crops of regions as CLIP and the captioner see them (paper 1.2 and 1.3).

A crop is resized to a square and gives up its aspect ratio, so that the centre crop of CLIP's processor cuts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decodetr.modeling_decodetr.image_encoder import pixel_box, processor_size, square
from decodetr.processing.picture_modes import to_rgb

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["crop_region", "processor_size"]

_MOST = 2048  # pixels a side of a crop that keeps its shape: captioners take no more, and many are held at once


def crop_region(
    image: Image.Image, box: Sequence[float], size: int | None = None, context: float = 0.0
) -> Image.Image:
    """The part of a picture inside a box.

    Args:
        image: PIL image.
        box: x0, y0, x1, y1 in pixels. Rounded outward to whole pixels and clipped to the image.
        size (`int`, *optional*): the crop becomes a square of that side. By default it keeps its shape, and its size
            up to 2,048 pixels a side.
        context (`float`): enlarge the box by this share of its width and height on each side.

    Returns:
        PIL RGB image.

    Raises:
        ValueError: the box has no pixel in the image.
    """
    pixels = pixel_box(image, box, context)
    image = image if image.mode == "RGB" else to_rgb(image)
    if size is not None:
        return square(image, pixels, size)
    crop = image.crop(pixels)
    crop.thumbnail((_MOST, _MOST))
    return crop
