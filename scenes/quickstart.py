"""`decodetr quickstart`: the whole of DeCo-DETR in a few minutes on a CPU.

It only runs commands that a user could type, and shows each one: write scenes, write the stand-in teacher's
artifacts, train both streams, train the semantic stream further over cached features, evaluate, draw. Finished stages
are skipped when it is started again; `--overwrite` begins anew.
"""

import json
import shlex
import shutil
import sys
import time
from pathlib import Path

_MARKER = "quickstart.json"
_CONFIG = Path(__file__).parent.parent / "hub_cards" / "decodetr-scenes" / "config.yaml"
_SETTINGS = {
    "train_images": (2400, "scenes to train on"),
    "val_images": (160, "scenes to evaluate on"),
    "steps": (950, "optimizer steps of both streams together"),
    "semantic_steps": (1200, "further steps of the semantic stream over cached features"),
}


def add_arguments(parser):
    """Arguments of `decodetr quickstart`."""
    parser.add_argument("--output", default="decodetr-quickstart", help="folder for everything (default: %(default)s)")
    for name, (default, text) in _SETTINGS.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="delete an earlier quickstart in the folder first")


def run(args):
    """Run the stages that are not done yet, then write pictures and summary. Returns the exit status."""
    from decodetr.__main__ import main

    output = Path(args.output)
    record = _claim(output, {name: getattr(args, name) for name in _SETTINGS}, args.overwrite)
    for number, (result, words) in enumerate(_stages(output, args), start=1):
        words = [str(word) for word in words]
        done = "done before: " if result.exists() else ""
        sys.stdout.write(f"\n[{number}/6] {done}decodetr {_shown(words)}\n")
        sys.stdout.flush()
        if done:
            continue
        started = time.perf_counter()
        status = main(words)
        if status:
            return status
        record["seconds"][f"{number} {words[0]}"] = round(time.perf_counter() - started, 1)
        (output / _MARKER).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _draw_curves(output)
    _draw_sheet(output)
    summary = _summary(output, record)
    (output / "README.md").write_text(summary, encoding="utf-8")
    sys.stdout.write(f"\n{summary}\nLook at {output / 'detections.png'} and {output / 'curves.png'}.\n")
    return 0


def _claim(output, settings, overwrite):
    """The record {"settings", "seconds"} of a folder that is new, or holds a quickstart of the same settings."""
    marker = output / _MARKER
    if output.exists() and any(output.iterdir()):
        if not marker.exists():
            raise ValueError(f"{output} is not empty and holds no quickstart; choose another --output.")
        record = json.loads(marker.read_text(encoding="utf-8"))
        if not overwrite and record["settings"] == settings:
            return record
        if not overwrite:
            raise ValueError(
                f"{output} holds a quickstart with other settings: {record['settings']}, now {settings}; give the "
                "same ones to finish it, another --output, or --overwrite to delete it."
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    record = {"settings": settings, "seconds": {}}
    marker.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def _stages(output, args):
    """(file that tells that a stage is finished, its command) in order; a generator, for later stages look at
    files."""
    data, standin, both, model = output / "scenes", output / "standin", output / "joint", output / "model"
    images = {"--train": args.train_images, "--val": args.val_images, "--test": args.val_images}
    yield data / "names.json", ["scenes", "write", data, *_flat(images)]
    yield standin / "vocabulary" / "vocabulary.json", ["scenes", "standin", data, "--output", standin]
    training = {
        "--data": data,
        "--regions": standin / "regions",
        "--vocabulary": standin / "vocabulary-base",
        "--deploy-vocabulary": standin / "vocabulary",
        "--val-annotations": "none",
        "--per_device_eval_batch_size": 32,
        "--warmup_steps": 50,
        "--lr_scheduler_type": "cosine",
        "--logging_steps": 25,
        "--save_strategy": "no",
        "--report_to": "none",
        "--dataloader_pin_memory": "false",
    }
    # A short run learns more from small batches and plain images.
    joint = {"--config": _CONFIG, "--pool": standin / "pool", "--max_steps": args.steps, "--learning_rate": 5e-4}
    joint = ["--output_dir", both, "--no-augmentation", "--per_device_train_batch_size", 8, *_flat(joint)]
    yield both / "train_results.json", ["train", *joint, *_flat(training)]
    semantic = {
        "--model": both,
        "--streams": "semantic",
        "--cache_features": "true",
        "--max_steps": args.semantic_steps,
        "--semantic_learning_rate": 4e-3,
        "--per_device_train_batch_size": 16,
        "--align_weight_start": 1,
    }
    yield model / "train_results.json", ["train", "--output_dir", model, *_flat(semantic), *_flat(training)]
    annotations = data / "annotations" / "val.json"
    report = ["--names-split", data / "names.json", "--batch-size", 32, "--output", output / "eval.json"]
    yield output / "eval.json", ["eval", "--model", model, "--annotations", annotations, *report]
    some = sorted((data / "val").glob("*.jpg"))[:12]
    pictures = output / "pictures"
    yield pictures / "detections.json", ["predict", *some, "--model", model, "--threshold", 0.2, "--output", pictures]


def _flat(options):
    return [word for pair in options.items() for word in pair]


def _shown(words):
    """The command line, with a long list of pictures cut short."""
    if len(pictures := [word for word in words if word.endswith(".jpg")]) > 1:
        words = [word for word in words if word not in pictures[1:]]
    return shlex.join(words)


def _history(output):
    """(steps before, log entries) of the two training stages."""
    before = 0
    for stage in ("joint", "model"):
        state = json.loads((output / stage / "trainer_state.json").read_text(encoding="utf-8"))
        yield before, [entry for entry in state["log_history"] if "loss_align" in entry]
        before += state["global_step"]


def _draw_curves(output):
    """curves.png: the loss of each stream over the optimizer steps of both stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    titles = {
        "loss_det": "localization: L_det",
        "loss_align": "names: L_align",
        "loss_distill": "prototypes: L_distill",
    }
    stages = list(_history(output))
    for axis, (name, title) in zip(axes, titles.items()):
        for (before, entries), label in zip(stages, ("both streams", "semantic stream over cached features")):
            points = [(before + entry["step"], entry[name]) for entry in entries if name in entry]
            if points:
                axis.plot(*zip(*points), label=label)
        axis.set(title=title, xlabel="optimizer step", ylim=(0, None))
        axis.grid(alpha=0.3)
    if axes[1].lines:
        axes[1].legend()
    figure.savefig(output / "curves.png", dpi=110)
    pyplot.close(figure)


def _draw_sheet(output):
    """detections.png: the annotated pictures side by side."""
    from PIL import Image

    report = json.loads((output / "pictures" / "detections.json").read_text(encoding="utf-8"))
    pictures = [Image.open(output / "pictures" / entry["picture"]) for entry in report["images"]]
    side, columns = 420, 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((side - 6, side - 6)), (i % columns * side + 3, i // columns * side + 3))
    sheet.save(output / "detections.png")


def _summary(output, record):
    """What was measured, as Markdown."""
    metrics = json.loads((output / "eval.json").read_text(encoding="utf-8"))["metrics"]
    rows = {
        "AP50, base names": "AP50_base",
        "AP50, novel names": "AP50_novel",
        "AP50, all names": "AP50",
        "AP50 of localization, all objects, whatever their name": "class_agnostic_AP50",
        "recall of novel objects at IoU 0.5": "class_agnostic_AR50_novel",
    }
    lines = ["# Quickstart", "", "| validation scenes | % |", "|---|---:|"]
    lines += [f"| {text} | {'-' if metrics[key] is None else round(metrics[key], 1)} |" for text, key in rows.items()]
    lines += ["", "| stage | s |", "|---|---:|"]
    lines += [f"| {stage} | {seconds} |" for stage, seconds in record["seconds"].items()]
    lines += [f"| together | {round(sum(record['seconds'].values()), 1)} |", ""]
    lines += [
        "The names' embeddings are random codes here, so nothing tells what a name means that was never annotated:",
        "novel objects are found, and cannot be named.",
        "",
        "![detections](detections.png)",
        "![losses](curves.png)",
    ]
    return "\n".join(lines) + "\n"
