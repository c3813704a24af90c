"""The card of a trained model: what it is, what it learned from, what was measured, and how to use it."""

import json
import math
import shlex
from importlib.metadata import version
from pathlib import Path

from decodetr.evaluation.output_evaluator import rules_of
from decodetr.processing.html_report import markdown_table
from decodetr.processing.shipped import resolve
from decodetr.training.settings import in_words
from decodetr.utils.files import write_text

_HEADLINE = ("AP50_novel", "AP50_base", "AP50", "AP", "AP75", "class_agnostic_AP50")
_PACKAGES = ("decodetr", "torch", "transformers", "accelerate")
_SHOWN_NAMES = 30


def write_card(run, metrics, train_metrics):
    """
    Write OUTPUT/README.md.

    Args:
        run (TrainingRun): after training. metrics: of the final evaluation, or None. train_metrics: of the Trainer.

    Returns:
        Path: the card.
    """
    args, folder = run.args, Path(run.training.output_dir)
    start = args.model or args.detector or args.backbone
    front = ["---", "library_name: decodetr", "pipeline_tag: object-detection"]
    if start and resolve(start) == start and not Path(start).exists():  # of the Hub
        front.append(f"base_model: {json.dumps(start)}")
    sections = [
        _introduction(run, folder.resolve().name),
        _measured(run, metrics),
        _forgetting(run.forgetting),
        _knowledge(run.model.config.training_info),
        _training(run, train_metrics),
    ]
    text = "\n".join([*front, "---", *(line for section in sections for line in section)])
    return write_text(folder / "README.md", text + "\n")


def _introduction(run, title):
    names = run.deployed.names
    some = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    size = run.processor.size
    does = f"detects {len(names)} names: {some}"
    if not run.names_learned():
        does = f"finds objects, and has yet to learn their {len(names)} names: {some}"
    return [
        f"# {title}",
        "",
        f"A DeCo-DETR ({run.model.config.detector_config.model_type}) that {does}.",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        "import decodetr  # makes the model known; `decodetr predict` does the same from the shell",
        "",
        f'detector = pipeline("object-detection", {str(run.training.output_dir)!r})',
        'detector("picture.jpg")',
        "```",
        "",
        f"Images become {dict(size)} (pixels). Other names: `decodetr predict --names`, or `model.set_vocabulary`.",
    ]


def _measured(run, metrics):
    if metrics is None:
        return ["", "## Measured", "Nothing: there were no validation images."]
    values = {key.removeprefix("eval_"): value for key, value in metrics.items()}
    rows = [[key, f"{values[key]:.1f}"] for key in _HEADLINE if math.isfinite(values.get(key, math.nan))]
    val = run.data.val
    rules = rules_of(val, run.training.eval_max_detections)
    boxes_alone = [
        "The boxes alone are measured: this run does not train the semantic stream, which has random weights, so the "
        "model knows no names yet. Train it with `--streams semantic` or `joint`.",
        "",
    ]
    return [
        "",
        "## Measured",
        *([] if run.names_learned() else boxes_alone),
        f"{len(val.images)} images of {val.file}; box AP in percent, {rules['max_detections']} detections an image"
        f"{', federated as LVIS has it' if rules['federated'] else ''}. Class-agnostic: boxes alone.",
        "",
        markdown_table(["metric", "%"], rows).rstrip(),
    ]


def _forgetting(report):
    if report is None:
        return []
    lines = [
        "",
        "## Before and after",
        f"The starting point and the trained model; held-out names: {report.data}.",
        "",
    ]
    lines.append(report.table())
    if not report.has_held_out():
        lines += [
            "",
            "There were no held-out names to measure, so what was forgotten is not known; `--held-out-data` gives "
            "images of some.",
        ]
    return lines


def _knowledge(info):
    rows = [[key.replace("_", " "), in_words(value)] for key, value in info.items()]
    return ["", "## What it learned from", "", markdown_table(["", ""], rows, left=2).rstrip()]


def _training(run, train_metrics):
    words = shlex.join(run.args.words)
    return [
        "",
        "## Made",
        "```",
        f"decodetr train {words}",
        "```",
        "",
        f"{run.trainer.state.global_step} steps, {train_metrics.get('train_runtime', 0):.0f} s; "
        + ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
        + ".",
    ]
