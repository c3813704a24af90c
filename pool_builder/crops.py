"""Crops of regions as CLIP and the captioner see them (paper 1.2 and 1.3).

A crop is resized to a square and gives up its aspect ratio, so that the centre crop of CLIP's processor cuts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from decodetr.processing.picture_modes import to_rgb

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

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
    x0, y0, x1, y1 = (float(value) for value in box)
    more = ((x1 - x0) * context, (y1 - y0) * context)
    left, top = max(math.floor(x0 - more[0]), 0), max(math.floor(y0 - more[1]), 0)
    right, bottom = min(math.ceil(x1 + more[0]), image.width), min(math.ceil(y1 + more[1]), image.height)
    if left >= right or top >= bottom:
        raise ValueError(f"box {[x0, y0, x1, y1]} has no pixel in the image of {image.width} x {image.height}.")
    image = image if image.mode == "RGB" else to_rgb(image)
    if size is not None:
        return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    crop = image.crop((left, top, right, bottom))
    crop.thumbnail((_MOST, _MOST))
    return crop


def processor_size(image_processor: BaseImageProcessor) -> int | None:
    """Side in pixels of the square that an image processor of CLIP's kind makes of a picture. None for one that tiles
    a picture or keeps its shape (LLaVA-NeXT, Qwen2.5-VL).

    Raises:
        ValueError: it makes rectangles that are no squares.
    """
    if getattr(image_processor, "image_grid_pinpoints", None) or hasattr(image_processor, "merge_size"):
        return None
    crop = getattr(image_processor, "crop_size", None)
    size = crop if crop and getattr(image_processor, "do_center_crop", True) else image_processor.size
    sides = {size.get("height"), size.get("width")}
    if sides == {None}:
        sides = {size.get("shortest_edge")}
    (side, *others) = sides
    if others or side is None:
        raise ValueError(
            f"expected an image processor that makes squares, got {type(image_processor).__name__} with size "
            f"{dict(size)}; teachers must be of CLIP's and LLaVA 1.5's kind"
        )
    return int(side)
