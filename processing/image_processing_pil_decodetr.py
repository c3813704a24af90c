"""The image processor on the PIL backend, and what both backends share.

The library's RT-DETR image processor does the work. Different here:
- defaults: a fixed 640 x 640 without padding (some detector families ignore `pixel_mask`), ImageNet mean and std, RGB;
- boxes of padded images stay relative to the image, not to the padded canvas. That is what the families that honour
  `pixel_mask` predict (their positions and reference points are normalised by the mask), and what makes
  `post_process_object_detection(target_sizes=original sizes)` right whatever the image was batched with;
- the score of a (query, name) pair is final, so post-processing keeps the best pairs over queries x names;
- pictures of 16 bits and floats are scaled, not clipped, and transparency is dropped, as of pictures in files;
- `antialias` and `rescale_first`, by which RF-DETR's own image processor differs from those of the other families.

This file is copied to the Hub with the modeling files, so it imports only transformers, torch and siblings.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import center_to_corners_format, get_size_with_aspect_ratio
from transformers.image_utils import SizeDict, get_image_size_for_max_height_width
from transformers.models.rt_detr.image_processing_pil_rt_detr import (
    RTDetrImageProcessorKwargs,
    RTDetrImageProcessorPil,
)

from .float_resizing import is_pillows, resize_eight_bits, resize_floats
from .picture_modes import to_eight_bits, to_rgb

_MAX_PIXELS = 1 << 26  # of a resized picture. As many as are read of one
_BLOCK = 128  # pairs whose greatest logit decides whether they are looked at


class DeCoDetrImageProcessorKwargs(RTDetrImageProcessorKwargs, total=False):  # type: ignore[call-arg]
    r"""
    antialias (`bool`, *optional*, defaults to `True`):
        Whether shrinking looks at all pixels of the image, or, where false, at the next ones alone.
    rescale_first (`bool`, *optional*, defaults to `False`):
        Whether images are rescaled before they are resized, and so resized in floats instead of rounded to 8 bits.
    """

    antialias: bool
    rescale_first: bool


class DeCoDetrProcessingMixin(BaseImageProcessor):
    """Defaults, padding rule and post-processing of both backends; comes before the library's class in the bases."""

    valid_kwargs = DeCoDetrImageProcessorKwargs
    do_normalize = True
    do_convert_rgb = True
    antialias = True
    rescale_first = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sides = [side for side in dict(self.size or {}).values() if side is not None]
        if self.do_resize and sides and not 0 < min(sides) <= max(sides) <= _MAX_PIXELS / min(sides):
            raise ValueError(
                f"the image processor's size: expected sides above 0 and at most {_MAX_PIXELS:,} pixels, got "
                f"{dict(self.size)}; correct `size`, of preprocessor_config.json if it is a folder's"
            )

    def process_image(
        self, image: Image.Image | np.ndarray | torch.Tensor, do_convert_rgb: bool | None = None, **kwargs: Any
    ) -> np.ndarray | torch.Tensor:
        """One picture in the backend's form. What the library clips or misreads is scaled to 8 bits first, unless the
        caller has turned off the step that it is for.

        Raises:
            ValueError: values that are no colours.
        """
        factor = kwargs.get("rescale_factor") or self.rescale_factor
        if isinstance(image, Image.Image):
            if do_convert_rgb:
                image, kwargs["input_data_format"] = np.array(to_rgb(image)), "channels_last"
        elif kwargs.get("do_rescale", self.do_rescale) and math.isclose(factor, 1 / 255):
            image = to_eight_bits(image)
        return super().process_image(image, do_convert_rgb=do_convert_rgb, **kwargs)

    def _preprocess(
        self,
        images: list,
        *args: Any,
        do_rescale: bool,
        rescale_factor: float,
        antialias: bool,
        rescale_first: bool,
        **kwargs: Any,
    ) -> BatchFeature:
        if antialias != self.antialias:  # of this call alone: `resize`, which the library calls, reads the attribute
            other = copy.copy(self)
            other.antialias = antialias
            return other._preprocess(
                images,
                *args,
                do_rescale=do_rescale,
                rescale_factor=rescale_factor,
                antialias=antialias,
                rescale_first=rescale_first,
                **kwargs,
            )
        if rescale_first and do_rescale:
            images, do_rescale = [self.rescale(image, rescale_factor) for image in images], False
        return super()._preprocess(images, *args, do_rescale=do_rescale, rescale_factor=rescale_factor, **kwargs)

    def _update_annotation_for_padded_image(
        self, annotation, input_image_size, output_image_size, padding, update_bboxes
    ):
        """Padding (bottom, right) changes neither pixel boxes nor boxes relative to the image."""
        return super()._update_annotation_for_padded_image(
            annotation, input_image_size, output_image_size, padding, update_bboxes=False
        )

    def post_process_object_detection(
        self,
        outputs: object,
        threshold: float | Sequence[float] = 0.5,
        target_sizes: torch.Tensor | Sequence[Sequence[float]] | None = None,
        top_k: int = 100,
    ) -> list[dict[str, torch.Tensor]]:
        """
        Detections of each image, best first.

        Args:
            outputs: the model's outputs, or any mapping or object with `logits` (B, N, K), any float dtype, whose
                sigmoid is the final score, and `pred_boxes` (B, N, 4), (cx, cy, w, h) in 0..1 of the image.
            threshold (float or K floats): only scores above it are returned. K of them are one for each name, as
                `model.config.thresholds()` gives those that are saved with the model. Pipelines pass them on.
            target_sizes: (B, 2) tensor or list of (height, width) in pixels. None leaves boxes in 0..1.
            top_k (int): at most so many (query, name) pairs per image, chosen before the threshold. A query can
                appear with several names. Pairs with a logit of -inf are never returned.

        Returns:
            list of B dicts: `scores` (n,) float32 descending, `labels` (n,) int64 (index of the name), `boxes` (n, 4)
            float32 (x0, y0, x1, y1), in pixels if `target_sizes` is given. Not clipped to the image.

        Raises:
            ValueError: on shapes that don't fit, `top_k` below 1, thresholds above 1, a number of them that is not
                that of the names, sizes that are not above 0, or scores that are NaN.
        """
        logits, pred_boxes = _output(outputs, "logits"), _output(outputs, "pred_boxes")
        if logits.ndim != 3 or pred_boxes.shape != (*logits.shape[:2], 4):
            raise ValueError(
                f"logits must be (B, N, K) and pred_boxes (B, N, 4), got {tuple(logits.shape)} and "
                f"{tuple(pred_boxes.shape)}; pass the outputs of one forward pass unchanged"
            )
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        batch_size, _, num_names = logits.shape
        least = _thresholds(threshold, num_names).to(logits.device)

        # The sigmoid rises with the logit, so the best pairs are chosen on the logits as they are. Only k are upcast.
        top_logits, query_index, labels = top_pairs(logits, top_k)  # (B, k)
        scores = top_logits.float().sigmoid()
        if scores.isnan().any():
            raise ValueError(
                "scores are NaN; the logits of the model overflowed or its weights are broken: run it in float32 or "
                "bfloat16, and check the checkpoint for non-finite weights"
            )
        boxes = center_to_corners_format(pred_boxes.float())
        boxes = boxes.gather(1, query_index[..., None].expand(-1, -1, 4))  # (B, k, 4)

        if target_sizes is not None:
            sizes = _sizes(target_sizes, batch_size, boxes.device)
            boxes = boxes * sizes.flip(1).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
        # -inf: of queries that the semantic stream did not read (`semantic_queries`). No threshold shows them.
        keep = (scores > (least if least.ndim == 0 else least[labels])) & (top_logits != -math.inf)
        return [
            {"scores": scores[i][keep[i]], "labels": labels[i][keep[i]], "boxes": boxes[i][keep[i]]}
            for i in range(batch_size)
        ]

    def post_process_grounded_object_detection(
        self,
        outputs: object,
        threshold: float = 0.3,
        target_sizes: torch.Tensor | Sequence[Sequence[float]] | None = None,
        text_labels: Sequence[Sequence[str]] | None = None,
        top_k: int = 100,
    ) -> list[dict[str, Any]]:
        """
        Detections of each image with their names, as the processors of OWLv2 and Grounding DINO give them.

        Args:
            outputs, threshold, target_sizes, top_k: as of `post_process_object_detection`.
            text_labels (`list[list[str]]`): for each image the K names that were scored, in their order, such as
                `[model.vocabulary.names] * B`. None: no names.

        Returns:
            list of B dicts: `scores`, `labels` and `boxes` of `post_process_object_detection`, and `text_labels`, n
            names or None.

        Raises:
            ValueError: as `post_process_object_detection`, and on names that do not fit the logits.
        """
        batch_size, _, num_names = _output(outputs, "logits").shape
        if text_labels is not None and (
            len(text_labels) != batch_size
            or any(isinstance(names, str) or len(names) != num_names for names in text_labels)
        ):
            got = [names if isinstance(names, str) else len(names) for names in text_labels]
            raise ValueError(
                f"text_labels must have {num_names} names for each of the {batch_size} images, got {got}; give "
                "[model.vocabulary.names] * B, or the names that were scored"
            )
        results = self.post_process_object_detection(outputs, threshold, target_sizes, top_k)
        for i, result in enumerate(results):
            labels = result["labels"].tolist()
            result["text_labels"] = None if text_labels is None else [text_labels[i][label] for label in labels]
        return results


def top_pairs(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The (query, name) pairs of each image with the greatest logits, greatest first, NaN before all.

    A block of neighbouring pairs can hold one of the k greatest only if its own greatest is among the k greatest of
    blocks. So each logit is read once, and few are sorted: of 300 x 10,000 in a fortieth of the time that topk takes.

    Args:
        logits (B, N, K). top_k (int): k, at least 1. Of equal logits any are taken, as topk does.

    Returns:
        (B, k) each: logits, queries 0 to N - 1 and names 0 to K - 1, int64; k is at most N x K.
    """
    flat, num_names = logits.flatten(1), logits.shape[2]
    blocks = flat.shape[1] // _BLOCK
    top_k = min(top_k, flat.shape[1])
    if blocks <= 2 * top_k:
        values, pairs = flat.topk(top_k, dim=1)
    else:
        whole = blocks * _BLOCK
        chosen = flat[:, :whole].unflatten(1, (blocks, _BLOCK)).amax(-1).topk(top_k, dim=1).indices  # (B, k)
        steps = torch.arange(_BLOCK, device=flat.device)
        rest = torch.arange(whole, flat.shape[1], device=flat.device).expand(len(flat), -1)
        among = torch.cat([(chosen[..., None] * _BLOCK + steps).flatten(1), rest], dim=1)
        values, place = flat.gather(1, among).topk(top_k, dim=1)
        pairs = among.gather(1, place)
    return values, torch.div(pairs, num_names, rounding_mode="floor"), pairs % num_names


def _output(outputs, name):
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if value is None:
        raise ValueError(f"outputs must have {name!r}, got {type(outputs).__name__} without it")
    return value


def _thresholds(threshold, num_names):
    """float32 of shape () or (K,) from a number, or a sequence or tensor of K."""
    try:
        least = torch.as_tensor(threshold, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        least = None
    if least is None or (least.ndim and least.shape != (num_names,)):
        got = repr(threshold) if least is None else tuple(least.shape)
        raise ValueError(f"threshold must be a number, or one for each of the {num_names} names, got {got}")
    if not (least <= 1).all():  # also NaN; below 0, all scores are above it, as with the library's processors
        raise ValueError(f"threshold must be a score, not above 1, got {threshold}")
    return least


def _sizes(target_sizes, batch_size, device):
    """(B, 2) float32 (height, width) from a tensor or a list of pairs."""
    if not isinstance(target_sizes, torch.Tensor):
        try:
            target_sizes = torch.tensor([[float(side) for side in size] for size in target_sizes])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"target_sizes must have one (height, width) for each of the {batch_size} images, got {target_sizes!r}"
            ) from error
    if target_sizes.shape != (batch_size, 2):
        raise ValueError(
            f"target_sizes must have one (height, width) for each of the {batch_size} images, got shape "
            f"{tuple(target_sizes.shape)}"
        )
    if not ((target_sizes > 0) & target_sizes.isfinite()).all():
        raise ValueError(f"target_sizes must be finite and above 0, got {target_sizes.tolist()}")
    return target_sizes.to(device=device, dtype=torch.float32)


class DeCoDetrImageProcessorPil(DeCoDetrProcessingMixin, RTDetrImageProcessorPil):
    """Image processor of DeCo-DETR on PIL and numpy. Same arguments and results as `DeCoDetrImageProcessor`."""

    def resize(self, image: np.ndarray, size: SizeDict, resample: int | None = None, **kwargs: Any) -> np.ndarray:
        """As the library's, or, where Pillow does it otherwise than torchvision, as torchvision."""
        resample = int(self.resample if resample is None else resample)
        if image.dtype == np.uint8 and is_pillows(resample, self.antialias):
            return super().resize(image, size, resample=resample, **kwargs)
        resized = resize_eight_bits if image.dtype == np.uint8 else resize_floats
        return resized(image, _new_size(image.shape[-2:], size), resample, self.antialias)


def _new_size(old, size):
    """(height, width) that the library resizes an image of (height, width) to."""
    if size.shortest_edge and size.longest_edge:
        return get_size_with_aspect_ratio(old, size.shortest_edge, size.longest_edge)
    if size.max_height and size.max_width:
        return get_image_size_for_max_height_width(old, size.max_height, size.max_width)
    return size.height, size.width


DeCoDetrImageProcessorPil.register_for_auto_class("AutoImageProcessor")

__all__ = ["DeCoDetrImageProcessorPil", "DeCoDetrProcessingMixin", "top_pairs"]
