"""Checks of what training is given: everything is a tensor on the images' device, every index is in its table, boxes
are relative to their image, embeddings are numbers, and lists that belong together are equally long.

Without them a negative index takes a row from the end, a missing embedding that of another region, and boxes in pixels
are learned as they are.
"""

from collections.abc import Mapping
from typing import Any

import torch

_INDICES = ("class_labels", "absent_labels")
_BOXES = ("boxes", "region_boxes", "pseudo_boxes", "ignore_boxes")
_EMBEDS = ("region_embeds", "region_text_embeds", "caption_embeds")
_LEAST, _MOST = -1.0, 2.0  # of a relative box: those that reach out of their image pass, pixels do not


@torch.compiler.disable  # one break of the graph instead of one for each look at values
def check_labels(labels: list[dict], pixel_values: torch.Tensor, num_names: int) -> None:
    """ValueError unless `labels`, as in the model's `forward`, fit a batch of images (B, 3, H, W) and a vocabulary of
    so many names."""
    batch = len(pixel_values)
    if not isinstance(labels, list | tuple) or len(labels) != batch:
        got = len(labels) if isinstance(labels, list | tuple) else type(labels).__name__
        raise ValueError(f"labels must hold one dict for each of the {batch} images, got {got}.")
    for i, label in enumerate(labels):
        if not isinstance(label, Mapping):
            raise ValueError(f"labels[{i}] must be a dict, got {type(label).__name__}.")
        for key in (*_INDICES, *_BOXES, *_EMBEDS):
            if key in label:
                _check_tensor(label[key], f"labels[{i}][{key!r}]", pixel_values.device, key not in _INDICES)
        if missing := [key for key in ("class_labels", "boxes") if key not in label]:
            raise ValueError(f"labels[{i}] must have 'class_labels' and 'boxes', {missing[0]!r} is missing.")
        for key in _BOXES:
            if key in label and (label[key].ndim != 2 or label[key].shape[1] != 4):
                raise ValueError(f"labels[{i}][{key!r}] must be (n, 4), got {tuple(label[key].shape)}.")
        for key, other in (("class_labels", "boxes"), ("region_embeds", "region_boxes")):
            rows = len(label[other]) if other in label else 0
            if key in label and len(label[key]) != rows:
                raise ValueError(f"labels[{i}][{key!r}] has {len(label[key])} rows, but {other!r} has {rows}.")
    check_indices([label["class_labels"] for label in labels], num_names, "labels[{}]['class_labels']")
    check_boxes(labels)
    _check_embeds(labels)
    check_absent(labels, num_names)


def _check_tensor(value: Any, what: str, device: torch.device, floats: bool) -> None:
    """ValueError unless a value, of which the error speaks as `what`, is a tensor on a device, of floats if asked."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{what} must be a tensor, got {type(value).__name__}.")
    if value.device != device:
        raise ValueError(f"{what} must be on {device}, as pixel_values are, got {value.device}.")
    if floats and not value.is_floating_point():
        raise ValueError(f"{what} must be floats, got {value.dtype}.")


def boxes_in_float32(labels: list[dict]) -> list[dict]:
    """Labels without boxes in float64, as augmentations often have them: matchers compare boxes of one type."""
    return [
        {key: part.float() if key in _BOXES and part.dtype == torch.float64 else part for key, part in label.items()}
        for label in labels
    ]


def check_boxes(labels: list[dict]) -> None:
    """ValueError unless all boxes are relative to their image, as far as that can be seen: numbers in -1..2. Width and
    height are not negative; boxes without area pass, which data sets leave out."""
    boxes = {(i, key): label[key] for i, label in enumerate(labels) for key in _BOXES if key in label}
    if not boxes or _are_boxes(torch.cat(list(boxes.values()))):
        return
    for (i, key), part in boxes.items():
        if not _within(part, _LEAST, _MOST):
            raise ValueError(
                f"labels[{i}][{key!r}] must be (cx, cy, w, h) in 0..1 of the image, got values from "
                f"{float(part.min()):g} to {float(part.max()):g}. Divide pixels by the image's width (cx, w) and "
                "height (cy, h), or let the model's image processor convert COCO annotations."
            )
        if not _are_boxes(part):
            row = int((part[:, 2:] < 0).any(1).int().argmax())
            raise ValueError(
                f"labels[{i}][{key!r}] must be (cx, cy, w, h), got a negative width or height in row {row}: "
                f"{[round(side, 4) for side in part[row].tolist()]}. Swap the corners of the box that it was made of."
            )


def _are_boxes(boxes):
    """Whether all rows (n, 4) are in range, with a width and a height of at least 0. Looks once."""
    return bool(((boxes >= _LEAST) & (boxes <= _MOST)).all() & (boxes[:, 2:] >= 0).all())


def _check_embeds(labels):
    """ValueError unless all embeddings are finite."""
    embeds = {(i, key): label[key] for i, label in enumerate(labels) for key in _EMBEDS if key in label}
    if not embeds or bool(torch.stack([part.isfinite().all() for part in embeds.values()]).all()):
        return
    for (i, key), part in embeds.items():
        if not part.isfinite().all():
            raise ValueError(f"labels[{i}][{key!r}] has NaN or infinite values; embed these regions or texts again.")


def _within(values, least, most):
    """Whether all are in least..most, and none is NaN. Looks once: each look waits for the accelerator."""
    return not values.numel() or bool(((values >= least) & (values <= most)).all())


def check_cached(features: dict, num_names: int) -> None:
    """ValueError unless features of `extract_semantic_features` fit a vocabulary of so many names."""
    check_indices([features["name_index"]], num_names, "semantic_features['name_index']", lowest=-1)
    absent = features.get("absent")
    if absent is not None and (absent.dtype != torch.bool or absent.shape[1:] != (num_names,)):
        raise ValueError(
            f"semantic_features['absent'] must be bool of shape (B, {num_names}), a column for each name of the "
            f"vocabulary, got {absent.dtype} {tuple(absent.shape)}."
        )


def check_absent(labels: list[dict], num_names: int) -> None:
    """ValueError unless the `absent_labels` of all labels are indices of names."""
    absent = {i: label["absent_labels"] for i, label in enumerate(labels) if "absent_labels" in label}
    check_indices(list(absent.values()), num_names, "labels[{}]['absent_labels']", list(absent))


def check_indices(
    parts: list[torch.Tensor], num_names: int, what: str, number: list[int] | None = None, lowest: int = 0
) -> None:
    """ValueError unless tensors (n,) hold indices into the vocabulary.

    Args:
        parts (`list[torch.Tensor]`): looked at together, because each look waits for the accelerator.
        what (`str`): how the error calls part {}. number (`list[int]`, *optional*): the numbers of the parts.
        lowest (`int`): -1 where "no name" is allowed.
    """
    for i, part in enumerate(parts):
        if part.ndim != 1 or part.dtype != torch.int64:
            name = what.format(number[i] if number else i)
            raise ValueError(f"{name} must be int64 of shape (n,), got {part.dtype} {tuple(part.shape)}.")
    together = torch.cat(parts) if parts else torch.zeros(0)
    if _within(together, lowest, num_names - 1):
        return
    for i, part in enumerate(parts):
        if not _within(part, lowest, num_names - 1):
            raise ValueError(
                f"{what.format(number[i] if number else i)} must index the {num_names} names of the vocabulary, got "
                f"values from {int(part.min())} to {int(part.max())}."
            )
