"""The image encoder of a CLIP-like model, used offline to embed example images of names, never to detect.

Examples are cut out as the regions of a pool are, so that the means that were measured there hold for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from .safe_loading import load_safely
from .text_encoder import load_text_model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import BatchFeature, PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

Picture = Image.Image | np.ndarray
Example = Picture | tuple[Picture, Sequence[float]]

# What `convert` makes RGB without clipping. Others, of 16 bits and floats, are scaled where files are opened.
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def load_image_model(
    name_or_path: str | Path, revision: str | None = None, token: str | bool | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """A CLIP-like model (with `get_image_features`) in evaluation mode, and its image processor.

    Raises:
        ValueError: the model has no text or no image features of CLIP's kind.
    """
    model, _ = load_text_model(name_or_path, revision=revision, token=token)
    check_image_model(model, name_or_path)
    return model, load_safely(AutoImageProcessor, str(name_or_path), revision=revision, token=token)


def check_image_model(model: PreTrainedModel, name: str | Path) -> None:
    """ValueError unless a model has image features of CLIP's kind."""
    if not hasattr(model, "get_image_features"):
        raise ValueError(
            f"{name} holds a {type(model).__name__}, expected a model with image features such as CLIPModel"
        )


def encode_examples(
    examples: Mapping[str, Sequence[Example]],
    model: PreTrainedModel,
    image_processor: BaseImageProcessor,
    batch_size: int = 32,
    progress: bool = False,
) -> list[torch.Tensor]:
    """Unit embeddings of the examples of each name, float32 on the CPU: K tensors (n_k, d).

    Args: see `Vocabulary.from_images`.

    Raises:
        ValueError: a name without examples, or what is no picture or no box. The message has the name and the place.
    """
    check_image_model(model, type(model).__name__)
    size = processor_size(image_processor)
    if size is None:
        raise ValueError(f"expected an image processor that makes squares, got {type(image_processor).__name__}")
    crops, counts = [], []
    for name, images in examples.items():
        if isinstance(images, Image.Image | np.ndarray | str) or not isinstance(images, Sequence) or not len(images):
            raise ValueError(f"the examples of {name!r} must be a list of images, got {type(images).__name__}.")
        for place, example in enumerate(images):
            try:
                crops.append(_crop(example, size))
            except (TypeError, ValueError) as error:
                raise ValueError(f"example {place} of {name!r}: {error}") from error
        counts.append(len(images))
    parts = []
    for start in tqdm(range(0, len(crops), batch_size), desc="examples", unit="batch", disable=not progress):
        inputs = prepare_crops(crops[start : start + batch_size], image_processor)
        with torch.inference_mode():
            features = model.get_image_features(**inputs.to(model.device)).pooler_output
        parts.append(F.normalize(features.float(), dim=-1).cpu())
    return list(torch.cat(parts).split(counts))


def prepare_crops(crops: list[Image.Image], image_processor: BaseImageProcessor) -> BatchFeature:
    """The image tower's inputs for a batch of square crops, on the CPU."""
    # The crops have their size already: some CLIPs resize to more than they crop, which would cut their edges.
    return image_processor(images=crops, do_resize=False, do_center_crop=False, return_tensors="pt")


def _crop(example, size):
    """The RGB square of an image, or of an (image, box)."""
    with_box = isinstance(example, tuple | list)
    image, box = example if with_box else (example, None)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected a uint8 array (H, W, 3) in RGB, got {image.dtype} {image.shape}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"expected a PIL image or an array, or one with a box, got {type(image).__name__}")
    if image.mode not in _EIGHT_BITS:
        raise ValueError(
            f"expected a picture of 8 bits, got mode {image.mode}; decodetr.utils.images.open_image scales such files"
        )
    box = (0, 0, image.width, image.height) if box is None else box
    return square(image.convert("RGB"), pixel_box(image, box), size)


def square(image: Image.Image, pixels: tuple[int, int, int, int], size: int) -> Image.Image:
    """Whole pixels (left, top, right, bottom) of an RGB image, resized to a square without their aspect ratio."""
    return image.resize((size, size), Image.Resampling.BICUBIC, box=pixels)


def pixel_box(image: Image.Image, box: Sequence[float], context: float = 0.0) -> tuple[int, int, int, int]:
    """A box x0, y0, x1, y1 in pixels as whole pixels (left, top, right, bottom): enlarged by a share `context` of its
    width and height on each side, rounded outward, clipped to the image.

    Raises:
        ValueError: it has no pixel in the image.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    more = ((x1 - x0) * context, (y1 - y0) * context)
    left, top = max(math.floor(x0 - more[0]), 0), max(math.floor(y0 - more[1]), 0)
    right, bottom = min(math.ceil(x1 + more[0]), image.width), min(math.ceil(y1 + more[1]), image.height)
    if left >= right or top >= bottom:
        raise ValueError(f"box {[x0, y0, x1, y1]} has no pixel in the image of {image.width} x {image.height}.")
    return left, top, right, bottom


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
