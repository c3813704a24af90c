"""What a fine-tune on a few names gains on them and loses on the others.

    decodetr scenes write scenes --train 4000
    python benchmarks/forgetting.py scenes --output tuned                       # ten names, half of them novel
    python benchmarks/forgetting.py scenes --output tuned --names weak.txt      # these names

Writes a COCO folder of the training scenes that show one of the names, with the boxes of these names alone, then runs
`decodetr train --model scenes-decodetr` on it in several ways and prints AP before and after (docs/finetune.md).
"""

import argparse
import random
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.documents import read_json, read_text
from decodetr.utils.files import max_bytes, write_json, write_text

COMMON = {
    "--model": "scenes-decodetr",
    "--streams": "semantic",
    "--cache_features": "true",
    "--align_weight_start": 1,
    "--lr_scheduler_type": "cosine",
    "--warmup_steps": 20,
    "--per_device_train_batch_size": 8,
    "--per_device_eval_batch_size": 32,
    "--save_strategy": "no",
    "--report_to": "none",
    "--dataloader_pin_memory": "false",
}
VARIANTS = {
    "default": [],
    "not exhaustive": ["--no-exhaustive"],
    "annotated names": ["--no-exhaustive", "--training-names", "annotated"],
    "no regions": ["--no-exhaustive", "--regions", "none"],
}


def choose(scenes, count):
    """`count` names by the seed 0, half of them novel."""
    split = read_json(scenes / "names.json")
    random.seed(0)
    novel, base = (sorted(map(int, split[group])) for group in ("novel", "base"))
    ids = random.sample(novel, count // 2) + random.sample(base, count - count // 2)
    names = {int(number): name for group in ("novel", "base") for number, name in split[group].items()}
    return [names[number] for number in sorted(ids)]


def write_subset(scenes, folder, names):
    """A COCO folder of the training scenes that show one of the names, with their boxes alone, and of all validation
    scenes. Returns (images, boxes)."""
    document = read_json(scenes / "annotations" / "train_full.json")
    categories = [row for row in document["categories"] if row["name"] in names]
    if missing := set(names) - {row["name"] for row in categories}:
        raise ValueError(f"{scenes}: expected names of the scenes, got {sorted(missing)[:5]}")
    ids = {row["id"] for row in categories}
    rows = [row for row in document["annotations"] if row["category_id"] in ids]
    shown = {row["image_id"] for row in rows}
    images = [row for row in document["images"] if row["id"] in shown]
    subset = {"images": images, "annotations": rows, "categories": categories}
    write_json(folder / "annotations" / "train.json", subset, indent=None)
    validation = read_text(scenes / "annotations" / "val.json", max_bytes())
    write_text(folder / "annotations" / "val.json", validation)
    for part in ("train", "val"):
        if not (folder / part).exists():
            (folder / part).symlink_to((scenes / part).resolve())
    return len(images), len(rows)


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = arguments.add_argument
    add("scenes", type=Path, help="folder of `decodetr scenes write`")
    add("--output", type=Path, required=True, help="folder of the subset and the runs")
    add("--names", type=Path, metavar="FILE", help="names to train on, one a line (default: drawn by a seed)")
    add("--count", type=int, default=10, help="how many names to draw (default: 10)")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="only these")
    add("--steps", type=int, default=400, help="of the semantic stream (default: 400)")
    add("--rate", type=float, default=1e-3, help="its learning rate (default: 0.001)")
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Write, train, report."""
    args = parser().parse_args(argv)
    from harness import say, table

    from decodetr.cli import main as decodetr
    from decodetr.utils.name_list import read_names

    names = read_names(file=args.names) if args.names else choose(args.scenes, args.count)
    images, boxes = write_subset(args.scenes, args.output / "data", names)
    say(f"{', '.join(names)}: {boxes} boxes in {images} images\n")
    rows = []
    for variant in args.variants:
        output = args.output / variant.replace(" ", "-")
        options = COMMON | {"--data": args.output / "data", "--output_dir": output}
        options |= {"--max_steps": args.steps, "--semantic_learning_rate": args.rate}
        words = [str(word) for pair in options.items() for word in pair]
        if status := decodetr(["train", *words, *VARIANTS[variant]]):
            return status
        report = read_json(output / "forgetting.json")
        ends = [report[end][f"AP50_{group}"] for group in ("trained", "held_out") for end in ("before", "after")]
        rows.append([variant, *(f"{value:.1f}" for value in ends)])
    say(table(["", "trained, before", "after", "others, before", "after"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
