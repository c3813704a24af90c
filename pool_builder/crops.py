"""Crops of regions as CLIP and the captioner see them (PAPER.md 1.2 and 1.3).

A crop is resized to a square and gives up its aspect ratio, so that the centre crop of CLIP's processor cuts nothing.
"""

import math


def crop_region(image, box, size):
    """The part of a picture inside a box, as a square.

    Args:
        image: PIL image.
        box: x0, y0, x1, y1 in pixels; rounded outward to whole pixels and clipped to the image.
        size (`int`): side of the crop in pixels.

    Returns:
        PIL RGB image of size x size.

    Raises:
        ValueError: the box has no pixel in the image.
    """
    from PIL import Image

    x0, y0, x1, y1 = (float(value) for value in box)
    corners = (max(math.floor(x0), 0), max(math.floor(y0), 0), min(math.ceil(x1), image.width))
    corners = (*corners, min(math.ceil(y1), image.height))
    if corners[0] >= corners[2] or corners[1] >= corners[3]:
        raise ValueError(f"box {[x0, y0, x1, y1]} has no pixel in the image of {image.width} x {image.height}.")
    return image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=corners)


def processor_size(image_processor) -> int:
    """Side in pixels of the square that an image processor of CLIP's kind makes of a picture.

    Raises:
        ValueError: it makes no squares.
    """
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
