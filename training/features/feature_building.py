"""How cached features are made: look at some images, decide how queries are kept and whether there is room, and then
run the detector over the images of each shard that is missing."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from decodetr.modeling_decodetr.loss_decodetr import SupervisedQueries
from decodetr.training.features.feature_coding import Moments, SampleCoding, bytes_within
from decodetr.training.features.feature_shards import CODING, ShardFolder
from decodetr.utils.files import claim
from decodetr.utils.preflight import in_units, require_room, written

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection

logger = logging.getLogger(__name__)

QUERY_BYTES, MOST_RAW = 10_000, 8 * 2**30  # of a query, where all of them would take more than that as they are
_LOOKED_AT = 64  # images that say what a query takes, and how many queries an image has; a twentieth of few
_FITTED = 512  # images that the coding is fitted to
_ENOUGH_VARIANCE = 0.9  # of each map. docs/feature_cache.md has what was measured with less
_SHARD_IMAGES, _SHARD_BYTES = 256, 2**28
_INDEX = 8  # bytes of an int64
_WHO = "decodetr train --cache-features"


class FeatureBuilder:
    """
    Makes the shards of a cache.

    Args:
        model: in evaluation mode. dataset, collate, batch_size, num_workers: as of `FeatureCache.build`.
        folder (`Path`): of the cache.
    """

    def __init__(
        self,
        model: "DeCoDetrForObjectDetection",
        dataset: Dataset,
        collate: Callable[[list], dict[str, Any]],
        batch_size: int,
        num_workers: int,
        folder: Path,
    ) -> None:
        self.model, self.dataset, self.collate = model, dataset, collate
        self.batch_size, self.num_workers = batch_size, num_workers
        self.shards = ShardFolder(folder)
        self.coding: SampleCoding | None = None
        self.augmented = getattr(getattr(dataset, "targets", None), "augmentation", None) is not None
        self.plain = dataset.without_augmentation() if self.augmented else dataset

    def begin(self, identity: dict[str, Any], own: bool, query_bytes: int | None) -> None:
        """Decide how queries are kept, unless a cache of this identity is begun in the folder.

        Raises:
            ValueError: as of `FeatureCache.build`.
        """
        if self.shards.manifest.get("identity") == identity:
            return
        with claim(self.shards.folder, _WHO, "features"):
            self.shards.begin(identity, own)
            self._decide(identity, query_bytes)

    def _decide(self, identity, query_bytes):
        images, views, folder = identity["images"], identity["views"], self.shards.folder
        looked = list(self._extract(self.plain, self._spread(min(_LOOKED_AT, -(-images // 20)))))
        kept = [self.kept(found, label) for found, label in looked]
        queries = sum(len(item["queries"]) for item in kept) / len(kept)
        a_query = bytes_of_query(kept)
        most = query_budget(a_query, queries * images * views, query_bytes)
        if most is not None and a_query > most and kept[0]["samples"]:
            self.coding = self._fit(kept, most)
            a_query = bytes_of_query([self.kept(found, label) for found, label in looked])
        an_image = a_query * queries
        size = int(an_image * images * views)
        what = (
            f"features of {images * views:,} images ({images:,} in {views} view{'s' if views > 1 else ''}), with "
            f"about {queries:.1f} queries of {in_units(a_query)} each"
        )
        how = "samples as they are" if self.coding is None else f"samples with {self.coding}"
        logger.warning("Cached %s: about %s in %s; %s", what, in_units(size), folder, how)
        fewer = " --cache-views 1," if views > 1 else ""
        remedy = (
            f"give --cache-query-bytes {int(a_query) // 2} (samples are coded to fit),{fewer} --cache-folder on "
            "another disk, or leave out --cache-features"
        )
        require_room(folder, size - written(folder), f"cached {what},", remedy)
        if self.coding is not None:
            if min(self.coding.kept) < _ENOUGH_VARIANCE:
                logger.warning(
                    "The coding leaves %.0f %% of the variance of a map, and names may be learned worse "
                    "(docs/feature_cache.md): --cache-query-bytes above %d keeps more.",
                    100 * min(self.coding.kept),
                    most,
                )
            self.coding.write(folder / CODING)
        batches = min(_SHARD_IMAGES, int(_SHARD_BYTES / max(an_image, 1))) // self.batch_size
        self.shards.write_manifest(
            {
                "identity": identity,
                "images": images,
                "views": views,
                "shard_images": max(batches, 1) * self.batch_size,  # so that batches are those of one long run
                "bytes of a query": round(a_query),
                "coded": None if self.coding is None else self.coding.summary(),
            }
        )

    def _spread(self, count):
        """Indices of so many images, evenly over the data set."""
        return [place * len(self.dataset) // count for place in range(count)]

    def _fit(self, kept, most):
        """The coding that makes a query fit into `most` bytes."""
        levels = len(self.model.semantic_stream.region_pooling.projections)
        rest = [
            {
                **item,
                "samples": [part.to(torch.uint8) for part in item["samples"][levels:]],
                "region_embeds": item["region_embeds"].half(),
            }
            for item in kept
        ]
        size = bytes_within(most, bytes_of_query(rest), levels)
        some = self._spread(min(_FITTED, len(self.dataset)))
        moments = Moments(len(some))
        for found, _ in tqdm(
            self._extract(self.plain, some), desc="fitting the coding of samples", total=len(some), unit="image"
        ):
            moments.add(found["samples"][:levels], *found["samples"][levels:])
        return moments.fit(size).to(self.model.device)

    def run(self, views: int, rank: int, processes: int) -> None:
        """Make the share of this process of the shards that are missing, and finish the cache with all of them."""
        wait(processes)
        self.shards.read()
        if not self.shards.manifest:
            raise OSError(
                f"{self.shards.folder}: expected what the first process wrote, got nothing; give --cache-folder on a "
                "disk that all processes see"
            )
        if not self.shards.finished:
            self._make(views, rank, processes)
            wait(processes)
            if rank == 0:
                self.shards.finish()
        wait(processes)

    def _make(self, views, rank, processes):
        coded = self.shards.manifest["coded"] is not None
        self.coding = SampleCoding.load(self.shards.folder / CODING).to(self.model.device) if coded else None
        pending = self.shards.pending()
        if len(pending) < self.shards.count and rank == 0:
            there = self.shards.count - len(pending)
            logger.warning("%d of %d shards of cached features are there already.", there, self.shards.count)
        wait(processes)  # nobody writes before all have seen what is missing
        with claim(self.shards.folder, _WHO, f"features-{rank}"):
            for view in range(views):
                if self.augmented:
                    self.dataset.set_epoch(view)
                mine = {
                    shard: images for shard in pending[rank::processes] if (images := self.shards.images(shard, view))
                }
                self._make_view(self.dataset if view else self.plain, mine, view, views, rank)

    def _make_view(self, dataset, mine, view, views, rank):
        """Make the shards {number: range of images} of one view."""
        size = self.batch_size
        batches = [list(images[i : i + size]) for images in mine.values() for i in range(0, len(images), size)]
        found = self._extract_batches(dataset, batches)
        desc = f"caching detector features, view {view + 1} of {views}"
        with tqdm(desc=desc, total=sum(map(len, mine.values())), unit="image", disable=rank > 0) as bar:
            for shard, images in mine.items():
                items, places = [], []
                for image, (item, label) in zip(images, found):
                    bar.update()
                    if len(item["queries"]):
                        items.append(self.kept(item, label))
                        places.append(image)
                self.shards.write(shard, items, places)

    def _extract(self, dataset, indices):
        """(item of `extract_semantic_features`, label) of some images, in batches."""
        size = self.batch_size
        return self._extract_batches(dataset, [indices[i : i + size] for i in range(0, len(indices), size)])

    def _extract_batches(self, dataset, batches: Sequence[list[int]]) -> Iterator[tuple[dict, dict]]:
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=self.collate,
            generator=torch.Generator().manual_seed(0),  # a cache that is there leaves the same random state
        )
        device = self.model.device
        for batch in loader:
            labels = [
                {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in label.items()}
                for label in batch.pop("labels")
            ]
            pixels = {name: value.to(device) for name, value in batch.items()}
            yield from zip(self.model.extract_semantic_features(labels=labels, **pixels), labels)

    def kept(self, item: dict[str, Any], label: dict[str, Any]) -> dict[str, Any]:
        """An item of `extract_semantic_features` as it is kept: on the CPU, samples and states in float16 or
        samples coded, with the embeddings of the label's captions where the pool moves."""
        texts = []
        if reads_captions(self.model.config):
            texts = [label[name] for name in ("region_text_embeds", "caption_embeds") if name in label]
        supervised = SupervisedQueries.of_features(item).features()
        samples = item["samples"] if self.coding is None else self.coding.encode(item["samples"])
        found = {
            "queries": item["queries"].half().cpu(),
            "samples": [(level.half() if level.is_floating_point() else level).cpu() for level in samples],
            **{name: value.cpu() for name, value in supervised.items()},
            "region_text_embeds": torch.cat([*texts, item["region_embeds"][:0]]).cpu(),
        }
        if self.coding is not None:
            found["region_embeds"] = found["region_embeds"].half()
        return found


def reads_captions(config: "DeCoDetrConfig") -> bool:
    """Whether a training reads the embeddings of captions: for the momentum step of the pool."""
    return config.pool_update != "frozen"


def wait(processes: int) -> None:
    """Wait for the other processes."""
    if processes > 1:
        PartialState().wait_for_everyone()


def query_budget(as_it_is: float, queries: float, asked: int | None) -> int | None:
    """Bytes that a query may take. None: samples stay as they are.

    Args:
        as_it_is (float): bytes that a query takes then. queries (float): of all images and views. asked: by the user.
    """
    return asked or (QUERY_BYTES if as_it_is * queries > MOST_RAW else None)


def bytes_of_query(items: Sequence[dict[str, Any]]) -> int:
    """Bytes that a query of some kept items takes on the disk."""
    first, embeds = items[0], torch.cat([item["region_embeds"] for item in items])
    parts = sum(part.shape[1:].numel() * part.element_size() for part in (first["queries"], *first["samples"]))
    exact = embeds.dtype == torch.float16 or torch.equal(embeds.half().float(), embeds)
    return parts + embeds.shape[1] * (2 if exact else embeds.element_size()) + _INDEX
