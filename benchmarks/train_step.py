"""What one optimizer step costs when both streams train, when only the semantic stream does, and over cached features.

    python benchmarks/streams.py                    # the small DeCo-DETR of the scenes, batch 16
    python benchmarks/streams.py --model my_model --device cuda --output streams.json

Three trainers start from the same weights and take turns of a few steps in one process: `joint`, `semantic` over a
frozen detector, and `semantic` over cached features (DESIGN.md 5). A step is all that `DeCoDetrTrainer` does between
two batches: forward, losses, backward, clipping, AdamW, momentum step of the pool. Loading is timed apart, because a
training run has it in worker processes. At the end `Trainer.train` over the cache checks the times of the steps.

Images are drawn scenes and the teacher is the text-free stand-in: not their content decides the time, but how many
objects they have, and so how many queries are supervised. A trained detector (--model) puts several on an object,
one of random weights hardly more than the matched one.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).resolve().parent.parent / "hub_cards" / "scenes-decodetr" / "training_config.yaml"
MODES = {
    "joint": "both streams",
    "frozen": "semantic stream over a frozen detector",
    "cached": "semantic stream over cached features",
}


def prepare(folder, args):
    """Scenes, stand-in teacher, model and data sets. Returns (model, augmented data set, plain data set)."""
    import torch
    from harness import read_config
    from standin import write_standin

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
    from decodetr.processing import CocoAnnotations, DetectionAugmentation, DetectionDataset, RegionTable
    from decodetr.scenes import SceneSettings, write_scenes

    torch.manual_seed(0)
    if args.model:
        model = DeCoDetrForObjectDetection.from_pretrained(args.model)
    else:
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**read_config(args.config)))
    processor = DeCoDetrImageProcessor(**(model.config.preprocessing or {}))
    settings = SceneSettings(train=args.images, val=1, test=1, image_size=processor.size["height"])
    data, teacher = write_scenes(folder / "scenes", settings), folder / "teacher"
    write_standin(data, teacher, dim=model.config.embedding_dim)
    coco = CocoAnnotations.load(data / "annotations" / "train.json")
    vocabulary = Vocabulary.from_pretrained(teacher / "vocabulary-base")
    model.set_pool(PrototypePool.from_pretrained(teacher / "pool"), vocabulary)
    parts = {"regions": RegionTable.load(teacher / "regions")}
    augmented = DetectionDataset(coco, processor, vocabulary.names, augmentation=DetectionAugmentation(0), **parts)
    return model, augmented, DetectionDataset(coco, processor, vocabulary.names, **parts)


def make_trainer(model, dataset, folder, args, data_collator=None, **fields):
    """A DeCoDetrTrainer that is ready to step, with weights of its own."""
    from decodetr import DeCoDetrTrainer, DeCoDetrTrainingArguments

    arguments = DeCoDetrTrainingArguments(
        output_dir=str(folder / "run"),
        use_cpu=args.device == "cpu",
        bf16=args.bf16,
        align_weight_start=1.0,
        per_device_train_batch_size=args.batch_size,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **fields,
    )
    trainer = DeCoDetrTrainer(copy.deepcopy(model), arguments, dataset, data_collator=data_collator)
    trainer.model.to(arguments.device)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # what Trainer.train sets before its first step
    return trainer


def step(trainer, batch):
    """One optimizer step, as `Trainer.train` makes it."""
    trainer.training_step(trainer.model, batch)
    trainer._clip_grad_norm(trainer.model)
    trainer.optimizer.step()
    trainer.step_pool()
    trainer.model.zero_grad()


def build_caches(model, dataset, args):
    """Feature caches of the same images, built `args.builds` times after one untimed batch: (cache, seconds)."""
    from harness import clock
    from torch.utils.data import Subset

    from decodetr.processing import detection_collate
    from decodetr.processing.feature_cache import FeatureCache

    seconds = []
    FeatureCache.build(model, Subset(dataset, range(args.batch_size)), detection_collate, batch_size=args.batch_size)
    for _ in range(args.builds):
        start = clock(model.device)
        cache = FeatureCache.build(model, dataset, detection_collate, batch_size=args.batch_size)
        seconds.append(clock(model.device) - start)
    return cache, seconds


def measure(folder, args) -> dict:
    """All times in seconds, as spreads, and their ratios."""
    import torch
    from harness import in_turn, ratios, spread

    from decodetr.processing import detection_collate
    from decodetr.processing.feature_cache import feature_collate

    model, augmented, plain = prepare(folder, args)
    device = torch.device(args.device)
    cache, builds = build_caches(model.to(device), plain, args)
    trainers = {
        "joint": make_trainer(model, augmented, folder, args, streams="joint"),
        "frozen": make_trainer(model, augmented, folder, args, streams="semantic"),
        # The cache is given as the data set: `cache_features` would only build it once more.
        "cached": make_trainer(model, cache, folder, args, feature_collate, streams="semantic"),
    }
    generator = torch.Generator().manual_seed(0)
    rows = {name: None for name in trainers}

    def load(dataset, collate):
        chosen = torch.randint(len(dataset), (args.batch_size,), generator=generator).tolist()
        return collate([dataset[i] for i in chosen])

    def load_images():
        rows["joint"] = rows["frozen"] = load(augmented, detection_collate)

    def load_features():
        rows["cached"] = load(cache, feature_collate)

    functions = {"load images": load_images, "load features": load_features}
    for name, trainer in trainers.items():
        functions[name] = lambda name=name, trainer=trainer: step(trainer, rows[name])
    seconds = in_turn(functions, device=device, warmup=args.warmup, runs=args.runs, calls=args.steps, lead=1)
    per_step = {name: spread(seconds[name]) for name in functions}
    steps = {"streams": "semantic", "max_steps": args.train_steps}
    run = make_trainer(model, cache, folder, args, feature_collate, **steps).train()
    objects = [len(plain[i]["labels"]["boxes"]) for i in range(min(len(plain), 100))]
    return {
        "seconds": per_step,
        "ratio_to_joint": {name: ratios(seconds, name, "joint") for name in MODES},
        "ratio_frozen_to_cached": ratios(seconds, "frozen", "cached"),
        "losses": {name: trainer_losses(trainer) for name, trainer in trainers.items()},
        "cache": {
            "images": len(plain),
            "seconds_per_image": spread([s / len(plain) for s in builds]),
            "bytes_per_image": cache.num_bytes / len(plain),
            "train_seconds_per_step": run.metrics["train_runtime"] / args.train_steps,
            "supervised_queries_per_image": sum(len(item["queries"]) for item in cache.items) / len(plain),
        },
        "objects_per_image": sum(objects) / len(objects),
        "names": len(model.vocabulary),
        "prototypes": len(model.prototype_pool),
        "queries": model.config.detector_config.num_queries,
        "image_size": list(plain[0]["pixel_values"].shape[-2:]),
    }


def trainer_losses(trainer) -> dict:
    """Mean of the main loss terms over all steps: a mode that learned nothing, or something else, would show here."""
    kept = ("loss_det", "loss_distill", "loss_align")
    sums, counts = trainer._term_sums, trainer._term_counts
    return {name: (sums[name] / counts[name]).item() for name in kept if counts[name]}


def report(result, args):
    """Print the tables."""
    from harness import say, show, table

    seconds, cache = result["seconds"], result["cache"]
    say(
        f"\n## One optimizer step, batch {args.batch_size}, {'x'.join(map(str, result['image_size']))}, "
        f"{result['objects_per_image']:.1f} objects per image, {result['queries']} queries, {result['names']} names, "
        f"{result['prototypes']} prototypes\n"
    )
    rows = []
    for name, description in MODES.items():
        loading = seconds["load features" if name == "cached" else "load images"]
        rows.append(
            [
                description,
                show(seconds[name], 1e3, 1),
                show(result["ratio_to_joint"][name], digits=4),
                f"{seconds['joint']['median'] / seconds[name]['median']:.1f} x",
                show(loading, 1e3, 1),
            ]
        )
    header = ["what trains", "step, ms", "ratio to joint", "steps per joint step", "loading of its batch, ms"]
    say(table(header, rows))
    say(f"Frozen detector over cached features: {show(result['ratio_frozen_to_cached'], digits=1)} x.\n")
    run = f"{1e3 * cache['train_seconds_per_step']:.1f}"
    rows = [
        ["time to build it, ms per image, with loading", show(cache["seconds_per_image"], 1e3, 2)],
        ["memory, kB per image", f"{cache['bytes_per_image'] / 1e3:.1f}"],
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
    start.add_argument("--config", default=str(CONFIG), help="DeCoDetrConfig in YAML or JSON; random weights")
    start.add_argument("--model", help="folder of a trained model instead")
    add("--images", type=int, default=256, help="scenes to draw")
    add("--batch-size", type=int, default=16, help="images per step")
    add("--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where the model is")
    add("--bf16", action="store_true", help="mixed precision")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--warmup", type=int, default=2, help="untimed rounds")
    add("--runs", type=int, default=20, help="timed rounds")
    add("--steps", type=int, default=4, help="timed steps of each kind in a round, after one untimed")
    add("--train-steps", type=int, default=300, help="length of the run of Trainer.train over the cache")
    add("--builds", type=int, default=3, help="times that the cache is built")
    add("--output", help="write all numbers to this JSON file")
    return arguments


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import torch
    from harness import environment, say, table

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("bf16", "batch_size", "warmup", "runs", "steps", "builds")}
    machine = environment(args.device, **settings)
    say(table(["setting", "value"], machine.items()))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
    report(result, args)
    say(f"Measured in {time.perf_counter() - start:.0f} s.")
    if args.output:
        document = {"environment": machine, **result}
        Path(args.output).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
