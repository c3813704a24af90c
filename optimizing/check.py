"""AP of the detections of a way, against annotations, or against what eager float32 detects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import PIL.Image

from decodetr.annotations.coco import CocoAnnotations, read_annotated
from decodetr.annotations.sources import load_annotations
from decodetr.evaluation.detection_evaluator import DetectionEvaluator

MOST = 100  # detections of a picture
_FEW = 10  # of a picture, where the threshold leaves next to none


class Check:
    """
    Args:
        pictures (list of PIL images): RGB. truth: their annotations, in the same order: `names`, `images` with
            `image_id`, and `annotations_by_image`, as [`CocoAnnotations`].
        against (str): what the truth is, in words.
    """

    def __init__(
        self, pictures: list[PIL.Image.Image], truth: CocoAnnotations | SimpleNamespace, against: str
    ) -> None:
        self.pictures, self.truth, self.against = pictures, truth, against

    @classmethod
    def of_data(cls, data: str | Path, names: Sequence[str], most: int) -> Check:
        """Annotated pictures, of which `most` are taken, from the whole list, with the annotations of known names.

        Raises:
            ValueError: it has no object of the names.
        """
        coco = load_annotations(str(data), "val")
        chosen = coco.images[:: -(-len(coco) // most)]
        coco = coco.select_images([entry["image_id"] for entry in chosen]).select(
            [n for n in coco.names if n in names]
        )
        if not len(coco.annotations_by_image.column("id", crowds=False)):
            raise ValueError(f"{data}: none of its objects has one of the {len(names)} names of the model")
        pictures = [read_annotated(entry, coco.file) for entry in coco.images]
        return cls(pictures, coco, f"the annotations of {len(pictures)} pictures of {data}")

    @classmethod
    def of_detections(
        cls, pictures: list[PIL.Image.Image], found: list[dict[str, list]], shown: list[dict[str, list]]
    ) -> Check:
        """What eager float32 detects is the truth.

        Args:
            pictures: RGB. found: all detections of each. shown: those that are above the thresholds of the model, or
                where these are fewer than two a picture, the best ones.
        """
        if sum(len(result["names"]) for result in shown) < 2 * len(pictures):
            shown = [{key: values[:_FEW] for key, values in result.items()} for result in found]
        names = sorted({name for result in shown for name in result["names"]})
        rows = {
            image_id: [
                {"category": names.index(name), "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for name, (x0, y0, x1, y1) in zip(result["names"], result["boxes"])
                if x1 > x0 and y1 > y0
            ]
            for image_id, result in enumerate(shown)
        }
        images = [{"image_id": image_id} for image_id in rows]
        truth = SimpleNamespace(names=names, images=images, annotations_by_image=rows)
        return cls(pictures, truth, f"what eager float32 detects in {len(pictures)} pictures")

    def ap(self, found: Sequence[dict[str, list]]) -> float:
        """AP, 0 to 100, of detections of the pictures, of any score."""
        names = list(self.truth.names)
        row = {name: label for label, name in enumerate(names)}
        evaluator = DetectionEvaluator(self.truth, names, max_detections=MOST)
        for entry, result in zip(self.truth.images, found):
            kept = [place for place, name in enumerate(result["names"]) if name in row]
            prediction = {key: [result[key][place] for place in kept] for key in ("scores", "boxes")}
            prediction["labels"] = [row[result["names"][place]] for place in kept]
            evaluator.update([entry["image_id"]], [prediction])
        return float(evaluator.compute()["AP"])
