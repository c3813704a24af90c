"""Cached features: bytes a query, speed of building, steps from disk against memory, AP with coded samples.

    python benchmarks/feature_cache.py bytes            # the scenes' detector, and RT-DETRv2-R50 of random weights
    python benchmarks/feature_cache.py steps --detectors rt_detr_v2 --images 64
    python benchmarks/feature_cache.py memory --synthetic-images 500 5000
    python benchmarks/feature_cache.py ap --scenes DIR --built BUILT --work WORK

`bytes` builds the cache of drawn scenes with samples as they are and coded, and says what a query takes, which
share of the variance stays, how many images a second it makes, and what COCO's images would take (computed). `steps`
times a training step with the making of its batch, from disk and from memory (decoded), in turn in one process;
"cold" is the first pass over files that the system no longer holds. `basis` compares PCA with other bases (of
RT-DETR's family). `memory` reads caches of several sizes at random, and says what the process holds. `ap` trains a
semantic stream over cached features for every budget and seed, as `decodetr scenes compare` does, and measures it on
validation scenes; DIR is of `decodetr scenes write`, BUILT of `decodetr pool build`. Caches and results stay in WORK:
the same command goes on.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from decodetr.speed.catalog import OURS
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

COCO_IMAGES = 118_287
_METRICS = {"AP50, all": "AP50", "AP50_base, all": "base", "AP50_novel, all": "novel"}


def prepared(detector, args, folder):
    """(model, plain data set) of a name of OURS, with random weights, or of a model."""
    from step_trainers import prepare

    ours = detector in OURS
    start = {"config": detector, "model": None} if ours else {"config": None, "model": detector}
    size = args.image_size if ours else None
    model, _, plain = prepare(folder, SimpleNamespace(**start, image_size=size, images=args.images))
    return model, plain


def build(model, dataset, args, query_bytes, folder=None):
    """(cache, seconds)."""
    from decodetr.processing import detection_collate
    from decodetr.speed.timing import clock
    from decodetr.training.features.feature_cache import FeatureCache

    start = clock(model.device)
    options = {"batch_size": args.batch_size, "num_workers": args.workers, "folder": folder}
    cache = FeatureCache.build(model, dataset, detection_collate, query_bytes=query_bytes, **options)
    return cache, clock(model.device) - start


def channels_of(cache):
    """Of each map, as they are read."""
    samples = cache[0]["samples"]
    return [part.shape[1] for part in (cache.coding.decode(samples) if cache.coding else samples)]


def bytes_of_queries(args):
    """Rows of a table."""
    rows = []
    for detector, budget, _, cache, seconds, images in caches(args):
        a_query = cache.num_bytes / cache.num_queries
        rows.append(
            {
                "detector": detector,
                "budget": budget,
                "channels": channels_of(cache),
                "variance kept, %": [round(100 * share, 2) for share in cache.coding.kept] if cache.coding else [],
                "bytes a query": round(a_query),
                "queries an image": round(cache.num_queries / images, 1),
                "images a second": round(images / seconds, 1),
                "COCO with 20 queries an image, GB": round(a_query * 20 * COCO_IMAGES / 1e9, 1),
            }
        )
    return rows


def caches(args):
    """(detector, budget, model, cache, seconds that it took, images) of all detectors and budgets. A cache is there
    until the next detector's turn."""
    for detector in args.detectors:
        with tempfile.TemporaryDirectory() as folder:
            model, plain = prepared(detector, args, Path(folder))
            model.to(args.device)
            for budget in (None, *args.query_bytes):
                cache, seconds = build(model, plain, args, budget, Path(folder) / f"cache-{budget}")
                yield detector, budget, model, cache, seconds, len(plain)


def steps_a_second(args):
    """Rows of a table."""
    return [
        {"detector": detector, "budget": budget, **steps_over(cache, model, args, cache.folder.parent)}
        for detector, budget, model, cache, *_ in caches(args)
    ]


def steps_over(cache, model, args, folder):
    """What steps over a cache take, with the making of a batch, and over the same items in memory, decoded."""
    from step_trainers import make_trainer, step

    from decodetr.speed.timing import clock, in_turn, ratios, show
    from decodetr.training.features.feature_cache import FeatureCache, feature_collate

    class InMemory(FeatureCache):
        """The same items, held."""

        def __init__(self, folder):
            super().__init__(folder)
            self.held = [_copied(super(InMemory, self).__getitem__(i)) for i in range(len(self))]
            if self.coding is not None:
                self.held = [{**item, "samples": self.coding.decode(item["samples"])} for item in self.held]
                self.coding = None  # nothing is left to decode

        def __getitem__(self, index):
            return self.held[index]

    data = {"memory": InMemory(cache.folder), "disk": cache}
    arguments = SimpleNamespace(batch_size=args.batch_size, device=args.device, bf16=False)
    trainers = {
        name: make_trainer(model, items, folder, arguments, feature_collate, streams="semantic")
        for name, items in data.items()
    }
    orders = {name: _endless(len(cache)) for name in data}
    bases = None if cache.coding is None else cache.coding.to(args.device).bases

    def one(name):
        trainer = trainers[name]
        batch = feature_collate([data[name][next(orders[name])] for _ in range(args.batch_size)])
        if bases is not None and name == "memory":
            batch["semantic_features"]["bases"] = bases
        step(trainer, batch)
        if bases is not None:
            trainer.model.semantic_stream.region_pooling.restrict(bases)

    functions = {name: partial(one, name) for name in data}
    seconds = in_turn(functions, device=args.device, warmup=2, runs=args.runs, calls=args.steps, lead=1)
    cold = {"memory": [], "disk": []}
    for _ in range(args.cold):
        for items in data.values():
            items._opened.clear()  # pages that somebody has mapped stay
        _forget(cache.folder)
        for name, seen in cold.items():
            orders[name] = _endless(len(cache))
            start = clock(args.device)
            for _ in range(len(cache) // args.batch_size):
                one(name)
            seen.append(clock(args.device) - start)
    return {
        "bytes a query": round(cache.num_bytes / cache.num_queries),
        "queries a step": round(args.batch_size * cache.num_queries / len(cache), 1),
        "steps a second, memory": round(1 / statistics.median(seconds["memory"]), 1),
        "disk": round(1 / statistics.median(seconds["disk"]), 1),
        "disk / memory": show(ratios(seconds, "memory", "disk"), digits=3),
        "cold disk / memory": show(ratios(cold, "memory", "disk"), digits=3) if args.cold else None,
        "cache, MB": round(cache.num_bytes / 1e6),
    }


def _endless(count):
    """Numbers below `count`, shuffled again and again."""
    import torch

    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _copied(item):
    return {
        name: [part.clone() for part in value] if isinstance(value, list) else value.clone()
        for name, value in item.items()
    }


def variance_of_bases(args):
    """Rows of a table: share of the variance of samples of every second batch that bases of as many channels hold: PCA
    of the other batches, the strongest directions of the detector's own projection of its maps, random ones."""
    import torch
    from torch.utils.data import DataLoader

    from decodetr.processing import detection_collate
    from decodetr.training.features.feature_coding import Moments

    rows, generator = [], torch.Generator().manual_seed(0)
    for detector in args.detectors:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model, plain = prepared(detector, args, Path(folder))
            model.to(args.device).eval()
            levels, halves = len(model.semantic_stream.region_pooling.projections), (Moments(), Moments())
            for number, batch in enumerate(DataLoader(plain, args.batch_size, collate_fn=detection_collate)):
                for item in model.extract_semantic_features(**batch):
                    halves[number % 2].add(item["samples"][:levels])
            modules = model.detector.named_modules()
            own = [m for name, m in modules if "encoder_input_proj" in name and isinstance(m, torch.nn.Conv2d)]
            for level, (_, pca) in enumerate(halves[0].components()):
                total, product = halves[1].sums[level] / halves[1].count, halves[1].products[level] / halves[1].count
                covariance = product - torch.outer(total, total)
                for channels in args.channels:
                    if channels > len(pca):
                        continue
                    bases = {"PCA": pca[:, :channels]}
                    bases["its own"] = torch.linalg.svd(own[level].weight.flatten(1))[2][:channels].T
                    bases["random"] = torch.linalg.qr(torch.randn(len(pca), channels, generator=generator))[0]
                    shares = {
                        name: round(
                            100 * ((b.double().T @ covariance @ b.double()).trace() / covariance.trace()).item(), 1
                        )
                        for name, b in bases.items()
                    }
                    rows.append(
                        {"detector": detector, "map": level, "channels": f"{channels} of {len(pca)}", **shares}
                    )
    return rows


def memory_of_readers(args):
    """Rows of a table: what a process holds that reads images at random, by the size of a cache of random numbers."""
    from decodetr.training.features.feature_cache import FeatureCache, feature_collate
    from decodetr.training.features.feature_shards import ShardFolder

    rows, width, shard_images = [], 88, 256
    for images in args.synthetic_images:
        with tempfile.TemporaryDirectory() as folder:
            shards, place = ShardFolder(folder), 0
            identity = {"made_by": {"captions": False}, "source": None}
            shards.write_manifest(
                {"identity": identity, "images": images, "views": 1, "shard_images": shard_images, "coded": None}
            )
            for shard in range(shards.count):
                places = shards.images(shard, 0)
                shards.write(shard, [_random_item(width) for _ in places], places)
            shards.finish()
            _forget(Path(folder))
            before, start = _own_memory(), time.perf_counter()
            cache = FeatureCache(folder)
            opened = time.perf_counter() - start
            order = _endless(len(cache))
            for place in range(args.reads):
                feature_collate([cache[next(order)] for _ in range(args.batch_size)])
                if not place:
                    first = time.perf_counter() - start
            rows.append(
                {
                    "images": images,
                    "cache, MB": round(cache.num_bytes / 1e6),
                    "opened, ms": round(1e3 * opened, 1),
                    "first batch, ms": round(1e3 * first, 1),
                    f"own memory after {args.reads} batches, MB more": round((_own_memory() - before) / 1e6, 1),
                }
            )
    return rows


def _random_item(width):
    import torch

    rows = {"queries": (20, 256), "region_embeds": (20, 512), "region_text_embeds": (0, 512)}
    item = {name: torch.empty(size, dtype=torch.float16).normal_() for name, size in rows.items()}
    item["samples"] = [torch.empty(20, width, 16, dtype=torch.float16).normal_() for _ in range(3)]
    return item | {"name_index": torch.zeros(20, dtype=torch.int64)}


def _own_memory():
    """Resident bytes that are not pages of files."""
    import psutil

    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)


def _forget(folder):
    """Have the system drop the pages of the files that nobody has mapped."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def ap(args):
    """Rows of a table: AP50 of every budget and seed."""
    from decodetr.scenes.comparison import Comparison
    from decodetr.scenes.measure import measure
    from decodetr.scenes.options import ComparisonOptions
    from decodetr.utils.documents import read_json

    work = Path(args.work)
    comparison = Comparison(
        ComparisonOptions(
            folder=args.scenes, model=args.model, built=args.built, vocabulary=args.vocabulary, clip=args.clip,
            variants=["captions"], seeds=args.seeds, splits=["val"], steps=args.train_steps, base_names=None,
            trained=None, output=str(work),
        )
    )  # fmt: skip
    if args.train_images:
        images = [image["image_id"] for image in comparison.train_annotations.images][: args.train_images]
        comparison.train_annotations = comparison.train_annotations.select_images(set(images))
    file = work / "ap.json"
    found = read_json(file, dict) if file.is_file() else {}
    budgets = (None, *args.query_bytes)
    for budget in budgets:
        cache = comparison.make_cache(
            args.views, folder=work / f"cache-{budget}-{args.train_images or 'all'}-{args.views}", query_bytes=budget
        )
        comparison.cache = cache
        entry = found.setdefault(
            _key(budget, args),
            {
                "bytes a query": round(cache.num_bytes / cache.num_queries),
                "channels": channels_of(cache),
                "variance kept": cache.coding.kept if cache.coding else None,
                "seeds": {},
            },
        )
        for seed in args.seeds:
            if str(seed) in entry["seeds"]:
                continue
            model = comparison.train(comparison.pool, {}, seed)
            data = (comparison.processor, comparison.splits["val"], comparison.names, comparison.novel)
            measured = measure(model, *data, sizes=["all"], progress=False)
            entry["seeds"][str(seed)] = {word: measured[key] for key, word in _METRICS.items()}
            write_json(file, found)
    raw, rows = None, []
    for budget in budgets:
        entry = found[_key(budget, args)]
        runs = [entry["seeds"][str(seed)] for seed in args.seeds]
        mean = {word: statistics.fmean(run[word] for run in runs) for word in _METRICS.values()}
        raw = raw or mean
        row = {"budget": budget, "bytes a query": entry["bytes a query"], "channels": entry["channels"]}
        kept = entry["variance kept"]
        row["variance kept, %"] = None if kept is None else [round(100 * share, 2) for share in kept]
        for word in _METRICS.values():
            values = [run[word] for run in runs]
            row[word] = f"{mean[word]:.2f} ({min(values):.2f} to {max(values):.2f})"
            row[f"{word} - raw"] = f"{mean[word] - raw[word]:+.2f}"
        rows.append(row)
    return rows


def _key(budget, args):
    return f"{budget}, {args.train_images or 'all'} images, {args.views} views, {args.train_steps} steps"


PARTS = {
    "bytes": bytes_of_queries,
    "steps": steps_a_second,
    "basis": variance_of_bases,
    "memory": memory_of_readers,
    "ap": ap,
}


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    add("part", choices=PARTS, help="what to measure")
    add("--query-bytes", type=int, nargs="*", default=[10_000], metavar="N", help="budgets beside samples as they are")
    add("--output", help="write all numbers to this JSON file")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--batch-size", type=int, default=8, help="images of a batch")
    some = arguments.add_argument_group("bytes, steps, basis")
    add = some.add_argument
    detectors = f"models, or of {', '.join(OURS)}, with random weights"
    add("--detectors", nargs="+", default=["scenes-decodetr", "rt_detr_v2"], metavar="NAME", help=detectors)
    add("--image-size", type=int, default=320, metavar="N", help="side of the images of those with random weights")
    add("--images", type=int, default=64, help="scenes to draw")
    add("--workers", type=int, default=0, help="loader's worker processes while a cache is built")
    add("--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where the model is")
    add("--runs", type=int, default=20, help="timed rounds")
    add("--steps", type=int, default=4, help="timed steps of each kind in a round")
    add("--cold", type=int, default=1, help="passes over files that the system no longer holds; 0: none")
    add("--channels", type=int, nargs="+", default=[8, 16, 32, 48], metavar="N", help="basis: of a map")
    some = arguments.add_argument_group("memory")
    add = some.add_argument
    add("--synthetic-images", type=int, nargs="+", default=[500, 5000], metavar="N", help="sizes; 5,000 are 1 GB")
    add("--reads", type=int, default=200, help="batches that are read")
    some = arguments.add_argument_group("ap")
    add = some.add_argument
    add("--scenes", metavar="DIR", help="scenes of `decodetr scenes write`")
    add("--built", metavar="DIR", help="output of `decodetr pool build` over them")
    add("--model", default="scenes-decodetr", help="its detector is used")
    add("--vocabulary", default="scenes-vocabulary", help="of all names")
    add("--clip", default="scenes-clip", help="the teacher")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the semantic stream")
    add("--train-steps", type=int, default=1200, help="of the semantic stream")
    add("--train-images", type=int, metavar="N", help="the first of them (default: all)")
    add("--views", type=int, default=1, help="of each image")
    add("--work", metavar="DIR", help="folder of caches and results")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.part == "ap" and not (args.scenes and args.built and args.work):
        arguments.error("ap needs --scenes, --built and --work")
    import torch
    from harness import say, table

    from decodetr.speed.machine import environment

    if args.threads:
        torch.set_num_threads(args.threads)
    machine = environment(**vars(args))
    say(table(["setting", "value"], machine.items()))
    rows = PARTS[args.part](args)
    say(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if args.output:
        write_json(args.output, {"environment": machine, args.part: rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
