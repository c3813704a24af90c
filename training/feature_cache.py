"""Cached features of a frozen detector, so that the semantic stream can be trained without running it.

Only queries that something supervises are kept, detached and before any trainable layer: their states and the raw
samples of the feature maps in their boxes, in float16, in memory. The first pass over the images is plain. Further
ones, `views`, are augmented.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from decodetr.modeling_decodetr.loss_decodetr import SupervisedQueries

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

logger = logging.getLogger(__name__)

_OF_SAMPLES = ("semantic_inputs", "region_grid", "region_pixels")  # fields of the config that decide what is sampled


class FeatureCache(Dataset):
    """One item per image that has supervised queries: the dict of
    `DeCoDetrForObjectDetection.extract_semantic_features` plus `region_text_embeds` (R, d), the embeddings of the
    captions of its regions and of the whole image, which the momentum step of the pool reads.

    Attributes:
        made_by (dict or None): what the features depend on: detector, names and settings of the model, by digest.
        source (dict or None): of what data they are, as the trainer that made the cache describes it.
    """

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.made_by: dict[str, Any] | None = None
        self.source: dict[str, Any] | None = None

    def check(self, model: "DeCoDetrForObjectDetection") -> None:
        """ValueError if the features are of another detector, of other names, or were taken in another way."""
        own = self.made_by or {}
        made_by = _maker(model) if own else {}
        if model.config.semantic_inputs == "query":  # reads no samples, however they were taken
            made_by = {key: value for key, value in made_by.items() if key not in _OF_SAMPLES}
        if wrong := [key for key, value in made_by.items() if value != own[key]]:
            raise ValueError(
                f"cached features of another model: they differ in {', '.join(wrong)}; build the cache again "
                "(FeatureCache.build), or give the data set itself with cache_features=True"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.items[index]

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        tensors = (t for item in self.items for v in item.values() for t in (v if isinstance(v, list) else [v]))
        return sum(t.numel() * t.element_size() for t in tensors)

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        model: "DeCoDetrForObjectDetection",
        dataset: Dataset,
        collate: Callable[[list], dict[str, Any]],
        *,
        batch_size: int = 16,
        num_workers: int = 0,
        views: int = 1,
        max_bytes: int = 8 * 2**30,
    ) -> "FeatureCache":
        """Run the detector of `model` over `dataset` (a `DetectionDataset`, or any data set of such items if
        `views` is 1): once plain, then `views` - 1 times with its augmentation.

        Raises:
            ValueError: nothing in the data set supervises a query, or the cache would outgrow `max_bytes`.
        """
        targets = getattr(dataset, "targets", None)  # a Subset, say, has none
        augmented = targets is not None and targets.augmentation is not None
        if views > 1 and not augmented:
            raise ValueError(f"views={views} needs a data set with augmentation: further views would equal the first.")
        device, training = model.device, model.training
        model.eval()
        cache, held = cls([]), 0
        for view in range(views):
            seen = dataset
            if augmented:
                dataset.set_epoch(view)
                seen = dataset if view else dataset.without_augmentation()
            loader = DataLoader(seen, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
            for batch in tqdm(loader, desc=f"caching detector features, view {view + 1} of {views}", unit="batch"):
                labels = [
                    {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in label.items()}
                    for label in batch.pop("labels")
                ]
                pixels = {name: value.to(device) for name, value in batch.items()}
                found = model.extract_semantic_features(labels=labels, **pixels)
                items = [_cached(item, label) for item, label in zip(found, labels) if len(item["queries"])]
                held += cls(items).num_bytes
                cache.items += items
                if held > max_bytes:
                    raise ValueError(
                        f"cached features outgrow {max_bytes / 2**30:.0f} GB in view {view + 1} of {views}, after "
                        f"{len(cache)} of {views * len(dataset)} images; train without --cache-features, with fewer "
                        "--cache-views, or set a smaller region_grid."
                    )
        model.train(training)
        cache.made_by = _maker(model)
        if not cache.items:
            raise ValueError(
                "no query lies on an annotated box or region: there is nothing to train the semantics on."
            )
        logger.info("cached %d images, %.0f MB", len(cache), held / 2**20)
        return cache


def _maker(model):
    """What cached features depend on, {part: digest or value}."""
    detector = hashlib.sha256()
    for name, tensor in sorted(model.detector.state_dict().items()):
        detector.update(
            name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    names = hashlib.sha256(json.dumps(list(model.vocabulary.names)).encode())
    read = {name: getattr(model.config, name) for name in (*_OF_SAMPLES, "region_iou_threshold")}
    return {"detector": detector.hexdigest(), "names": names.hexdigest(), **read}


def _cached(item, label):
    """An item of `extract_semantic_features` as it is kept: on the CPU, in float16, with the region captions'
    embeddings."""
    texts = [label[name] for name in ("region_text_embeds", "caption_embeds") if name in label]
    supervised = SupervisedQueries.of_features(item).features()
    return {
        "queries": item["queries"].half().cpu(),
        "samples": [samples.half().cpu() for samples in item["samples"]],
        **{name: value.cpu() for name, value in supervised.items()},
        "region_text_embeds": torch.cat([*texts, item["region_embeds"][:0]]).cpu(),
    }


def feature_collate(items: list[dict[str, Any]]) -> dict:
    """Concatenate the supervised queries of several images into what `forward(semantic_features=...)` takes,
    float32."""
    supervised = SupervisedQueries.join([SupervisedQueries.of_features(item) for item in items])
    supervised.region_embeds = supervised.region_embeds.float()
    queries, texts = (torch.cat([item[name] for item in items]).float() for name in ("queries", "region_text_embeds"))
    samples = [torch.cat(level).float() for level in zip(*(item["samples"] for item in items))]
    return {
        "semantic_features": {
            "queries": queries,
            "samples": samples,
            **supervised.features(),
            "region_text_embeds": texts,
        }
    }
