"""Compare variants of the pool: what it does for names that never had a box, and what seeds do.

The detector of a model runs once over the training scenes. Over these cached features the semantic stream is trained
again for every variant and seed, with the defaults of a new one, and each is measured as `decodetr scenes measure`
does it.
Runs that OUTPUT/runs.json has already are not repeated. Processes with different variants may share a folder. With
--base-names, few names keep their boxes, and those of the others are regions without a name.
"""

import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from filelock import FileLock
from transformers import HfArgumentParser, set_seed

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool
from decodetr.annotations.names_split import read_split
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.vocabulary import same_encoder
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.pool_builder.selection import cluster, measure_space, pool_of_clusters
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.space import random_pool
from decodetr.pool_builder.stages import open_stage
from decodetr.processing import (
    CocoAnnotations,
    DetectionAugmentation,
    DetectionDataset,
    RegionTable,
    detection_collate,
)
from decodetr.scenes.captions import mentioned_name
from decodetr.scenes.command_runner import flat
from decodetr.scenes.measure import measure, teacher_ceiling
from decodetr.scenes.options import SPLITS, VARIANTS, ComparisonOptions
from decodetr.scenes.recipes import CACHE_VIEWS, SEMANTIC_TRAINING
from decodetr.scenes.world import few_names
from decodetr.training.arguments import DeCoDetrTrainingArguments
from decodetr.training.feature_cache import FeatureCache
from decodetr.training.starting_point import fields_of_new_stream
from decodetr.training.trainer import DeCoDetrTrainer
from decodetr.utils.documents import read_json
from decodetr.utils.files import LOCK, claim, write_json, write_text
from decodetr.utils.model_identity import folder_digest
from decodetr.utils.shipped import load_vocabulary, resolve
from decodetr.utils.tables import markdown_tables

_WIDE = {f"{name}_temperature": 0.07 for name in ("assignment", "teacher", "teacher_name", "name")}
_WIDE |= {"centred": False, "background_threshold": 0.9, "background_level": -1, "background_margin": 0}
_NO_LOOKUP = {"distill_weight": 0.0}
_COLUMNS = {
    "AP50_novel, all": "novel",
    "AP50_never_boxed, all": "crescents",
    "AP50_base, all": "base",
    "AP50, all": "AP50",
    "AP50, 12": "12 names",
    "AP50, 1": "one name",
    "absent, all": "absent > 0.5, %",
    "absent, 1": "with one name, %",
}


def variants(
    pool: PrototypePool, silent: PrototypePool | None, random: PrototypePool
) -> dict[str, tuple[PrototypePool, dict]]:
    """{key of VARIANTS: (pool, fields of the config that differ)}; "silent" where there is such a pool."""
    return {
        "captions": (pool, {}),
        **({} if silent is None else {"silent": (silent, {})}),
        "random": (random, {}),
        "background": (pool, {"pool_use": "background", **_NO_LOOKUP}),
        "none": (pool, {"pool_use": "none", **_NO_LOOKUP}),
        "no-thumbnails": (pool, {"region_pixels": 0}),
        "query": (pool, {"semantic_inputs": "query"}),
        "free": (pool, {"residual_weight": None}),
        "both": (pool, {"distill_at": "both"}),
        "wide": (pool, _WIDE),
    }


def silent_pool(
    regions_folder: str | Path,
    clip: ClipEmbedder,
    pool: PrototypePool,
    novel_names: list[str],
    say: Callable[[str], None],
) -> PrototypePool:
    """The pool of the same regions without the captions that mention a novel name, in whatever words. `say`: is told
    how many captions that leaves."""
    counts = Counter()
    for shard in sorted(Path(regions_folder).glob("*.parquet")):
        rows = pq.read_table(shard, columns=["caption", "kept"]).to_pylist()
        counts.update(row["caption"] for row in rows if row["kept"])
    captions = [caption for caption in sorted(counts) if not mentions(caption, novel_names)]
    settings = PoolSettings(**{name: pool.info[name] for name in ("num_coarse", "num_fine", "min_samples", "seed")})
    say(f"captions without novel names: {len(captions)} of {len(counts)} distinct ones")
    weights = np.array([counts[caption] for caption in captions])
    embeddings = clip.embed_texts(captions)
    coarse, fine, eps = cluster(embeddings, weights, settings)
    return pool_of_clusters(embeddings, captions, weights, coarse, fine, pool.info | {"eps": eps})


def names_of(folder: str, base_names: int | None) -> tuple[list[str], list[str]]:
    """(base names, novel names) of a folder. With fewer base names, the others count as novel."""
    base, novel = read_split(Path(folder) / "names.json")
    if base_names is None:
        return base, novel
    kept = few_names(base, base_names)
    return kept, novel + [name for name in base if name not in kept]


def mentions(caption: str, names: list[str]) -> bool:
    """Whether a caption has all words of one of the names in it, or is a paraphrase of one of the drawn world."""
    drawn, words = mentioned_name(caption), set(re.findall(r"[\w'-]+", caption.lower()))
    return (drawn is not None and drawn.name in names) or any(set(name.lower().split()) <= words for name in names)


class Comparison:
    """What all runs share: data, tables, the localization stream and its cached features.

    Args:
        options ([`ComparisonOptions`]).
    """

    def __init__(self, options: ComparisonOptions) -> None:
        self.steps, self.data, self.built = options.steps, Path(options.folder), Path(options.built)
        base, self.novel = names_of(options.folder, options.base_names)
        self.names = load_vocabulary(options.vocabulary)
        self.localized = DeCoDetrForObjectDetection.from_pretrained(resolve(options.model, "model")).eval()
        self.processor = DeCoDetrImageProcessor.from_pretrained(resolve(options.model, "model"))
        self.clip = ClipEmbedder(resolve(options.clip, "CLIP"))
        self.pool = PrototypePool.from_pretrained(self.built / "pool")
        self._check_space(options)
        regions, texts = open_stage(self.built, "regions"), open_stage(self.built, "texts")
        self.pool.info["space"] = measure_space(regions, texts, self.pool, among=base)  # names that have boxes here
        annotations = self.data / "annotations"
        self.splits = {split: CocoAnnotations.load(annotations / f"{split}.json") for split in options.splits}
        self.train_annotations = CocoAnnotations.load(annotations / "train.json").select(base)

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

    @cached_property
    def cache(self) -> FeatureCache:
        """The detector's features of the training scenes, from its one run over them."""
        return self.make_cache()

    def make_cache(self, views: int = CACHE_VIEWS, **options: Any) -> FeatureCache:
        """The same. `options`: of [`FeatureCache.build`]."""
        dataset = DetectionDataset(
            self.train_annotations,
            self.processor,
            self.train_annotations.names,
            regions=RegionTable.load(self.built / "regions", unkept=True),
            augmentation=DetectionAugmentation(
                0, blur=SEMANTIC_TRAINING["--blur"], noise=SEMANTIC_TRAINING["--noise"]
            ),
        )
        sizes = {"batch_size": SEMANTIC_TRAINING["--per_device_eval_batch_size"], "views": views}
        return FeatureCache.build(self.model(self.pool, {}), dataset, detection_collate, **sizes, **options)

    def random_pool(self) -> PrototypePool:
        """Prototypes that say nothing, in the same space."""
        regions = RegionTable.load(self.built / "regions")
        ids = regions.image_ids[:400]
        return random_pool(self.pool, np.concatenate([regions.get(image)["image_embeds"] for image in ids]))

    def model(self, pool: PrototypePool, fields: dict) -> DeCoDetrForObjectDetection:
        """The localization stream with a fresh semantic stream and the training names."""
        localized = self.localized.config
        config = localized.to_dict() | fields_of_new_stream(localized) | fields
        for key in ("prototype_captions", "pool_info", "vocabulary_info", "id2label", "label2id", "architectures"):
            config.pop(key, None)
        fine = pool.num_fine
        config |= {"num_coarse_prototypes": len(pool) - fine, "num_fine_prototypes": fine}
        config["embedding_dim"] = pool.embedding_dim  # of another CLIP than the model's own, maybe
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**config))
        model.detector.load_state_dict(self.localized.detector.state_dict())
        model.set_pool(pool, self.names.select(self.train_annotations.names))
        return model

    def train(self, pool: PrototypePool, fields: dict, seed: int) -> DeCoDetrForObjectDetection:
        """A model whose semantic stream was trained with this seed."""
        cache = self.cache  # before the seed is set: making it draws random weights
        set_seed(seed)
        model = self.model(pool, fields)
        parser = HfArgumentParser(DeCoDetrTrainingArguments)
        with tempfile.TemporaryDirectory() as folder:
            options = SEMANTIC_TRAINING | {"--max_steps": self.steps, "--seed": seed, "--output_dir": folder}
            words = [str(word) for word in flat(options)]  # those of the command alone, as --blur, are left over
            arguments, _ = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
            DeCoDetrTrainer(model, arguments, cache).train()
        return model

    def measure(self, model: DeCoDetrForObjectDetection) -> dict[str, dict[str, float]]:
        """{split: what `measure` says of the model}."""
        return {
            split: measure(model, self.processor, coco, self.names, self.novel, progress=False)
            for split, coco in self.splits.items()
        }

    def ceiling(self, split: str) -> dict[str, float]:
        """What the teacher itself reaches on a split."""
        teacher = (self.names, self.novel, self.clip)
        return teacher_ceiling(self.localized, self.processor, self.splits[split], *teacher)


def tables(results: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """Make a table for each split with a row for each variant: mean and, in brackets, lowest and highest of the seeds.
    Where few names keep their boxes, "base" are those, and "novel" all the others.

    Returns:
        list of (title, header, rows).
    """
    found, few = [], results["settings"].get("base_names")
    for split, ceiling in results["ceiling"].items():
        columns = {key: head for key, head in _COLUMNS.items() if head != "crescents" or "AP50_never_boxed" in ceiling}
        heads = ["variant", "seeds", *columns.values(), "novel, % of teacher", "novel, % of base"]
        rows = []
        for variant, words in VARIANTS.items():
            if not (runs := results["runs"].get(variant)):
                continue
            measured = [run[split] for run in runs.values()]
            values = [[run[column] for run in measured] for column in columns]
            values.append([_percent(run["AP50_novel, all"], ceiling["AP50_novel"]) for run in measured])
            values.append([_percent(run["AP50_novel, all"], run["AP50_base, all"]) for run in measured])
            rows.append([words, str(len(runs)), *map(_cell, values)])
        reached = [key.removesuffix(", all") for key in columns if key.startswith("AP50") and key.endswith("all")]
        teacher = [f"{ceiling[key]:.1f}" for key in reached]
        rows.append(["the teacher itself", "", *teacher, *[""] * (len(heads) - 2 - len(teacher))])
        recall = f"finds {ceiling['recall_novel']:.1f} % of novel and {ceiling['recall_base']:.1f} % of base objects"
        kept = f"{few} names have boxes; " if few else ""
        found.append((f"{SPLITS[split]}; {kept}localization {recall}", heads, rows))
    return found


def _percent(part, whole):
    return 100 * part / whole if whole else float("nan")


def _cell(values):
    digits = 1 if max(values) >= 1 else 2
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _in_a_line(name, seed, measured):
    """What a run reached with all names in the vocabulary. The tables have the rest."""
    keys = {"novel": "AP50_novel, all", "base": "AP50_base, all", "all": "AP50, all"}
    splits = (
        f"{split} AP50 " + ", ".join(f"{word} {found[key]:.1f}" for word, key in keys.items())
        for split, found in measured.items()
    )
    return f"{name}, seed {seed}: " + "; ".join(splits)


def _contents(options):
    """{name: digest} of what decides the results, besides the settings that name it."""
    given = {name: getattr(options, name) for name in ("model", "vocabulary", "clip", "trained")}
    folders = {name: resolve(folder) for name, folder in given.items() if folder}
    folders |= {name: Path(options.built) / name for name in ("pool", "regions")}
    folders["annotations"] = Path(options.folder) / "annotations"
    return {name: folder_digest(folder) for name, folder in folders.items()}


class _Results:
    """runs.json: settings, ceilings and runs. Written after each run, together with what other processes added.

    Raises:
        ValueError: the file has runs of other settings.
    """

    def __init__(self, file, settings, contents):
        self.file = file
        self.content = {"settings": settings, "contents": contents, "ceiling": {}, "runs": {}}
        if file.exists():
            self.content |= read_json(file, dict)
            if changed := [name for name in contents if self.content["contents"].get(name) != contents[name]]:
                raise ValueError(
                    f"{file} has runs of other contents of {', '.join(changed)}; choose another --output, or delete it"
                )
            if self.content["settings"] != settings:
                raise ValueError(
                    f"{file} has runs of other settings: {self.content['settings']}, now {settings}; choose another "
                    "--output, or delete it"
                )

    def add(self, kind, name, entry):
        """`entry` into content[kind][name]."""
        with FileLock(self.file.parent / f"{LOCK}-{self.file.name}"):  # another process adds in a moment too
            if self.file.exists():
                for variant, done in read_json(self.file, dict)["runs"].items():
                    self.content["runs"][variant] = done | self.content["runs"].get(variant, {})
            self.content[kind].setdefault(name, {}).update(entry)
            write_json(self.file, self.content)


def compare_pools(options: ComparisonOptions, say: Callable[[str], None]) -> str:
    """
    Train and measure what OUTPUT/runs.json does not have yet, and write it and table.md.

    Args:
        options: processes with different variants may share the output.
        say: is told, in a line, what a run reached.

    Returns:
        The tables, as Markdown.

    Raises:
        ValueError: the output has runs of other settings or contents.
    """
    with ExitStack() as held:
        for variant in options.variants:
            held.enter_context(claim(options.output, f"decodetr scenes compare --variants {variant}", variant))
        output = Path(options.output)
        results = _Results(output / "runs.json", options.settings(), _contents(options))
        comparison = Comparison(options)
        for split in options.splits:
            if split not in results.content["ceiling"]:
                results.add("ceiling", split, comparison.ceiling(split))
        silent = None
        if "silent" in options.variants:
            regions = comparison.built / "regions"
            silent = silent_pool(regions, comparison.clip, comparison.pool, comparison.novel, say)
        compared = variants(comparison.pool, silent, comparison.random_pool())
        for name, seed in product(options.variants, options.seeds):
            if str(seed) in results.content["runs"].get(name, {}):
                continue
            if (name, seed) == ("captions", 0) and options.trained:
                model, _ = load_model(options.trained)
            else:
                model = comparison.train(*compared[name], seed)
            results.add("runs", name, {str(seed): (measured := comparison.measure(model))})
            say(_in_a_line(name, seed, measured))
        page = markdown_tables(tables(results.content))
        write_text(output / "table.md", page)
        return page
