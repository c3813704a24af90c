"""What `DeCoDetrTrainer.predict` gives back: detections and annotations of all images, on the CPU."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


class KeptPredictions:
    """Keeps what passes through an evaluation. [`EvaluationPictures`] does so for a few images."""

    def __init__(self) -> None:
        self._rows = {}

    def update(
        self,
        ids: Iterable[int],
        results: Iterable[Mapping[str, Any]],
        labels: Iterable[Mapping[str, Any]],
        names: list[str],
    ) -> None:
        """
        Take in a batch. Of an image that comes again the first one counts, as in the metrics.

        Args:
            ids: image ids of a batch. results: dicts of `results_of`. labels: dicts of the data set.
            names (list[str]): of the labels of the detections.
        """
        for image_id, result, label in zip(ids, results, labels):
            if image_id in self._rows:
                continue
            found = {key: value.cpu() for key, value in result.items() if key != "localization"}
            found["localization"] = {key: value.cpu() for key, value in result["localization"].items()}
            truth = {key: label[key].cpu() for key in ("class_labels", "boxes", "orig_size")}
            self._rows[image_id] = ({"image_id": image_id, **found, "names": names}, {"image_id": image_id, **truth})

    def merge(self, gather: Callable[[list], list]) -> None:
        """Take in what other processes kept. `gather` joins a list over processes (accelerate's gather_object)."""
        self._rows = dict(reversed(gather(list(self._rows.items()))))  # the first one's, as metrics count

    def in_order(self, ids: Iterable[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(predictions, annotations), lists in the order of `ids`."""
        rows = [self._rows[image_id] for image_id in ids]
        return [found for found, _ in rows], [truth for _, truth in rows]
