"""The pipelines of transformers for a DeCo-DETR: `pipeline("object-detection")` and
`pipeline("zero-shot-object-detection")`.

They differ from the library's in this: pictures are those of `decodetr.detect`, of any kind and mixed, and those in
files are opened by `open_image`; the default threshold is that of the model, all candidate labels are scored in one
pass, as names of this call alone, and a model in training detects in evaluation mode and stays as it was.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from transformers.pipelines.base import ChunkPipeline
from transformers.pipelines.object_detection import ObjectDetectionPipeline
from transformers.pipelines.zero_shot_object_detection import ZeroShotObjectDetectionPipeline

from decodetr.inference.any_picture import as_picture
from decodetr.inference.candidates import CandidateLabels
from decodetr.inference.detection import forward
from decodetr.inference.shown import least_score, lowest_threshold
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.processing.picture_modes import to_rgb
from decodetr.runtime.exported_detector import check_threshold
from decodetr.utils.download import is_url, open_url
from decodetr.utils.images import open_image

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from decodetr.inference.any_picture import Picture


def _with_min_score(parameters, threshold):
    """Parameters of the three steps of a pipeline. The model reads the queries that can reach the threshold.

    Raises:
        ValueError: a threshold that is not in 0 to 1.
    """
    before, _, after = parameters
    for one in threshold if isinstance(threshold, list) else [threshold]:
        check_threshold(one)
    return before, {"least": min(threshold) if isinstance(threshold, list) and threshold else threshold}, after


class DeCoDetrDetector(ObjectDetectionPipeline):
    """`pipeline("object-detection")` of a DeCo-DETR. `threshold`: one, or one for each name. Default: the model's."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """As the library's, also for tuples, columns and lists of pictures of several kinds. `args`: a picture, as of
        [`preprocess`], or several."""
        if args and (several := _several(args[0])) is not None:
            args = (several, *args[1:])
            if not several:
                return []
        return super().__call__(*args, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        return _with_min_score(super()._sanitize_parameters(**kwargs), kwargs.get("threshold"))

    def _forward(self, model_inputs: dict[str, Any], least: float | None = None) -> dict[str, Any]:
        with evaluating(self.model):  # the library leaves a model in training mode
            return super()._forward({**model_inputs, "min_score": least_score(self.model.config, least)})

    def preprocess(self, image: Picture, timeout: float | None = None) -> dict[str, Any]:
        """A picture: a file, a URL, base64 text, a PIL image, an array or a tensor, as of [`as_picture`]."""
        return super().preprocess(_picture(image, timeout))

    def postprocess(
        self, model_outputs: dict[str, Any], threshold: float | list[float] | None = None
    ) -> list[dict[str, Any]]:
        """Detections as [{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}], best first."""
        if isinstance(threshold, list):
            return super().postprocess(model_outputs, threshold)
        config = self.model.config
        found = super().postprocess(model_outputs, lowest_threshold(config, threshold))
        least = config.thresholds([row["label"] for row in found], threshold)
        return [row for row, needed in zip(found, least) if row["score"] > needed]


class DeCoDetrZeroShotDetector(ZeroShotObjectDetectionPipeline):
    """
    `pipeline("zero-shot-object-detection")` of a DeCo-DETR.

    Args:
        text_model: folder, Hub name or shipped name of the text model that embeds labels which the model does not
            know. Default: the one that the model records. It is loaded at the first such label.
    """

    _load_tokenizer = False

    def __init__(self, *args: Any, text_model: str | Path | None = None, **kwargs: Any) -> None:
        self._candidates = CandidateLabels(text_model)
        super().__init__(*args, **kwargs)

    def __call__(
        self,
        image: Picture | dict[str, Any] | Sequence[Any],
        candidate_labels: str | Sequence[str] | Sequence[Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """As the library's, also for lists of pictures of several kinds, and for a data set of pictures.

        Args:
            image: a file, a URL, base64 text, a PIL image, an array or a tensor, as of [`as_picture`], a list of
                such, or dicts {"image", "candidate_labels"}.
            candidate_labels: names, or one text of them with commas. Default: the names of the model.
            threshold (float, *optional*): only scores above it. Default: that of the model, for each name.
            top_k (int, *optional*): at most so many detections of an image.

        Returns:
            [{"score", "label" (as given), "box": {"xmin", "ymin", "xmax", "ymax"}}], best first, in a list for a list.

        Raises:
            ValueError: labels that have no embedding and cannot get one, or something else than a picture.
        """
        candidate_labels = kwargs.pop("text_queries", candidate_labels)  # what the library once called them
        pictures = _several(image)
        if pictures == []:
            return []
        if pictures is not None:
            several = [] if candidate_labels is None or isinstance(candidate_labels, str) else list(candidate_labels)
            each = bool(several) and not any(isinstance(labels, str) for labels in several)
            if each and len(several) != len(pictures):
                raise ValueError(
                    f"{len(pictures)} images but {len(several)} lists of candidate_labels; give one for each"
                )
            labels = several if each else [candidate_labels] * len(pictures)
            image = [_with_labels(one, wanted) for one, wanted in zip(pictures, labels)]
            candidate_labels = None
        # Past the library's, which takes fewer kinds, and drops the labels of generators and data sets.
        return ChunkPipeline.__call__(self, image, candidate_labels=candidate_labels, **kwargs)

    def preprocess(
        self,
        inputs: Picture | dict[str, Any],
        timeout: float | None = None,
        candidate_labels: str | Sequence[str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A picture and its labels, as one chunk."""
        inputs = _with_labels(inputs, candidate_labels)
        picture, labels = _picture(inputs["image"], timeout), inputs["candidate_labels"]
        if isinstance(labels, str):
            labels = [label for part in labels.split(",") if (label := part.strip())]
        features = self.image_processor(images=[picture], return_tensors="pt")
        size = torch.tensor([[picture.height, picture.width]])
        yield {"is_last": True, "target_size": size, "candidate_labels": labels, **features}

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict, dict, dict]:
        before, *after = _with_min_score(super()._sanitize_parameters(**kwargs), kwargs.get("threshold"))
        labels = {key: kwargs[key] for key in ("candidate_labels",) if kwargs.get(key) is not None}
        return {**before, **labels}, *after

    def _forward(self, model_inputs: dict[str, Any], least: float | None = None) -> dict[str, Any]:
        """One pass over all labels of the images that have the same ones. The model keeps its names."""
        labels = model_inputs.pop("candidate_labels")
        count = len(model_inputs["pixel_values"])
        batched = isinstance(labels, list) and labels and not isinstance(labels[0], str)
        labels = labels if batched else [labels] * count
        groups: dict[tuple | None, list[int]] = {}
        for row, wanted in enumerate(labels):
            groups.setdefault(None if wanted is None else tuple(wanted), []).append(row)
        tables = self.model.tables()
        found: dict[int, tuple[torch.Tensor, torch.Tensor, list[str], list[str]]] = {}
        for wanted, rows in groups.items():
            chosen, names = tables, tables.vocabulary.names
            if wanted is not None:
                vocabulary, names = self._candidates.vocabulary(tables.vocabulary, wanted)
                chosen = self.model.semantic_stream.tables_with(tables, vocabulary)
            images: dict[str, torch.Tensor] = {
                key: model_inputs[key][rows] for key in ("pixel_values", "pixel_mask") if key in model_inputs
            }
            score = least_score(self.model.config, least)
            outputs: Any = forward(self.model, images, tables=chosen, min_score=score)
            for row, logits, boxes in zip(rows, outputs.logits, outputs.pred_boxes):
                found[row] = logits, boxes, chosen.vocabulary.names, names
        columns = [list(column) for column in zip(*(found[row] for row in range(count)))]
        if len(groups) == 1:  # else images have logits of different widths
            columns[:2] = [torch.stack(column) for column in columns[:2]]
        kept = {key: model_inputs[key] for key in ("is_last", "target_size")}
        return kept | dict(zip((*_TENSORS, *_TEXTS), columns))

    def postprocess(
        self, model_outputs: list[dict[str, Any]], threshold: float | None = None, top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """Detections of one image, best first."""
        (outputs,) = model_outputs
        logits, boxes = (_only(outputs[key], torch.Tensor) for key in _TENSORS)
        labels, names = (outputs[key] if isinstance(outputs[key][0], str) else outputs[key][0] for key in _TEXTS)
        config = self.model.config
        (found,) = self.image_processor.post_process_object_detection(
            {"logits": logits.reshape(1, -1, len(labels)), "pred_boxes": boxes.reshape(1, -1, 4)},
            lowest_threshold(config, threshold),
            outputs["target_size"].reshape(1, 2),
            top_k=top_k or _MOST,
        )
        rows = found["labels"].tolist()
        least = config.thresholds([names[row] for row in rows], threshold)
        return [
            {"score": score, "label": labels[row], "box": self._get_bounding_box(box)}
            for score, row, box, needed in zip(found["scores"].tolist(), rows, found["boxes"], least)
            if score > needed
        ]


_TENSORS, _TEXTS = ("logits", "pred_boxes"), ("labels", "names")
_MOST = 100  # as of post_process_object_detection
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")  # the names of pictures are shorter, or have a suffix


def _only(value, kind):
    """A value, or the only one of a list."""
    return value if isinstance(value, kind) else value[0]


def _several(images):
    """A list of what may be several pictures, or None: one, or what the library goes through by itself."""
    return list(images) if isinstance(images, Sequence) and not isinstance(images, str | bytes) else None


def _with_labels(picture, labels):
    """{"image", "candidate_labels"} of a picture, or of such a dict with or without labels."""
    return {"candidate_labels": labels, **(picture if isinstance(picture, dict) else {"image": picture})}


def _picture(image, timeout):
    """A PIL image in 8-bit RGB, of a file as `open_image` gives it. Also of an address, and of base64 text."""
    if isinstance(image, str) and is_url(image):
        return open_url(image, timeout)
    if isinstance(image, str) and image.startswith("data:"):
        return _decoded(image.partition(",")[2])
    if isinstance(image, str) and _BASE64.fullmatch(image) and not os.path.exists(image):
        return _decoded(image)
    return to_rgb(as_picture(image))


def _decoded(text):
    try:
        content = base64.b64decode(text)
    except ValueError as error:
        raise ValueError(f"a picture as base64 text cannot be decoded: {error}") from error
    return open_image(content, "base64 text")
