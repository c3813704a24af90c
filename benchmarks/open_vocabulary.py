"""How well names are found that never had a box: the semantic stream against its teacher, and the pool's part in it.

    python benchmarks/open_vocabulary.py --model LOCALIZED --data scenes --built BUILT --output figures

`--model` has a trained localization stream. Its detector runs once over the training pictures; over these cached
features the semantic stream is trained anew for every variant and seed, and `decodetr scenes measure` is applied to
each on the validation and on the shifted split. Runs that `figures/runs.json` has already are not repeated; two
processes with different `--variants` may share a folder.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from decodetr.scenes.models import CACHE_VIEWS, SEMANTIC_STEPS, SEMANTIC_TRAINING

SPLITS = ("val", "test")
_NO_LOOKUP = {"distill_weight": 0.0}
_COLUMNS = {
    "AP50_novel, all": "novel",
    "AP50_base, all": "base",
    "AP50, all": "AP50",
    "AP50, 12": "12 names",
    "AP50, 1": "one name",
    "absent, all": "absent > 0.5",
    "absent, 1": "with one name",
}


def variants(pool, silent):
    """name: (pool, fields of the config that differ)."""
    import torch

    from decodetr import PrototypePool

    fine = int((pool.level == 1).sum())
    random = PrototypePool.random(len(pool) - fine, fine, pool.embedding_dim, torch.Generator().manual_seed(0))
    return {
        "captions": (pool, {}),
        "captions, none mentions a novel name": (silent, {}),
        "random pool": (random, {}),
        "pool as background only": (pool, {"pool_use": "background", **_NO_LOOKUP}),
        "no pool": (pool, {"pool_use": "none", **_NO_LOOKUP}),
        "query and maps, no thumbnails": (pool, {"region_pixels": 0}),
        "query only": (pool, {"semantic_inputs": "query"}),
    }


def silent_pool(regions_folder, clip, pool, novel_names):
    """The pool of the same regions without the captions that mention a novel name, in whatever words."""
    from collections import Counter

    import numpy as np
    import pyarrow.parquet as pq
    from harness import say

    from decodetr.pool_builder.build import cluster_captions
    from decodetr.pool_builder.settings import PoolSettings
    from decodetr.scenes.captions import mentioned_name

    counts = Counter()
    for shard in sorted(Path(regions_folder).glob("*.parquet")):
        rows = pq.read_table(shard, columns=["caption", "kept"]).to_pylist()
        counts.update(row["caption"] for row in rows if row["kept"])
    novel = set(novel_names)
    said = {caption: mentioned_name(caption) for caption in sorted(counts)}
    captions = [caption for caption, name in said.items() if name is None or name.name not in novel]
    settings = PoolSettings(**{name: pool.info[name] for name in ("num_coarse", "num_fine", "min_samples", "seed")})
    say(f"captions without novel names: {len(captions)} of {len(counts)} distinct ones")
    weights = np.array([counts[caption] for caption in captions])
    return cluster_captions(clip.embed_texts(captions), weights, captions, settings, pool.info)


class Bench:
    """What all runs share: data, tables, the localization stream and its cached features."""

    def __init__(self, args):
        from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
        from decodetr.eval import read_split
        from decodetr.pool_builder.embedder import ClipEmbedder
        from decodetr.processing import (
            CocoAnnotations,
            DetectionAugmentation,
            DetectionDataset,
            RegionTable,
            detection_collate,
        )
        from decodetr.processing.feature_cache import FeatureCache
        from decodetr.processing.shipped import resolve

        self.args, data, built = args, Path(args.data), Path(args.built)
        self.base, self.novel = read_split(data / "names.json")
        self.names = Vocabulary.from_pretrained(resolve(args.vocabulary))
        self.localized = DeCoDetrForObjectDetection.from_pretrained(resolve(args.model)).eval()
        self.processor = DeCoDetrImageProcessor.from_pretrained(resolve(args.model))
        self.clip = ClipEmbedder(resolve(args.clip))
        self.pool = PrototypePool.from_pretrained(built / "pool")
        self.silent_pool = silent_pool(built / "regions", self.clip, self.pool, self.novel)
        self.splits = {split: CocoAnnotations.load(data / "annotations" / f"{split}.json") for split in SPLITS}
        train = CocoAnnotations.load(data / "annotations" / "train.json").select(self.base)
        self.base = train.names
        regions = RegionTable.load(built / "regions")
        augmentation = DetectionAugmentation(0, blur=args.blur, noise=args.noise)
        dataset = DetectionDataset(train, self.processor, self.base, regions=regions, augmentation=augmentation)
        model = self.model(self.pool, {})
        self.cache = FeatureCache.build(model, dataset, detection_collate, batch_size=32, views=args.views)

    def model(self, pool, fields):
        """The localization stream with a fresh semantic stream and the training names."""
        from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection

        config = self.localized.config.to_dict() | self.args.fields | fields
        for key in ("prototype_captions", "pool_info", "vocabulary_info", "id2label", "label2id", "architectures"):
            config.pop(key, None)
        fine = int((pool.level == 1).sum())
        config |= {"num_coarse_prototypes": len(pool) - fine, "num_fine_prototypes": fine}
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**config))
        model.detector.load_state_dict(self.localized.detector.state_dict())
        model.set_pool(pool, self.names.select(self.base))
        return model

    def train(self, pool, fields, seed):
        """A model whose semantic stream was trained with this seed."""
        from transformers import set_seed

        from decodetr import DeCoDetrTrainer, DeCoDetrTrainingArguments

        set_seed(seed)
        model = self.model(pool, fields)
        with tempfile.TemporaryDirectory() as folder:
            arguments = DeCoDetrTrainingArguments(
                output_dir=folder,
                streams="semantic",
                cache_features=True,
                max_steps=self.args.steps,
                per_device_train_batch_size=self.args.batch_size,
                semantic_learning_rate=self.args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=50,
                align_weight_start=1.0,
                seed=seed,
                save_strategy="no",
                report_to="none",
                logging_steps=200,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            )
            DeCoDetrTrainer(model, arguments, self.cache).train()
        return model


def tables(results, names):
    """Markdown, a row for each variant in `names`: mean and, in brackets, lowest and highest of the seeds."""
    from harness import table

    parts = []
    for split in SPLITS:
        rows, ceiling = [], results["ceiling"][split]
        for variant in names:
            runs = results["runs"][variant]
            measured = [run[split] for run in runs.values()]
            values = [[run[column] for run in measured] for column in _COLUMNS]
            values.append([_percent(run["AP50_novel, all"], ceiling["AP50_novel"]) for run in measured])
            values.append([_percent(run["AP50_novel, all"], run["AP50_base, all"]) for run in measured])
            rows.append([variant, len(runs), *map(_cell, values)])
        cells = [f"{ceiling[key]:.1f}" for key in ("AP50_novel", "AP50_base", "AP50")]
        rows.append(["the teacher itself", "", *cells, *[""] * (len(_COLUMNS) - 1)])
        found = f"localization finds {ceiling['recall_novel']:.1f} % of novel, {ceiling['recall_base']:.1f} % of base"
        heads = ["variant", "seeds", *_COLUMNS.values(), "novel, % of teacher", "novel, % of base"]
        parts.append(f"{split} ({found} objects)\n\n" + table(heads, rows))
    return "\n".join(parts)


def _percent(part, whole):
    return 100 * part / whole if whole else float("nan")


def _cell(values):
    digits = 1 if max(values) >= 1 else 2
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-decodetr", help="DeCo-DETR with a trained localization stream")
    parser.add_argument("--data", required=True, help="folder of `decodetr scenes write`")
    parser.add_argument("--built", required=True, help="output of `decodetr pool build`")
    parser.add_argument("--vocabulary", default="scenes-vocabulary", help="all names")
    parser.add_argument("--clip", default="scenes-clip", help="the teacher")
    parser.add_argument("--variants", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    shipped = SEMANTIC_TRAINING  # the defaults are those of the shipped model
    rate, images = shipped["--semantic_learning_rate"], shipped["--per_device_train_batch_size"]
    parser.add_argument("--steps", type=int, default=SEMANTIC_STEPS, help="of the semantic stream")
    parser.add_argument("--learning-rate", type=float, default=rate, help="of the semantic stream")
    parser.add_argument("--batch-size", type=int, default=images, help="images in a step of the semantic stream")
    parser.add_argument("--views", type=int, default=CACHE_VIEWS, help="cached passes, all but one augmented")
    parser.add_argument("--blur", type=float, default=shipped["--blur"], help="of the augmentation")
    parser.add_argument("--noise", type=float, default=shipped["--noise"], help="of the augmentation")
    parser.add_argument("--fields", type=json.loads, default={}, help="JSON of config fields to change")
    parser.add_argument("--output", required=True, help="folder for runs.json and table.md")
    args = parser.parse_args()

    from harness import environment, say

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "runs.json"
    settings = {key: value for key, value in vars(args).items() if key not in ("variants", "seeds", "output")}
    results = {"settings": settings, "environment": environment("cpu"), "ceiling": {}, "runs": {}}
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["settings"] != settings:
            parser.error(f"{file} has other settings: {results['settings']}; choose another --output")

    from decodetr.scenes.measure import measure, teacher_ceiling

    bench = Bench(args)
    for split, coco in bench.splits.items():
        if split not in results["ceiling"]:
            teacher = (bench.names, bench.novel, bench.clip)
            results["ceiling"][split] = teacher_ceiling(bench.localized, bench.processor, coco, *teacher)
            say(f"ceiling, {split}: {results['ceiling'][split]}")
    compared = variants(bench.pool, bench.silent_pool)
    for name, (pool, fields) in compared.items():
        if args.variants and name not in args.variants:
            continue
        runs = results["runs"].setdefault(name, {})
        for seed in args.seeds:
            if str(seed) in runs:
                continue
            model = bench.train(pool, fields, seed)
            runs[str(seed)] = {
                split: measure(model, bench.processor, coco, bench.names, bench.novel, progress=False)
                for split, coco in bench.splits.items()
            }
            say(f"{name}, seed {seed}: {runs[str(seed)]}")
            if file.exists():  # what another process has added
                for other, done in json.loads(file.read_text(encoding="utf-8"))["runs"].items():
                    mine = results["runs"].setdefault(other, {})
                    mine.update((number, run) for number, run in done.items() if number not in mine)
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = tables(results, [name for name in compared if results["runs"].get(name)])
    (output / "table.md").write_text(page, encoding="utf-8")
    say(page)


if __name__ == "__main__":
    main()
