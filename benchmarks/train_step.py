"""What a training step costs over that of the bare detector: both streams, semantic stream alone, cached features.

    python benchmarks/train_step.py                      # the small DeCo-DETR of the scenes, batch 16, random weights
    python benchmarks/train_step.py --model scenes-decodetr                                # the same, trained
    python benchmarks/train_step.py --config detr --image-size 800 --batch-size 8 --device cuda --bf16 --workers 8

Four trainers start from the same weights and take turns of a few steps in one process, over the same batches: `bare`,
the detector of transformers under transformers' own `Trainer` with the same arguments; `joint`; `semantic` over a
frozen detector; and `cached`, the semantic stream over cached features. A step is all that a trainer
does between two batches: forward, losses, backward, clipping, AdamW, and the momentum step of the pool. Making a batch
is timed apart, because a training run has it in worker processes. How long a run waits for them is measured over the
Trainer's own loader. At the end `Trainer.train` over the cache checks the times of the steps.

Memory is the peak of a training step, with weights, gradients and the optimizer's state, without what the process held
before: on CUDA what PyTorch allocated, on CPU the resident memory of a fresh process.

Images are drawn scenes and the teacher is the text-free stand-in: not their content decides the time, but how many
objects they have, and so how many queries are supervised. A trained detector (--model) puts several on an object,
one of random weights hardly more than the matched one.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from step_trainers import bare_batch, make_bare_trainer, make_trainer, prepare, step, trainer_losses

from decodetr.speed.catalog import OURS
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

CONFIG = Path(__file__).resolve().parent.parent / "hub_cards" / "scenes-decodetr" / "training_config.yaml"
MODES = {
    "bare": "the bare detector",
    "joint": "both streams",
    "semantic": "semantic stream over a frozen detector",
    "cached": "semantic stream over cached features",
}


def build_caches(model, dataset, args):
    """Feature caches of the same images, built `args.builds` times after one untimed batch: (cache, seconds)."""
    from torch.utils.data import Subset

    from decodetr.processing import detection_collate
    from decodetr.speed.timing import clock
    from decodetr.training.features.feature_cache import FeatureCache

    seconds = []
    first = Subset(dataset, range(min(args.batch_size, len(dataset))))
    FeatureCache.build(model, first, detection_collate, batch_size=args.batch_size)
    for _ in range(args.builds):
        start = clock(model.device)
        cache = FeatureCache.build(model, dataset, detection_collate, batch_size=args.batch_size)
        seconds.append(clock(model.device) - start)
    return cache, seconds


def measure(folder, args) -> dict:
    """All times in seconds, as spreads, and their ratios."""
    import torch

    from decodetr.modeling_decodetr.detectors import num_queries
    from decodetr.processing import detection_collate
    from decodetr.speed.timing import in_turn, ratios, spread
    from decodetr.training.features.feature_cache import feature_collate

    model, augmented, plain = prepare(folder, args)
    device = torch.device(args.device)
    cache, builds = build_caches(model.to(device), plain, args)
    trainers = {
        "bare": make_bare_trainer(model, folder, args),
        "joint": make_trainer(model, augmented, folder, args, streams="joint"),
        "semantic": make_trainer(model, augmented, folder, args, streams="semantic"),
        # The cache is given as the data set: `cache_features` would only build it once more.
        "cached": make_trainer(model, cache, folder, args, feature_collate, streams="semantic"),
    }
    generator = torch.Generator().manual_seed(0)
    batches = {}

    def load(dataset, collate):
        chosen = torch.randint(len(dataset), (args.batch_size,), generator=generator).tolist()
        return collate([dataset[i] for i in chosen])

    def load_images():
        batches["joint"] = batches["semantic"] = batch = load(augmented, detection_collate)
        batches["bare"] = bare_batch(batch, model)

    def load_features():
        batches["cached"] = load(cache, feature_collate)

    functions = {"load images": load_images, "load features": load_features}
    for name, trainer in trainers.items():
        functions[name] = lambda name=name, trainer=trainer: step(trainer, batches[name])
    seconds = in_turn(functions, device=device, warmup=args.warmup, runs=args.runs, calls=args.steps, lead=1)
    losses = {name: trainer_losses(trainer) for name, trainer in trainers.items() if name != "bare"}
    trainers.clear(), functions.clear()
    steps = {"streams": "semantic", "max_steps": args.train_steps}
    run = make_trainer(model, cache, folder, args, feature_collate, **steps).train()
    objects = [len(plain[i]["labels"]["boxes"]) for i in range(min(len(plain), 100))]
    return {
        "seconds": {name: spread(times) for name, times in seconds.items()},
        "ratio_to_bare": {name: ratios(seconds, name, "bare") for name in MODES},
        "ratio_semantic_to_cached": ratios(seconds, "semantic", "cached"),
        "losses": losses,
        "loading": {n: measure_loading(model, augmented, folder, args, n) for n in args.workers},
        "cache": {
            "images": len(plain),
            "seconds_per_image": spread([s / len(plain) for s in builds]),
            "bytes_per_image": cache.num_bytes / len(plain),
            "train_seconds_per_step": run.metrics["train_runtime"] / args.train_steps,
            "supervised_queries_per_image": cache.num_queries / len(plain),
        },
        "objects_per_image": sum(objects) / len(objects),
        "names": len(model.vocabulary),
        "prototypes": len(model.prototype_pool),
        "queries": num_queries(model.config.detector_config),
        "image_size": list(plain[0]["pixel_values"].shape[-2:]),
    }


def measure_loading(model, dataset, folder, args, workers) -> dict:
    """A joint training over the Trainer's own loader with some worker processes: images per second, and the share of
    the time in which it waits for a batch. The first steps do not count: workers start, and their queue is full."""
    from decodetr.speed.timing import clock, spread

    fields = {"streams": "joint", "dataloader_num_workers": workers, "dataloader_drop_last": True}
    trainer = make_trainer(model, dataset, folder, args, **fields)
    epochs = itertools.chain.from_iterable(trainer.get_train_dataloader() for _ in itertools.count())
    waits, steps = [], []
    for _ in range(args.loader_steps):
        start = clock(args.device)
        batch = next(epochs)
        loaded = clock(args.device)
        step(trainer, batch)
        waits.append(loaded - start)
        steps.append(clock(args.device) - loaded)
    skipped = args.loader_steps // 4
    waits, steps = waits[skipped:], steps[skipped:]
    total = sum(waits) + sum(steps)
    return {
        "images_per_second": args.batch_size * len(steps) / total,
        "share": sum(waits) / total,
        "wait": spread(waits),
        "step": spread(steps),
    }


def measure_memory(mode, folder, args) -> dict:
    """Bytes that training in one mode takes at its peak, and how many of them one step adds. In a fresh process."""
    import torch
    from torch.utils.data import Subset

    from decodetr.processing import detection_collate
    from decodetr.speed.machine import peak_bytes, reset_peak, used_bytes
    from decodetr.training.features.feature_cache import FeatureCache, feature_collate

    model, _, plain = prepare(folder, args)
    some = [i % len(plain) for i in range(args.batch_size)]
    batch = detection_collate([plain[i] for i in some])
    if mode == "bare":
        batch = bare_batch(batch, model)
    if mode == "cached":
        cache = FeatureCache.build(model, Subset(plain, some), detection_collate, batch_size=1)
        batch = feature_collate(list(cache))
    device = torch.device(args.device)
    before = used_bytes(device)
    if mode == "bare":
        trainer = make_bare_trainer(model, folder, args)
    else:
        trainer = make_trainer(model, plain, folder, args, streams="joint" if mode == "joint" else "semantic")
    for _ in range(2):
        step(trainer, batch)
    rest = used_bytes(device)
    reset_peak(device)
    for _ in range(2):
        step(trainer, batch)
    peak = peak_bytes(device)
    return {"training": peak - before, "step": peak - rest}


def memory_of_processes(folder, words, args, modes=tuple(MODES)) -> dict:
    """[`measure_memory`] of some modes, "bare" among them: medians of `args.memory_runs` fresh processes each."""
    # The C library gives large blocks back to the system at once, so that resident memory is memory in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 * 2**10)}
    found = {}
    for mode in modes:
        call = [sys.executable, __file__, *words, "--memory-of", mode, "--folder", str(folder)]
        runs = []
        for _ in range(args.memory_runs):
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        found[mode] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        found[mode]["runs"] = [run["training"] for run in runs]
    for mode in modes:
        found[mode]["ratio_to_bare"] = found[mode]["training"] / found["bare"]["training"]
    return found


def report(result, args):
    """Print the tables."""
    from harness import say, table

    from decodetr.speed.timing import show

    seconds, cache, memory = result["seconds"], result["cache"], result["memory"]
    say(
        f"\n## One optimizer step, batch {args.batch_size}, {'x'.join(map(str, result['image_size']))}, "
        f"{result['objects_per_image']:.1f} objects per image, {result['queries']} queries, {result['names']} names, "
        f"{result['prototypes']} prototypes\n"
    )
    rows = []
    for name, description in MODES.items():
        loading = seconds["load features" if name == "cached" else "load images"]
        row = [description, show(seconds[name], 1e3, 1), show(result["ratio_to_bare"][name], digits=4)]
        row += [f"{args.batch_size / seconds[name]['median']:.1f}", show(loading, 1e3, 1)]
        if memory:
            found = memory[name]
            row += [f"{found['training'] / 1e6:.0f}", f"{found['ratio_to_bare']:.3f}", f"{found['step'] / 1e6:.0f}"]
        rows.append(row)
    header = ["what trains", "step, ms", "ratio to bare", "images per second", "making its batch, ms"]
    header += ["peak memory, MB", "ratio to bare", "of it one step, MB"] if memory else []
    say(table(header, rows))
    say(f"Frozen detector over cached features: {show(result['ratio_semantic_to_cached'], digits=1)} x.\n")
    rows = [
        [n, f"{found['images_per_second']:.1f}", f"{100 * found['share']:.1f}", show(found["wait"], 1e3, 1)]
        for n, found in result["loading"].items()
    ]
    if rows:
        header = ["joint, loader's worker processes", "images per second", "waiting for data, %", "per step, ms"]
        say(table(header, rows))
    run = f"{1e3 * cache['train_seconds_per_step']:.1f}"
    rows = [
        ["time to build it, ms per image, with loading", show(cache["seconds_per_image"], 1e3, 2)],
        ["disk, kB per image", f"{cache['bytes_per_image'] / 1e3:.1f}"],
        ["supervised queries per image", f"{cache['supervised_queries_per_image']:.1f}"],
        [f"`Trainer.train` over it, {args.train_steps} steps, ms per step", run],
    ]
    say(table([f"cache of {cache['images']} images", "value"], rows))


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    start = arguments.add_mutually_exclusive_group()
    configs = f"DeCoDetrConfig in YAML or JSON, or one of {', '.join(OURS)}; random weights"
    start.add_argument("--config", default=str(CONFIG), help=configs)
    start.add_argument("--model", help="folder or name of a trained model instead")
    add("--image-size", type=int, metavar="N", help="side of the images (default: the config's, or 640)")
    add("--images", type=int, default=256, help="scenes to draw")
    add("--batch-size", type=int, default=16, help="images per step")
    add("--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where the model is")
    add("--bf16", action="store_true", help="mixed precision")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--warmup", type=int, default=2, help="untimed rounds")
    add("--runs", type=int, default=20, help="timed rounds")
    add("--steps", type=int, default=4, help="timed steps of each kind in a round, after one untimed")
    add("--workers", type=int, nargs="*", default=[0, 2], metavar="N", help="loaders to measure; none to skip")
    add("--loader-steps", type=int, default=20, help="steps with each loader, of which the first quarter is untimed")
    add("--memory-runs", type=int, default=3, help="processes in which the memory of each kind is measured; 0 to skip")
    add("--train-steps", type=int, default=300, help="length of the run of Trainer.train over the cache")
    add("--builds", type=int, default=3, help="times that the cache is built")
    add("--output", help="write all numbers to this JSON file")
    add("--memory-of", choices=MODES, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(words)
    import torch
    from harness import say, table

    from decodetr.speed.machine import environment

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        say(json.dumps(measure_memory(args.memory_of, args.folder, args)))
        return 0
    settings = {name: getattr(args, name) for name in ("bf16", "batch_size", "warmup", "runs", "steps", "builds")}
    machine = environment(args.device, **settings, start=args.model or args.config)
    say(table(["setting", "value"], machine.items()))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
        result["memory"] = memory_of_processes(folder, words, args) if args.memory_runs else None
    report(result, args)
    say(f"Measured in {time.perf_counter() - start:.0f} s.")
    if args.output:
        document = {"environment": machine, **result}
        write_json(args.output, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
