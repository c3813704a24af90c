"""What runs share that are compared: data, tables, the localization stream and its cached features.

The detector runs once over the training scenes. Over these features the semantic stream is trained from random
weights, with the defaults of a new one, for each pool, set of fields and seed.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import HfArgumentParser, set_seed

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool
from decodetr.annotations.names_split import read_split
from decodetr.modeling_decodetr.vocabulary import same_encoder
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.selection import measure_space
from decodetr.pool_builder.stages import open_stage
from decodetr.processing import (
    CocoAnnotations,
    DetectionAugmentation,
    DetectionDataset,
    RegionTable,
    detection_collate,
)
from decodetr.scenes.command_runner import flat
from decodetr.scenes.measure import SIZES, measure, teacher_ceiling
from decodetr.scenes.options import ComparisonOptions
from decodetr.scenes.pool_variants import PoolChange, changed_pool
from decodetr.scenes.recipes import CACHE_VIEWS, SEMANTIC_TRAINING
from decodetr.scenes.world import few_names
from decodetr.training.data.weak_labels import WeakLabels
from decodetr.training.features.feature_cache import FeatureCache
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.start.starting_point import fields_of_new_stream
from decodetr.training.trainer import DeCoDetrTrainer
from decodetr.utils.devices import pick_device
from decodetr.utils.model_identity import folder_digest
from decodetr.utils.shipped import load_vocabulary, resolve

SAMPLED = ("region_grid", "region_pixels", "region_iou_threshold")  # fields that decide which features are cached


def names_of(folder: str, base_names: int | None) -> tuple[list[str], list[str]]:
    """(base names, novel names) of a folder. With fewer base names, the others count as novel."""
    base, novel = read_split(Path(folder) / "names.json")
    if base_names is None:
        return base, novel
    kept = few_names(base, base_names)
    return kept, novel + [name for name in base if name not in kept]


class Comparison:
    """What all runs share.

    Args:
        options ([`ComparisonOptions`]).
        train_images, val_images: so many of the images of each split, the first ones. Default: all.
        device: of everything. "auto": an accelerator if there is one.
    """

    def __init__(
        self,
        options: ComparisonOptions,
        train_images: int | None = None,
        val_images: int | None = None,
        device: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.steps, self.data, self.built = options.steps, Path(options.folder), Path(options.built)
        self.base, self.novel = names_of(options.folder, options.base_names)
        self.names = load_vocabulary(options.vocabulary)
        localized = DeCoDetrForObjectDetection.from_pretrained(resolve(options.model, "model"))
        self.localized = localized.to(self.device).eval()
        self.processor = DeCoDetrImageProcessor.from_pretrained(resolve(options.model, "model"))
        self.clip = ClipEmbedder(resolve(options.clip, "CLIP"), self.device)
        self.pool = PrototypePool.from_pretrained(self.built / "pool")
        self._check_space(options)
        self.pool.info["space"] = self.space(self.pool)
        annotations = self.data / "annotations"
        self.splits = {
            split: _first(CocoAnnotations.load(annotations / f"{split}.json"), val_images) for split in options.splits
        }
        train = CocoAnnotations.load(annotations / "train.json").select(self.base)
        self.train_annotations = _first(train, train_images)
        self.training_names = list(self.train_annotations.names)
        self.weak_labels: WeakLabels | None = None  # what training knows of whole images
        self._sampled: dict[tuple, FeatureCache] = {}

    def _check_space(self, options):
        """Pool, names and teacher are of one CLIP. The model's own may be another one."""
        for option, given, info in (
            ("--vocabulary", options.vocabulary, self.names.info),
            ("--clip", options.clip, self.clip.info),
        ):
            if not same_encoder(self.pool.info, info):
                raise ValueError(
                    f"{option} {given} is of another CLIP than the pool of --built {options.built} "
                    f"({self.pool.info.get('encoder')}); give that of the pool, or make the other one again with "
                    "`decodetr vocabulary build --clip` or `decodetr pool build --clip`"
                )

    def space(self, pool: PrototypePool) -> dict[str, Any]:
        """The teacher's space as regions and pool show it, asked by the names alone that have boxes here."""
        return measure_space(open_stage(self.built, "regions"), open_stage(self.built, "texts"), pool, self.base)

    def changed_pool(self, change: PoolChange) -> PrototypePool:
        """The pool with a change. What `pool build` chooses by the space of a pool is chosen again, but for random
        prototypes, which name nothing that could be asked for."""
        pool = changed_pool(self.built, self.clip, self.pool, change)
        if change != PoolChange() and not change.random:
            pool.info["space"] = self.space(pool)
        return pool

    @cached_property
    def cache(self) -> FeatureCache:
        """The detector's features of the training scenes, from its one run over them."""
        return self.make_cache()

    def make_cache(
        self, views: int = CACHE_VIEWS, fields: Mapping[str, Any] | None = None, **options: Any
    ) -> FeatureCache:
        """The same, as a config with these `fields` reads them. `options`: of [`FeatureCache.build`]."""
        sizes = {"batch_size": SEMANTIC_TRAINING["--per_device_eval_batch_size"], "views": views}
        model = self.model(self.pool, fields or {}).to(self.device)
        return FeatureCache.build(model, self.dataset(), detection_collate, **sizes, **options)

    def dataset(self) -> DetectionDataset:
        """The training scenes with regions, blurred and noisy from the second time on that they are seen."""
        return DetectionDataset(
            self.train_annotations,
            self.processor,
            self.training_names,
            weak_labels=self.weak_labels,
            regions=RegionTable.load(self.built / "regions", unkept=True),
            augmentation=DetectionAugmentation(
                0, blur=SEMANTIC_TRAINING["--blur"], noise=SEMANTIC_TRAINING["--noise"]
            ),
        )

    def features(self, fields: Mapping[str, Any]) -> FeatureCache:
        """Those that a config with these fields reads: `cache`, unless it samples boxes in another way."""
        own = {name: fields[name] for name in SAMPLED if name in fields}
        own = {name: value for name, value in own.items() if value != getattr(self.localized.config, name)}
        if not own:
            return self.cache
        key = tuple(own.items())
        if key not in self._sampled:
            self._sampled[key] = self.make_cache(fields=own)
        return self._sampled[key]

    def model(self, pool: PrototypePool, fields: Mapping[str, Any]) -> DeCoDetrForObjectDetection:
        """The localization stream with a fresh semantic stream and the training names."""
        localized = self.localized.config
        config = localized.to_dict() | fields_of_new_stream(localized) | dict(fields)
        for key in ("prototype_captions", "pool_info", "vocabulary_info", "id2label", "label2id", "architectures"):
            config.pop(key, None)
        fine = pool.num_fine
        config |= {"num_coarse_prototypes": len(pool) - fine, "num_fine_prototypes": fine}
        config["embedding_dim"] = pool.embedding_dim  # of another CLIP than the model's own, maybe
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**config))
        model.detector.load_state_dict(self.localized.detector.state_dict())
        model.set_pool(pool, self.names.select(self.training_names))
        return model

    def train(
        self,
        pool: PrototypePool,
        fields: Mapping[str, Any],
        seed: int,
        training: Mapping[str, Any] | None = None,
        begin: Callable[[DeCoDetrForObjectDetection], None] | None = None,
    ) -> DeCoDetrForObjectDetection:
        """A model whose semantic stream was trained with this seed.

        Args:
            training: options of the training that differ from `SEMANTIC_TRAINING`, by their words.
            begin: is given the model before its first step.
        """
        cache = self.features(fields)  # before the seed is set: making it draws random weights
        return self._trained(pool, fields, seed, {**SEMANTIC_TRAINING, **(training or {})}, begin, cache)

    def _trained(self, pool, fields, seed, options, begin, data):
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.new_trainer(pool, fields, seed, options, begin, data, folder)
            trainer.train()
        return trainer.model

    def new_trainer(
        self,
        pool: PrototypePool,
        fields: Mapping[str, Any],
        seed: int,
        options: Mapping[str, Any],
        begin: Callable[[DeCoDetrForObjectDetection], None] | None,
        data: Dataset,
        folder: str,
    ) -> DeCoDetrTrainer:
        """What will train a new model with this seed. Its words are `options`, its files go to `folder`."""
        set_seed(seed)
        model = self.model(pool, fields)
        if begin is not None:
            begin(model)
        parser = HfArgumentParser(DeCoDetrTrainingArguments)
        own = {"--max_steps": self.steps, "--seed": seed, "--output_dir": folder}
        own["--use_cpu"] = str(self.device.type == "cpu").lower()
        words = [str(word) for word in flat({**options, **own})]
        # those of the command alone, as --blur, are left over
        arguments, _ = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
        return self.trainer(model, arguments, data)

    def trainer(
        self, model: DeCoDetrForObjectDetection, arguments: DeCoDetrTrainingArguments, data: Dataset
    ) -> DeCoDetrTrainer:
        """What trains a model."""
        return DeCoDetrTrainer(model, arguments, data)

    def measure(
        self, model: DeCoDetrForObjectDetection, sizes: Sequence[int | str] = SIZES
    ) -> dict[str, dict[str, float]]:
        """{split: what `measure` says of the model}."""
        return {
            split: measure(model, self.processor, coco, self.names, self.novel, sizes=sizes, progress=False)
            for split, coco in self.splits.items()
        }

    def ceiling(self, split: str) -> dict[str, float]:
        """What the teacher itself reaches on a split."""
        teacher = (self.names, self.novel, self.clip)
        return teacher_ceiling(self.localized, self.processor, self.splits[split], *teacher)


def contents_of(options: ComparisonOptions) -> dict[str, Any]:
    """{name: digest} of what decides the results, besides the settings that name it."""
    given = {name: getattr(options, name) for name in ("model", "vocabulary", "clip", "trained")}
    folders = {name: Path(resolve(folder)) for name, folder in given.items() if folder}
    folders |= {name: Path(options.built) / name for name in ("pool", "regions")}
    folders["annotations"] = Path(options.folder) / "annotations"
    return {name: folder_digest(folder) for name, folder in folders.items()}


def _first(coco, count):
    """The first images of a split, or all."""
    if count is None:
        return coco
    return coco.select_images({image["image_id"] for image in coco.images[:count]})
