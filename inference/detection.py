"""Images in, detections out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from decodetr.inference.any_picture import as_picture
from decodetr.inference.explanations import explain_detections
from decodetr.inference.shown import above, least_score, lowest_threshold
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.processing.picture_modes import to_rgb
from decodetr.runtime.exported_detector import check_asked

if TYPE_CHECKING:
    from typing import Any

    from decodetr.inference.any_picture import Picture
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.embedding_space import Tables
    from decodetr.modeling_decodetr.output_decodetr import DeCoDetrObjectDetectionOutput
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil


def forward(
    model: DeCoDetrForObjectDetection, batch: Mapping[str, torch.Tensor], **options: Any
) -> DeCoDetrObjectDetectionOutput:
    """Run a model on prepared images, where it is, in its precision and in evaluation mode. A model in training stays
    as it was.

    Args:
        model (DeCoDetrForObjectDetection).
        batch (mapping): `pixel_values` (B, 3, H, W) and, where the image processor pads, `pixel_mask` (B, H, W), as it
            or `detection_collate` gives them. What else is in it is passed over.
        options: of the model's forward.

    Returns:
        The model's outputs. Gradients are the caller's business.
    """
    inputs = {name: batch[name].to(model.device) for name in ("pixel_values", "pixel_mask") if name in batch}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with evaluating(model):
        return model(**inputs, **options)


def detect(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    images: Iterable[Picture],
    threshold: float | None = None,
    top_k: int = 100,
    explain: int = 0,
    tables: Tables | None = None,
    min_score: float | None = None,
) -> list[dict[str, list]]:
    """Detections of a batch of pictures.

    Args:
        images: a list or other iterable of PIL images of any mode, arrays, tensors or files, see [`as_picture`]. PIL
            images are taken as they are to be seen: their EXIF orientation is not applied. 16-bit and float ones are
            scaled, see [`open_image`].
        threshold (float, *optional*): only scores above it, 0 to 1. Default: what the model's config says, for each
            name.
        top_k (int): at most so many an image, chosen before the threshold.
        tables ([`Tables`], *optional*): what is scored, of this call alone. Default: the model's own.
        min_score (float, *optional*): scores above it must be right, others may be missing. Default: the threshold.
        explain: with k > 0, also what each detection is made of, with the k prototypes that its query looked up most.

    Returns:
        One dict per image, best first: "names" (list of n strings, the vocabulary's own), "scores" (n floats) and
        "boxes" (n lists of x0, y0, x1, y1 in pixels of the image, not clipped to it). With `explain` also the lists
        "objectness", "name_probability" and "prototypes" of `explain_detections`.

    Raises:
        ValueError: no list, something else than pictures, or a threshold or top_k that cannot be meant.
    """
    found = detect_labels(model, image_processor, images, threshold, top_k, explain, tables, min_score)
    shown = [above(result, model.config, threshold) for result in found]
    return [{key: values for key, values in result.items() if key != "labels"} for result in shown]


def detect_labels(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    images: Iterable[Picture],
    threshold: float | None = None,
    top_k: int = 100,
    explain: int = 0,
    tables: Tables | None = None,
    min_score: float | None = None,
) -> list[dict[str, list]]:
    """As [`detect`], with "labels" besides: rows of the names, ints. Separate thresholds of names are the caller's: of
    each name there is all that scores above the lowest one."""
    check_asked(images, threshold, top_k)
    pictures = [to_rgb(as_picture(image)) for image in images]
    batch = image_processor(images=pictures, return_tensors="pt")
    tables = model.tables() if tables is None else tables  # another thread may swap the names meanwhile
    names, least = tables.vocabulary.names, lowest_threshold(model.config, threshold)
    options = {"tables": tables, "min_score": least_score(model.config, threshold) if min_score is None else min_score}
    with torch.inference_mode():
        outputs = forward(model, batch, output_prototype_weights=explain > 0, **options)
    sizes = [(picture.height, picture.width) for picture in pictures]
    results = image_processor.post_process_object_detection(outputs, threshold=least, target_sizes=sizes, top_k=top_k)
    found = []
    for result in results:
        labels = result["labels"].tolist()
        row = {"names": [names[label] for label in labels], "scores": result["scores"].tolist()}
        found.append({**row, "boxes": result["boxes"].tolist(), "labels": labels})
    if explain:
        explained = explain_detections(outputs, tables.pool, least, top_k, explain, model.config)
        found = [{**result, **explanation} for result, explanation in zip(found, explained)]
    return found
