"""Other detectors of transformers through our protocol: what all of them share, and those of
AutoModelForObjectDetection.

Reading order: what every `Peer` does, closed-set detectors and the names of their classes. Zero-shot ones are in
zero_shot_peers.py, and loading.py loads both. Models, processors and boxes are the library's, and its post-processing
where it can serve.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from decodetr.utils.spelling import folded

if TYPE_CHECKING:
    from types import SimpleNamespace

    from transformers import BaseImageProcessor, PreTrainedModel
    from transformers.utils.generic import ModelOutput

# RT-DETR, D-FINE and others came to the Hub with four of COCO's classes under their names of Pascal VOC.
_VOC_NAMES = {"airplane": "aeroplane", "couch": "sofa", "motorcycle": "motorbike", "tv": "tvmonitor"}


class Peer(ABC):
    """A detector of transformers that looks for `names`, at most `max_detections` per image, the best over all names.

    `prepare(image)` turns an RGB PIL image into the model's input, a dict of CPU tensors (1, ...). It pickles without
    the model. Sub-classes have `_detect(batch, sizes)`: for each group of names, the detections of every image.
    """

    prompt: str | None = None  # for the report, as the score
    score: str | None = None

    def __init__(
        self, model: PreTrainedModel, image_processor: BaseImageProcessor, names: list[str], max_detections: int
    ) -> None:
        self.model, self.image_processor = model, image_processor
        self.names, self.max_detections = list(names), max_detections
        self.prepare = partial(_prepare, image_processor)
        self.device, self.dtype = model.device, model.dtype

    def describe(self) -> dict[str, str | None]:
        """What a report says of it: class, prompt and score."""
        return {"class": type(self.model).__name__, "prompt": self.prompt, "score": self.score}

    @torch.inference_mode()
    def __call__(self, prepared: list[dict[str, torch.Tensor]], entries: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Detections of images, each independent of the others.

        Args:
            prepared: list of what `prepare` gave of each image. entries: dicts with their "height", "width" in pixels.

        Returns:
            One dict per image, best first, on the CPU: "scores" (n,) in 0..1, "labels" (n,) int64 indices into the
            names, "boxes" (n, 4) x0, y0, x1, y1 in pixels of the image, with n <= max_detections.
        """
        # Only images of one shape share a forward: YOLOS takes no mask of padding, and in the others padding leaks
        # through the backbone, so that an image's detections would depend on its neighbours.
        sizes = [(entry["height"], entry["width"]) for entry in entries]
        groups = defaultdict(list)
        for i, one in enumerate(prepared):
            groups[one["pixel_values"].shape].append(i)
        found = {}
        for members in groups.values():
            keys = prepared[members[0]]
            batch = {key: torch.cat([prepared[i][key] for i in members]).to(self.device) for key in keys}
            batch["pixel_values"] = batch["pixel_values"].to(self.dtype)
            chunks = self._detect(batch, [sizes[i] for i in members])
            for i, parts in zip(members, zip(*chunks)):
                merged = {key: torch.cat([part[key].cpu() for part in parts]) for key in ("scores", "labels", "boxes")}
                best = merged["scores"].argsort(descending=True, stable=True)[: self.max_detections]
                found[i] = {key: value[best] for key, value in merged.items()}
        return [found[i] for i in range(len(prepared))]

    @abstractmethod
    def _detect(
        self, batch: dict[str, torch.Tensor], sizes: list[tuple[int, int]]
    ) -> Iterator[Iterable[dict[str, torch.Tensor]]]:
        """Chunks of detections, a dict for each image in each."""

    def best_pairs(
        self,
        scores: torch.Tensor,
        outputs: ModelOutput | SimpleNamespace,
        sizes: list[tuple[int, int]],
        labels: torch.Tensor,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """The best pairs of box and name of every image, from scores (B, N, K) of the names of `labels` (K,)."""
        # Every score is above this threshold: all N boxes, in order, as the library undoes this processor's padding.
        located = self.image_processor.post_process_object_detection(outputs, threshold=-1.0, target_sizes=sizes)
        for one, every in zip(scores, located):
            best, pair = one.flatten().topk(min(self.max_detections, one.numel()))
            box, name = pair // one.shape[1], pair % one.shape[1]
            yield {"scores": best, "labels": labels[name.cpu()], "boxes": every["boxes"][box]}


def _prepare(image_processor, image):
    return dict(image_processor(images=image, return_tensors="pt"))


class ClosedSetPeer(Peer):
    """DETR, RT-DETRv2, D-FINE, YOLOS, ...: the names are found among its classes, by `match_names`.

    Classes outside of the names are dropped before the best detections are chosen, so that they take no places. The
    scores of the others stay what they were.

    Raises:
        ValueError: it has no class for some name (with `allow_missing_names`: for any name at all).
    """

    prompt = "none: its classes met the names by name"

    def __init__(
        self,
        model: PreTrainedModel,
        image_processor: BaseImageProcessor,
        names: list[str],
        max_detections: int,
        allow_missing_names: bool = False,
    ) -> None:
        super().__init__(model, image_processor, names, max_detections)
        classes, columns = model.config.id2label, match_names(names, model.config.id2label)
        self.renamed = {name: classes[i] for name, i in columns.items() if name != classes[i]}
        self.missing = [name for name in names if name not in columns]
        if not columns or (self.missing and not allow_missing_names):
            raise ValueError(
                f"{type(model).__name__} has no class for {some(self.missing)}; its classes are "
                f"{some(list(classes.values()))}. Ask for names that it has, or allow missing names: never detected."
            )
        self.columns = list(columns.values())
        self.labels = torch.tensor([self.names.index(name) for name in columns])
        post_process = image_processor.post_process_object_detection
        # Some cut at 100 unless told. The others give as many detections as the detector has queries.
        options = {"top_k": max_detections} if "top_k" in inspect.signature(post_process).parameters else {}
        self.post_process = partial(post_process, threshold=0.0, **options)
        self.score = f"{type(image_processor).__name__}.post_process_object_detection of the names' logits"

    def describe(self) -> dict[str, str | None]:
        """What every peer says of itself, and which class stands for a name that is spelled in another way."""
        return {**super().describe(), "renamed": ", ".join(f"{a}: {b}" for a, b in self.renamed.items()) or "none"}

    def _detect(self, batch, sizes):
        outputs = self.model(**batch)
        logits, kept = outputs.logits, outputs.logits[..., self.columns]
        if logits.shape[-1] > self.model.config.num_labels:
            # A softmax whose last column is "no object" (DETR, YOLOS): the other classes join that column, which
            # leaves the probabilities of the names as they were.
            others = sorted(set(range(logits.shape[-1])) - set(self.columns))
            kept = torch.cat([kept, logits[..., others].logsumexp(-1, keepdim=True)], dim=-1)
        outputs.logits = kept
        found = self.post_process(outputs, target_sizes=sizes)
        yield [{**one, "labels": self.labels[one["labels"].cpu()]} for one in found]


def match_names(names: Sequence[str], id2label: dict[int, str]) -> dict[str, int]:
    """Which class each name is: {name: index of the class}, without the names that are none.

    First those equal to the letter. Of the rest those equal but for case, spaces, hyphens and underscores. Then those
    that Pascal VOC calls differently ("couch", "sofa"). Each time one name with one class, never a choice.
    """
    columns = {}
    for key in (str, folded, lambda text: _VOC_NAMES.get(folded(text), folded(text))):
        wanted, classes = defaultdict(list), defaultdict(list)
        for name in names:
            if name not in columns:
                wanted[key(name)].append(name)
        for index, label in id2label.items():
            if index not in columns.values():
                classes[key(label)].append(index)
        for text, same in wanted.items():
            if len(same) == len(classes[text]) == 1:
                columns[same[0]] = classes[text][0]
    return columns


def some(names: Sequence[str]) -> str:
    """The first ten, for messages."""
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
