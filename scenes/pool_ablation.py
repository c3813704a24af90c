"""`decodetr scenes compare`: what the pool does for names that never had a box, and what seeds do.

The detector of a model runs once over the training scenes; over these cached features the semantic stream is trained
anew for every variant and seed, as the shipped one was, and each is measured as `decodetr scenes measure` does it.
Runs that OUTPUT/runs.json has already are not repeated; processes with different variants may share a folder. With
--base-names, few names keep their boxes, and those of the others are regions without a name.
"""

import re
import statistics
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path

from decodetr.scenes.command_runner import flat
from decodetr.scenes.shipped_models import CACHE_VIEWS, SEMANTIC_STEPS, SEMANTIC_TRAINING
from decodetr.scenes.world import few_names
from decodetr.utils.documents import read_json
from decodetr.utils.files import LOCK, claim, output_folder, write_json, write_text
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect, expect_file
from decodetr.utils.tables import markdown_tables

SPLITS = {"val": "Validation", "test": "The shifted split"}
VARIANTS = {
    "captions": "captions",
    "silent": "captions, none mentions a novel name",
    "random": "random pool",
    "background": "pool as background only",
    "none": "no pool",
    "no-thumbnails": "captions; query and maps, no thumbnails",
    "query": "captions; query only",
    "free": "captions; lookup + MLP, unbounded",
    "both": "captions; L_distill at the embedding too",
    "wide": "captions; the paper's 0.07, nothing centred, the background of prototypes alone",
}
_MORE = ("free", "both", "wide")  # only where they are asked for
_WIDE = {f"{name}_temperature": 0.07 for name in ("assignment", "teacher", "teacher_name", "name")}
_WIDE |= {"centred": False, "background_threshold": 0.9, "background_level": -1, "background_margin": 0}
# Of all runs of a folder.
_SETTINGS = ("folder", "base_names", "model", "built", "vocabulary", "clip", "splits", "steps", "trained")
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


def add_arguments(parser):
    """Arguments of `decodetr scenes compare`."""
    parser.add_argument("folder", metavar="DIR", help="folder of `decodetr scenes write`")
    parser.add_argument("--model", default="scenes-decodetr", help="DeCo-DETR with a trained localization stream")
    parser.add_argument("--built", required=True, help="output of `decodetr pool build`")
    parser.add_argument("--vocabulary", default="scenes-vocabulary", help="folder of all names")
    parser.add_argument("--clip", default="scenes-clip", help="the teacher")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=[name for name in VARIANTS if name not in _MORE],
        help="only these",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of the semantic stream")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="test is the shifted split")
    parser.add_argument("--steps", type=int, default=SEMANTIC_STEPS, metavar="N", help="of the semantic stream")
    parser.add_argument(
        "--base-names", type=int, metavar="N", help="so many of the base names keep their boxes; the others are novel"
    )
    parser.add_argument("--trained", metavar="MODEL", help="a trained model that counts as seed 0 of captions")
    parser.add_argument("--output", required=True, help="folder for runs.json and table.md")


def variants(pool, silent, random):
    """{key of VARIANTS: (pool, fields of the config that differ)}."""
    return {
        "captions": (pool, {}),
        "silent": (silent, {}),
        "random": (random, {}),
        "background": (pool, {"pool_use": "background", **_NO_LOOKUP}),
        "none": (pool, {"pool_use": "none", **_NO_LOOKUP}),
        "no-thumbnails": (pool, {"region_pixels": 0}),
        "query": (pool, {"semantic_inputs": "query"}),
        "free": (pool, {"residual_weight": None}),
        "both": (pool, {"distill_at": "both"}),
        "wide": (pool, _WIDE),
    }


def silent_pool(regions_folder, clip, pool, novel_names):
    """The pool of the same regions without the captions that mention a novel name, in whatever words."""
    from collections import Counter

    import numpy as np
    import pyarrow.parquet as pq

    from decodetr.pool_builder.selection import cluster, pool_of_clusters
    from decodetr.pool_builder.settings import PoolSettings

    counts = Counter()
    for shard in sorted(Path(regions_folder).glob("*.parquet")):
        rows = pq.read_table(shard, columns=["caption", "kept"]).to_pylist()
        counts.update(row["caption"] for row in rows if row["kept"])
    captions = [caption for caption in sorted(counts) if not mentions(caption, novel_names)]
    settings = PoolSettings(**{name: pool.info[name] for name in ("num_coarse", "num_fine", "min_samples", "seed")})
    _say(f"captions without novel names: {len(captions)} of {len(counts)} distinct ones")
    weights = np.array([counts[caption] for caption in captions])
    embeddings = clip.embed_texts(captions)
    coarse, fine, eps = cluster(embeddings, weights, settings)
    return pool_of_clusters(embeddings, captions, weights, coarse, fine, pool.info | {"eps": eps})


def _split(args):
    """(base names, novel names) of the folder; with --base-names, the other base names count as novel."""
    from decodetr.annotations.names_split import read_split

    base, novel = read_split(Path(args.folder) / "names.json")
    if args.base_names is None:
        return base, novel
    kept = few_names(base, args.base_names)
    return kept, novel + [name for name in base if name not in kept]


def mentions(caption, names):
    """Whether a caption has all words of one of the names in it, or is a paraphrase of one of the drawn world."""
    from decodetr.scenes.captions import mentioned_name

    drawn, words = mentioned_name(caption), set(re.findall(r"[\w'-]+", caption.lower()))
    return (drawn is not None and drawn.name in names) or any(set(name.lower().split()) <= words for name in names)


class Comparison:
    """What all runs share: data, tables, the localization stream and its cached features.

    Args:
        args: of the command.
    """

    def __init__(self, args):
        from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool
        from decodetr.pool_builder.embedder import ClipEmbedder
        from decodetr.pool_builder.selection import measure_space
        from decodetr.pool_builder.stages import open_stage
        from decodetr.processing import CocoAnnotations
        from decodetr.utils.shipped import load_vocabulary, resolve

        self.steps, self.data, self.built = args.steps, Path(args.folder), Path(args.built)
        base, self.novel = _split(args)
        self.names = load_vocabulary(args.vocabulary)
        self.localized = DeCoDetrForObjectDetection.from_pretrained(resolve(args.model, "model")).eval()
        self.processor = DeCoDetrImageProcessor.from_pretrained(resolve(args.model, "model"))
        self.clip = ClipEmbedder(resolve(args.clip, "CLIP"))
        self.pool = PrototypePool.from_pretrained(self.built / "pool")
        self._check_space(args)
        stages = [open_stage(self.built, stage) for stage in ("regions", "texts")]
        self.pool.info["space"] = measure_space(*stages, self.pool, among=base)  # by the names that have boxes here
        annotations = self.data / "annotations"
        self.splits = {split: CocoAnnotations.load(annotations / f"{split}.json") for split in args.splits}
        self.train_annotations = CocoAnnotations.load(annotations / "train.json").select(base)
        self._cache = None

    def _check_space(self, args):
        """Pool, names and teacher are of one CLIP; the model's own may be another one."""
        from decodetr.modeling_decodetr.vocabulary import same_encoder

        for option, given, info in (
            ("--vocabulary", args.vocabulary, self.names.info),
            ("--clip", args.clip, self.clip.info),
        ):
            if not same_encoder(self.pool.info, info):
                raise ValueError(
                    f"{option} {given} is of another CLIP than the pool of --built {args.built} "
                    f"({self.pool.info.get('encoder')}); give that of the pool, or make the other one anew with "
                    "`decodetr vocabulary build --text-model` or `decodetr pool build --clip`"
                )

    @property
    def cache(self):
        """The detector's features of the training scenes, from its one run over them."""
        if self._cache is None:
            from decodetr.processing import DetectionAugmentation, DetectionDataset, RegionTable, detection_collate
            from decodetr.training.feature_cache import FeatureCache

            shifts = {"blur": SEMANTIC_TRAINING["--blur"], "noise": SEMANTIC_TRAINING["--noise"]}
            dataset = DetectionDataset(
                self.train_annotations,
                self.processor,
                self.train_annotations.names,
                regions=RegionTable.load(self.built / "regions"),
                augmentation=DetectionAugmentation(0, **shifts),
            )
            sizes = {"batch_size": SEMANTIC_TRAINING["--per_device_eval_batch_size"], "views": CACHE_VIEWS}
            self._cache = FeatureCache.build(self.model(self.pool, {}), dataset, detection_collate, **sizes)
        return self._cache

    def random_pool(self):
        """Prototypes that say nothing, in the same space."""
        import numpy as np

        from decodetr.pool_builder.space import random_pool
        from decodetr.processing import RegionTable

        regions = RegionTable.load(self.built / "regions")
        ids = regions.image_ids[:400]
        return random_pool(self.pool, np.concatenate([regions.get(image)["image_embeds"] for image in ids]))

    def model(self, pool, fields):
        """The localization stream with a fresh semantic stream and the training names."""
        from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
        from decodetr.modeling_decodetr.configuration_decodetr import UNCALIBRATED
        from decodetr.training.starting_point import fields_of_space

        localized = self.localized.config
        config = localized.to_dict() | fields_of_space(localized) | UNCALIBRATED | fields
        for key in ("prototype_captions", "pool_info", "vocabulary_info", "id2label", "label2id", "architectures"):
            config.pop(key, None)
        fine = pool.num_fine
        config |= {"num_coarse_prototypes": len(pool) - fine, "num_fine_prototypes": fine}
        config["embedding_dim"] = pool.embedding_dim  # of another CLIP than the model's own, maybe
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**config))
        model.detector.load_state_dict(self.localized.detector.state_dict())
        model.set_pool(pool, self.names.select(self.train_annotations.names))
        return model

    def train(self, pool, fields, seed):
        """A model whose semantic stream was trained with this seed."""
        from transformers import HfArgumentParser, set_seed

        from decodetr.training.arguments import DeCoDetrTrainingArguments
        from decodetr.training.trainer import DeCoDetrTrainer

        cache = self.cache  # before the seed is set: making it draws random weights
        set_seed(seed)
        model = self.model(pool, fields)
        parser = HfArgumentParser(DeCoDetrTrainingArguments)
        with tempfile.TemporaryDirectory() as folder:
            words = SEMANTIC_TRAINING | {"--max_steps": self.steps, "--seed": seed, "--output_dir": folder}
            words = [str(word) for word in flat(words)]  # those of the command alone, as --blur, are left over
            arguments, _ = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
            DeCoDetrTrainer(model, arguments, cache).train()
        return model

    def measure(self, model):
        """{split: what `measure` says of the model}."""
        from decodetr.scenes.measure import measure

        return {
            split: measure(model, self.processor, coco, self.names, self.novel, progress=False)
            for split, coco in self.splits.items()
        }

    def ceiling(self, split):
        """What the teacher itself reaches on a split."""
        from decodetr.scenes.measure import teacher_ceiling

        teacher = (self.names, self.novel, self.clip)
        return teacher_ceiling(self.localized, self.processor, self.splits[split], *teacher)


def tables(results):
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
    """What a run reached with all names in the vocabulary; the tables have the rest."""
    keys = {"novel": "AP50_novel, all", "base": "AP50_base, all", "all": "AP50, all"}
    splits = (
        f"{split} AP50 " + ", ".join(f"{word} {found[key]:.1f}" for word, key in keys.items())
        for split, found in measured.items()
    )
    return f"{name}, seed {seed}: " + "; ".join(splits)


def _say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _contents(args):
    """{name: digest} of what decides the results, beside the settings that name it."""
    from decodetr.utils.model_identity import folder_digest
    from decodetr.utils.shipped import resolve

    given = {name: getattr(args, name) for name in ("model", "vocabulary", "clip", "trained")}
    folders = {name: resolve(folder) for name, folder in given.items() if folder}
    folders |= {name: Path(args.built) / name for name in ("pool", "regions")}
    folders["annotations"] = Path(args.folder) / "annotations"
    return {name: folder_digest(folder) for name, folder in folders.items()}


class _Results:
    """runs.json: settings, ceilings and runs; written after each run, together with what other processes added.

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
        from filelock import FileLock

        with FileLock(self.file.parent / f"{LOCK}-{self.file.name}"):  # another process adds in a moment too
            if self.file.exists():
                for variant, done in read_json(self.file, dict)["runs"].items():
                    self.content["runs"][variant] = done | self.content["runs"].get(variant, {})
            self.content[kind].setdefault(name, {}).update(entry)
            write_json(self.file, self.content)


def run(args):
    """Run `decodetr scenes compare`; returns the exit status."""

    def numbers():
        if args.steps < 1 or min(args.seeds) < 0:
            raise ValueError(f"--steps must be at least 1 and --seeds at least 0, got {args.steps} and {args.seeds}")

    data, built = Path(args.folder), Path(args.built).absolute()  # no names of the Hub
    run_checks(
        numbers,
        lambda: output_folder(args.output, "--output"),
        lambda: _split(args),
        *(partial(expect_file, "", data / "annotations" / f"{split}.json") for split in ("train", *args.splits)),
        lambda: expect("pool", built / "pool", "pool.json"),
        lambda: expect("regions data set", built / "regions", "*.parquet"),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("model", args.trained, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("CLIP", args.clip, "config.json"),
    )
    with ExitStack() as held:
        for variant in args.variants:  # processes with different variants share a folder
            held.enter_context(claim(args.output, f"decodetr scenes compare --variants {variant}", variant))
        return _run(args)


def _run(args):
    from decodetr.inference.loading import load_model

    output = Path(args.output)
    settings = {name: value for name, value in vars(args).items() if name in _SETTINGS}
    results = _Results(output / "runs.json", settings, _contents(args))
    comparison = Comparison(args)
    for split in args.splits:
        if split not in results.content["ceiling"]:
            results.add("ceiling", split, comparison.ceiling(split))
    silent = None
    if "silent" in args.variants:
        silent = silent_pool(comparison.built / "regions", comparison.clip, comparison.pool, comparison.novel)
    compared = variants(comparison.pool, silent, comparison.random_pool())
    for name, seed in product(args.variants, args.seeds):
        if str(seed) in results.content["runs"].get(name, {}):
            continue
        if (name, seed) == ("captions", 0) and args.trained:
            model, _ = load_model(args.trained)
        else:
            model = comparison.train(*compared[name], seed)
        results.add("runs", name, {str(seed): (measured := comparison.measure(model))})
        _say(_in_a_line(name, seed, measured))
    page = markdown_tables(tables(results.content))
    write_text(output / "table.md", page)
    _say(page)
    return 0
