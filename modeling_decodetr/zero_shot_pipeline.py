"""`pipeline("zero-shot-object-detection", ..., trust_remote_code=True)` where decodetr is not installed. With it, the
pipeline of `decodetr.inference.pipelines` is taken, which reads more kinds of pictures and keeps what it embedded.

config.json names this class (`CUSTOM_PIPELINES`). The installed config leaves the entry out, since the library asks
about the code of whatever has one.
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers.image_utils import load_image
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
from transformers.pipelines.zero_shot_object_detection import ZeroShotObjectDetectionPipeline

from .evaluation_mode import evaluating
from .name_choice import choose_names
from .prompts import name_of
from .vocabulary import Vocabulary

_MOST = 100  # detections of an image


class DeCoDetrZeroShotPipeline(ZeroShotObjectDetectionPipeline):
    """All candidate labels of an image in one pass, as names of this call alone. Labels without a stored embedding are
    embedded by the text model that the model records, if it is on this machine. Default threshold: the model's."""

    _load_tokenizer = False

    def preprocess(self, inputs: dict[str, Any], timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """A picture and its labels, as one chunk."""
        picture, labels = load_image(inputs["image"], timeout=timeout).convert("RGB"), inputs.get("candidate_labels")
        if isinstance(labels, str):
            labels = [label for part in labels.split(",") if (label := part.strip())]
        features = self.image_processor(images=[picture], return_tensors="pt")
        yield {"is_last": True, "size": (picture.height, picture.width), "candidate_labels": labels, **features}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        labels, tables = model_inputs["candidate_labels"], self.model.tables()
        labels = tables.vocabulary.names if labels is None else labels
        names = [name_of(label, tables.vocabulary.names) for label in labels]
        chosen = choose_names(tables.vocabulary, list(dict.fromkeys(names)))
        rows = [chosen.embeddings[chosen.names.index(name)] for name in names]
        tables = self.model.semantic_stream.tables_with(tables, Vocabulary(names, torch.stack(rows), chosen.info))
        images = {key: model_inputs[key] for key in ("pixel_values", "pixel_mask") if key in model_inputs}
        with evaluating(self.model):
            outputs = self.model(**images, tables=tables, min_score=0.0)
        kept = {"is_last": True, "size": model_inputs["size"], "labels": labels, "names": names}
        return {**kept, "logits": outputs.logits, "pred_boxes": outputs.pred_boxes}

    def postprocess(
        self, model_outputs: list[dict[str, Any]], threshold: float | None = None, top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """Detections of one image, best first."""
        (outputs,) = model_outputs
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in 0 to 1, got {threshold}")
        least = self.model.config.thresholds(outputs["names"], threshold)
        (found,) = self.image_processor.post_process_object_detection(
            {key: outputs[key] for key in ("logits", "pred_boxes")},
            min(least),
            [outputs["size"]],
            top_k=top_k or _MOST,
        )
        rows = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"])
        return [
            {"score": score, "label": outputs["labels"][label], "box": self._get_bounding_box(box)}
            for score, label, box in rows
            if score > least[label]
        ]


MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES["decodetr"] = "DeCoDetrForObjectDetection"
CUSTOM_PIPELINES = {
    "zero-shot-object-detection": {
        "impl": "zero_shot_pipeline.DeCoDetrZeroShotPipeline",
        "pt": ["AutoModelForZeroShotObjectDetection"],
        "type": "multimodal",
    }
}
