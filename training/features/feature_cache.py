"""Cached features of a frozen detector, so that the semantic stream can be trained without running it.

Only queries that something supervises are kept, detached and before any trainable layer: their states, and the samples
of the feature maps in their boxes, in float16, on the disk (`feature_shards.py`). Those of large data take fewer bits
(`feature_coding.py`). The first pass over the images is plain. Further ones, `views`, are augmented.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.modeling_decodetr.loss_decodetr import SupervisedQueries
from decodetr.training.features.feature_building import FeatureBuilder, reads_captions
from decodetr.training.features.feature_coding import SampleCoding
from decodetr.training.features.feature_shards import CODING, ShardFolder, unpacked
from decodetr.training.results.identity import dataset_identity
from decodetr.utils.preflight import in_units

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

logger = logging.getLogger(__name__)

FOLDER = "_features"  # in the output of a run. The Trainer pushes nothing to the Hub whose name begins so
_OF_SAMPLES = ("semantic_inputs", "region_grid", "region_pixels")  # fields of the config that decide what is sampled
_NOTHING = "no query lies on an annotated box or region: there is nothing to train the semantics on."


class FeatureCache(Dataset):
    """One item per image that has supervised queries: the dict of
    `DeCoDetrForObjectDetection.extract_semantic_features` plus `region_text_embeds` (R, d), the embeddings of the
    captions of its regions and of the whole image, which the momentum step of the pool reads (none where it is
    frozen). Tensors are views of files that are mapped into memory. With `coding`, samples are its uint8 codes, which
    `coding.read` decodes for a whole batch, on the device of the model.

    Args:
        folder: of a finished cache ([`FeatureCache.build`]).

    Attributes:
        made_by (dict): what the features depend on: detector, names and settings of the model, by digest.
        source (dict or None): of what data they are, as the trainer that made the cache describes it.
        coding ([`SampleCoding`] or None): of the samples.

    Raises:
        ValueError: there is no finished cache.
    """

    def __init__(self, folder: str | Path) -> None:
        self._shards = ShardFolder(folder)
        if not self._shards.finished:
            raise ValueError(
                f"{folder}: expected finished cached features of this version, got none; make them "
                "(FeatureCache.build)"
            )
        identity, self._sizes = self._shards.manifest["identity"], self._shards.manifest["shards"]
        self.made_by: dict[str, Any] = identity["made_by"]
        self.source: dict[str, Any] | None = identity["source"]
        coded = self._shards.manifest["coded"] is not None
        self.coding = SampleCoding.load(self.folder / CODING) if coded else None
        self._ends = list(accumulate(size["items"] for size in self._sizes))
        self._opened: dict[int, dict[str, torch.Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}  # each process maps the files itself

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._shards.folder

    def check(self, model: "DeCoDetrForObjectDetection") -> None:
        """ValueError if the features are of another detector, of other names, or were taken in another way."""
        made_by = _maker(model)
        if model.config.semantic_inputs == "query":  # reads no samples, however they were taken
            made_by = {key: value for key, value in made_by.items() if key not in _OF_SAMPLES}
        if self.made_by["captions"]:  # that are not read
            del made_by["captions"]
        if wrong := [key for key, value in made_by.items() if value != self.made_by[key]]:
            raise ValueError(
                f"cached features of another model: they differ in {', '.join(wrong)}; build the cache again "
                "(FeatureCache.build), or give the data set itself with cache_features=True"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"expected 0 <= index < {len(self)}, got {index}")
        shard = bisect_right(self._ends, index)
        if shard not in self._opened:
            self._opened[shard] = self._shards.open(shard)
        return unpacked(self._opened[shard], index - self._ends[shard] + self._sizes[shard]["items"])

    @property
    def num_bytes(self) -> int:
        """Size on the disk, in bytes."""
        return sum(size["bytes"] for size in self._sizes)

    @property
    def num_queries(self) -> int:
        """Supervised queries of all items."""
        return sum(size["queries"] for size in self._sizes)

    def remove(self) -> None:
        """Remove it from the disk. Items that were read stay."""
        self._opened.clear()
        self._shards.remove()

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
        folder: str | Path | None = None,
        own: bool = False,
        query_bytes: int | None = None,
        source: dict[str, Any] | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> "FeatureCache":
        """Run the detector of `model` over `dataset` (a `DetectionDataset`, or any data set of such items if
        `views` is 1): once plain, then `views` - 1 times with its augmentation. What is in the folder already, of the
        same detector, names, data and settings, is not made again.

        Args:
            folder (`str` or `Path`, *optional*): of the cache. Default: a temporary one that goes with the object.
            own (`bool`): features of something else that are in the folder may be removed.
            query_bytes (`int`, *optional*): that a query may take. Samples are coded to fit. Default: 10,000 if
                all would take more than 8 GiB as they are, else as they are.
            source (`dict`, *optional*): JSON that tells the data from others. Without it, their number does.
            rank, processes (`int`): every process makes its share of the shards, in a folder that all of them see.

        Raises:
            ValueError: nothing in the data set supervises a query. The disk has no room. A query does not fit
                `query_bytes`. The folder has something else.
        """
        targets = getattr(dataset, "targets", None)  # a Subset, say, has none
        augmented = targets is not None and targets.augmentation is not None
        if views > 1 and not augmented:
            raise ValueError(f"views={views} needs a data set with augmentation: further views would equal the first.")
        if not len(dataset):
            raise ValueError(_NOTHING)
        if folder is None and processes > 1:
            raise ValueError(f"{processes} processes need one folder for the features that they share: give folder=")
        temporary = folder is None
        identity = {"made_by": _maker(model), "source": source, "images": len(dataset), "views": views}
        identity = json.loads(json.dumps({**identity, "query_bytes": query_bytes}, default=str))
        folder = Path(tempfile.mkdtemp(prefix="decodetr-features-") if folder is None else folder)
        builder = FeatureBuilder(model, dataset, collate, batch_size, num_workers, folder)
        try:
            with evaluating(model):
                if rank == 0:
                    builder.begin(identity, own, query_bytes)
                builder.run(views, rank, processes)
            cache = cls(folder)
            if not len(cache):
                raise ValueError(_NOTHING)
        except BaseException:
            if temporary:
                shutil.rmtree(folder)
            raise
        if temporary:
            weakref.finalize(cache, _remove, folder, os.getpid())
        logger.info("cached %d images, %s, in %s", len(cache), in_units(cache.num_bytes), folder)
        return cache


def cache_of_run(
    model: "DeCoDetrForObjectDetection",
    dataset: Dataset,
    collate: Callable[[list], dict[str, Any]],
    args: "DeCoDetrTrainingArguments",
) -> FeatureCache:
    """The features of a run with `cache_features`, as its arguments say. Args: as of [`FeatureCache.build`]. They are
    of the pictures that are there now, whatever is kept of others of the same names."""
    return FeatureCache.build(
        model.to(args.device),
        dataset,
        collate,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        views=args.cache_views,
        folder=args.cache_folder or Path(args.output_dir, FOLDER),
        own=args.cache_folder is None,
        query_bytes=args.cache_query_bytes,
        source=dataset_identity(dataset, contents=True),
        rank=args.process_index,
        processes=args.world_size,
    )


def _remove(folder, process):
    """Remove a temporary cache. Loader workers that were forked have the object too."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _maker(model):
    """What cached features depend on, {part: digest or value}."""
    detector = hashlib.sha256()
    for name, tensor in sorted(model.detector.state_dict().items()):
        detector.update(
            name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    names = hashlib.sha256(json.dumps(list(model.vocabulary.names)).encode())
    read = {name: getattr(model.config, name) for name in (*_OF_SAMPLES, "region_iou_threshold", "embedding_dim")}
    captions = reads_captions(model.config)
    return {"detector": detector.hexdigest(), "names": names.hexdigest(), **read, "captions": captions}


def feature_collate(items: list[dict[str, Any]]) -> dict:
    """Concatenate the supervised queries of several images into what `forward(semantic_features=...)` takes,
    float32. Coded samples stay as they are, for [`SampleCoding.read`]."""
    supervised = SupervisedQueries.join([SupervisedQueries.of_features(item) for item in items])
    supervised.region_embeds = supervised.region_embeds.float()
    queries, texts = (torch.cat([item[name] for item in items]).float() for name in ("queries", "region_text_embeds"))
    samples = [torch.cat(level) for level in zip(*(item["samples"] for item in items))]
    samples = [level if level.dtype == torch.uint8 else level.float() for level in samples]
    return {
        "semantic_features": {
            "queries": queries,
            "samples": samples,
            **supervised.features(),
            "region_text_embeds": texts,
        }
    }
