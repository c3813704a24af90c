"""The image processor on the torchvision backend (the default one).

Defaults, padding rule and post-processing are those of image_processing_pil_decodetr.py. The library's RT-DETR image
processor does the rest. This file is copied to the Hub with the modeling files, so it imports only transformers, torch
and siblings.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.rt_detr.image_processing_rt_detr import RTDetrImageProcessor

from .image_processing_pil_decodetr import DeCoDetrProcessingMixin
from .picture_modes import to_rgb


class DeCoDetrImageProcessor(DeCoDetrProcessingMixin, RTDetrImageProcessor):
    """
    Image processor of DeCo-DETR on torchvision.

    The arguments are those of the library's detectors, among them: `size`, `{"height", "width"}` (exact, default
    640 x 640) or `{"shortest_edge", "longest_edge"}` (keeps the aspect ratio); `do_pad` (default False), `pad_size`:
    pads at the bottom and right and adds `pixel_mask` (B, H, W), 1 on the image, for the detector families that
    honour it (not RT-DETR's); `do_rescale`, `do_normalize` with `image_mean` and `image_std`; `resample`, a filter of
    PIL; `antialias` (default True) and `rescale_first` (default False), False and True for images as RF-DETR's own
    image processor makes them: resized in floats, from the next pixels alone.

    `processor(images, annotations=None, return_tensors="pt")` takes annotations as COCO targets,
    `{"image_id": int, "annotations": [{"bbox": [x, y, w, h] pixels, "category_id", "area", "iscrowd"}]}`, and
    gives `pixel_values` (B, 3, H, W) and `labels`, dicts with `class_labels` (n,) and `boxes` (n, 4), (cx, cy, w, h)
    in 0..1 of the image (not of the padded canvas). Images are taken as they are: EXIF orientation is left to
    the caller.
    """

    def process_image(
        self,
        image: Image.Image | np.ndarray | torch.Tensor,
        do_convert_rgb: bool | None = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """One picture as a tensor (3, H, W). That of a PIL image lies in memory as the picture does, because it is
        resized faster so, and to the same values."""
        if not (isinstance(image, Image.Image) and do_convert_rgb):
            return super().process_image(image, do_convert_rgb=do_convert_rgb, device=device, **kwargs)
        pixels = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)
        return pixels if device is None else pixels.to(device)

    def resize(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the library's, with or without smoothing, channel after channel in memory."""
        if image.is_floating_point():  # the same values to the bit as of the library's own tensors
            image = image.contiguous()
        return super().resize(image, *args, antialias=self.antialias, **kwargs).contiguous()


DeCoDetrImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["DeCoDetrImageProcessor"]
