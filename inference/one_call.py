"""`decodetr.detect`: pictures of any kind in, `supervision.Detections` out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
from transformers import AutoImageProcessor

from decodetr.inference.any_picture import as_picture
from decodetr.inference.candidates import CandidateLabels
from decodetr.inference.detection import detect_labels
from decodetr.inference.loading import bare_model, load_model
from decodetr.inference.shown import above, to_supervision
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.origin import Origin
from decodetr.modeling_decodetr.safe_loading import load_safely
from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
from decodetr.runtime.exported_detector import check_asked
from decodetr.utils.download import is_url
from decodetr.utils.files import folder_state
from decodetr.utils.images import in_batches, pixel_count
from decodetr.utils.quiet_supervision import sv
from decodetr.utils.shipped import resolve

if TYPE_CHECKING:
    import torch

    from decodetr.inference.any_picture import Picture
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

_CANDIDATES = CandidateLabels()  # keeps what was embedded of late


def detect(
    model: str | os.PathLike[str] | torch.nn.Module,
    images: Picture | Sequence[Picture],
    names: Sequence[str] | None = None,
    threshold: float | None = None,
    *,
    top_k: int = 100,
    batch_size: int = 4,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil | None = None,
    device: str | torch.device = "auto",
    allow_urls: bool = False,
) -> sv.Detections | list[sv.Detections]:
    """
    Detect in one picture or in several.

    Args:
        model: folder, Hub name or shipped name of a DeCo-DETR, which stays loaded, or a loaded model, also inside of
            PEFT, data parallel or `torch.compile`, whose compiled code is not used. One in training detects in
            evaluation mode and stays as it was.
        images: a picture, or a list or tuple of them: a file, a PIL image, an array (H, W, 3) or (H, W) of RGB or grey
            values, or a tensor (3, H, W) or (1, H, W).
        names (list[str], *optional*): look for these alone, in this call alone. Names that the model lacks are
            embedded by the text model that it records. Default: all names of the model.
        threshold (float, *optional*): only scores above it, 0 to 1. Default: that of the model, for each name.
        top_k (int): at most so many detections of a picture.
        batch_size (int): pictures at once.
        image_processor (*optional*): of a loaded model. Default: that of where it was loaded from.
        device: for a model that is loaded here: auto, cpu, cuda, ...
        allow_urls (bool): also fetch http(s):// addresses.

    Returns:
        `supervision.Detections`, or a list of them for a list of pictures. `xyxy` in pixels of the upright picture,
        `confidence` 0 to 1, best first, `class_id` the row of `names` (or of the model's names), and
        `data["class_name"]`.

    Raises:
        FileNotFoundError: no such model or picture. ValueError: a picture that cannot be read, an address without
            `allow_urls`, a threshold, top_k or batch_size that cannot be meant, names without embedding, or a model
            of another kind. OSError: the folder of a loaded model has no image processor.
    """
    pictures = list(images) if isinstance(images, list | tuple) else [images]
    check_asked(pictures, threshold, top_k, batch_size)
    given = bare_model(model)
    if isinstance(given, DeCoDetrForObjectDetection):
        detector, processor = given, image_processor or processor_of(given)
    else:
        detector, loaded = _loaded(str(given), folder_state(resolve(str(given))), str(device))
        processor = image_processor or loaded
    tables = detector.tables()
    stands_for = None
    if names is not None:
        vocabulary, stands_for = _CANDIDATES.vocabulary(tables.vocabulary, names)
        tables = detector.semantic_stream.tables_with(tables, vocabulary)
    found = []
    for batch in in_batches(pictures, batch_size, _pixels):
        opened = [as_picture(picture, allow_urls) for picture in batch]
        for result in detect_labels(detector, processor, opened, threshold, top_k, tables=tables):
            meant = None if stands_for is None else [stands_for[label] for label in result["labels"]]
            found.append(to_supervision(above(result, detector.config, threshold, meant)))
    return found if isinstance(images, list | tuple) else found[0]


def processor_of(model: DeCoDetrForObjectDetection) -> DeCoDetrImageProcessor | DeCoDetrImageProcessorPil:
    """The image processor of a loaded model: of the folder, or the revision of a repository, that it is from, else
    what its detector came with.

    Raises:
        OSError: there is none, or no longer.
    """
    origin = model.origin or (Origin.of(model.name_or_path, {}) if model.name_or_path else None)
    if origin is None:
        return DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    try:
        return load_safely(AutoImageProcessor, origin.where, **origin.hub)
    except OSError as error:
        raise OSError(
            f"{error}\nThe model was loaded from there; give image_processor=, which loads without the model too"
        ) from error


@lru_cache(maxsize=2)
def _loaded(model, state, device):
    return load_model(model, device=device)


def _pixels(picture):
    if isinstance(picture, str | os.PathLike):
        return 0 if is_url(picture) else pixel_count(os.fspath(picture))
    return picture.width * picture.height if isinstance(picture, PIL.Image.Image) else np.prod(np.shape(picture)[:2])
