"""A PIL image of whatever a caller has for a picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch

from decodetr.utils.download import is_url, open_url
from decodetr.utils.images import open_image

if TYPE_CHECKING:
    from typing import TypeAlias

    Picture: TypeAlias = str | os.PathLike[str] | PIL.Image.Image | np.ndarray | torch.Tensor


def as_picture(picture: Picture, allow_urls: bool = False) -> PIL.Image.Image:
    """A PIL image of a file, an array (H, W, 3), (H, W, 1) or (H, W) of RGB or grey values, or a tensor (3, H, W),
    (1, H, W) or (H, W), of uint8 or floats of 0 to 1. A PIL image is itself.

    Args:
        allow_urls (bool): also fetch http(s):// addresses.

    Raises:
        FileNotFoundError: no such file. ValueError: something else, or a picture without a pixel.
    """
    if isinstance(picture, str | os.PathLike):
        if not is_url(picture):
            return open_image(os.fspath(picture))
        if not allow_urls:
            raise ValueError(f"{picture}: pictures are fetched only with allow_urls=True of decodetr.detect")
        return open_url(str(picture))
    if isinstance(picture, PIL.Image.Image):
        if not picture.width or not picture.height:
            raise _unexpected(f"an image of {picture.width} x {picture.height} pixels")
        return picture
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().numpy()
        picture = np.moveaxis(picture, 0, -1) if picture.ndim == 3 else picture
    if not isinstance(picture, np.ndarray):
        raise _unexpected(type(picture).__name__)
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)) or not picture.size:
        raise _unexpected(f"an array of shape {picture.shape}")
    picture = picture[..., 0] if picture.shape[2:] == (1,) else picture
    if picture.dtype != np.uint8:
        if picture.dtype.kind != "f" or not (0 <= picture.min() and picture.max() <= 1):
            raise ValueError(
                f"expected an array of uint8, or of floats from 0 to 1, got {picture.dtype} from {picture.min()} to "
                f"{picture.max()}; convert it"
            )
        picture = (picture * 255).round().astype(np.uint8)
    return PIL.Image.fromarray(np.ascontiguousarray(picture))


def _unexpected(given):
    return ValueError(
        "expected a picture with at least one pixel: a file, a PIL image, an array (H, W, 3) of RGB or a tensor "
        f"(3, H, W), got {given}"
    )
