"""A picture and a search into all that was found, with its reasons, and how long it took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from decodetr.inference.detection import forward
from decodetr.inference.explanations import explain_detections
from decodetr.inference.shown import above
from decodetr.processing.picture_modes import to_rgb

if TYPE_CHECKING:
    import PIL.Image

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil
    from decodetr.serving.engine import Search


@dataclass
class Sighting:
    """
    What was found in a picture, whatever its score. It holds no tensor and no pixel.

    Attributes:
        file (str): the picture. size (tuple): its width and height in pixels. picture (str): what the browser shows.
        found (dict): lists of length n, best first: "names", "scores", "boxes" (x0, y0, x1, y1 in pixels), "labels",
            "objectness", "name_probability", "prototypes".
        stands_for (list of n): names whose thresholds they have.
        looked_for (int): number of names. forward, whole (float): seconds of the model, and of all.
    """

    file: str
    size: tuple[int, int]
    picture: str
    found: dict[str, list] = field(default_factory=dict)
    stands_for: list[str] = field(default_factory=list)
    looked_for: int = 0
    forward: float = 0.0
    whole: float = 0.0

    @property
    def best(self) -> float:
        """The best score, shown or not."""
        return max(self.found.get("scores", ()), default=0.0)

    def above(self, config: Any, threshold: float | None) -> dict[str, list]:
        """Of `found` what is shown: above a threshold, or above that of the model for each name. "row" has the place
        of each in `found`."""
        rows = list(range(len(self.found.get("scores", ()))))
        return above({"names": [], "scores": [], **self.found, "row": rows}, config, threshold, self.stands_for)


def look(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    image: PIL.Image.Image,
    search: Search,
    top_k: int,
    prototypes: int,
) -> tuple[dict[str, list], list[str], float]:
    """The best detections of a picture, explained: those of [`detect`] with a threshold of 0.

    Args:
        image: RGB. search ([`Search`]): whose tables are scored. top_k (int): detections. prototypes (int): of each.

    Returns:
        (`found` and `stands_for` of a [`Sighting`], seconds of the forward).
    """
    batch = image_processor(images=[to_rgb(image)], return_tensors="pt")
    began = time.perf_counter()
    with torch.inference_mode():
        outputs = forward(model, batch, tables=search.tables, min_score=0.0, output_prototype_weights=True)
        assert outputs.pred_boxes is not None
        outputs.pred_boxes.sum().item()  # waits for an accelerator
    seconds = time.perf_counter() - began
    size = [(image.height, image.width)]
    (result,) = image_processor.post_process_object_detection(outputs, 0.0, size, top_k)
    (explained,) = explain_detections(outputs, search.tables.pool, 0.0, top_k, prototypes, model.config)
    labels = result["labels"].tolist()
    found = {
        "names": [search.names[label] for label in labels],
        "scores": result["scores"].tolist(),
        "boxes": result["boxes"].tolist(),
        "labels": labels,
        **explained,
    }
    return found, [search.stands_for[label] for label in labels], seconds
