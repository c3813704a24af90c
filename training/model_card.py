"""The card of a trained model: what it is, what it learned from, what was measured, and how to use it."""

import math
import shlex
from importlib.metadata import version
from pathlib import Path

from decodetr.evaluation.output_evaluator import rules_of
from decodetr.evaluation.score_card import scores_section
from decodetr.utils.files import write_text
from decodetr.utils.markup import code_block, front_matter, in_words, markdown_text
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import markdown_table

_HEADLINE = ("AP50_novel", "AP50_base", "AP50", "AP", "AP75", "class_agnostic_AP50")
_PACKAGES = ("decodetr", "torch", "transformers", "accelerate")
_SHOWN_NAMES = 30


def write_card(run, metrics, train_metrics, scores=None):
    """
    Write OUTPUT/README.md.

    Args:
        run (TrainingRun): after training. metrics: of the final evaluation, or None. train_metrics: of the Trainer.
        scores: of its validation images, as `before_and_after` gives them, or None.

    Returns:
        Path: the card.
    """
    args, folder = run.args, Path(run.training.output_dir)
    start = args.model or args.detector or args.backbone
    front = {"library_name": "decodetr", "pipeline_tag": "object-detection"}
    if start and resolve(start) == start and not Path(start).exists():  # of the Hub
        front["base_model"] = start
    sections = [
        _introduction(run, folder.resolve().name),
        _measured(run, metrics),
        _scores(run, metrics, scores),
        _doubts(run.doubts),
        _forgetting(run.forgetting),
        _knowledge(run.model.config.training_info),
        _training(run, train_metrics),
    ]
    text = "\n".join([front_matter(front), *(line for section in sections for line in section)])
    return write_text(folder / "README.md", text + "\n")


def _introduction(run, title):
    names = run.deployed.names
    some = ", ".join(map(markdown_text, names[:_SHOWN_NAMES])) + (", ..." if len(names) > _SHOWN_NAMES else "")
    size = run.processor.size
    does = f"detects {len(names)} names: {some}"
    if not run.names_learned():
        does = f"finds objects, and has yet to learn their {len(names)} names: {some}"
    snippet = [
        "from transformers import pipeline",
        "from decodetr import DeCoDetrForObjectDetection  # makes the model known to transformers",
        "",
        f'detector = pipeline("object-detection", {str(run.training.output_dir)!r}, trust_remote_code=False)',
        'print(detector("picture.jpg"))',
    ]
    return [
        f"# {markdown_text(title)}",
        "",
        f"A DeCo-DETR ({run.model.config.detector_config.model_type}) that {does}.",
        "",
        code_block("\n".join(snippet), "python"),
        "",
        f"Images become {dict(size)} (pixels). From the shell: `decodetr predict`; other names: its "
        "`--names`, or `model.set_vocabulary`.",
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
        f"{len(val.images)} images of {markdown_text(val.file)}; box AP in percent, {rules['max_detections']} "
        f"detections an image{', federated as LVIS has it' if rules['federated'] else ''}. "
        "Class-agnostic: boxes alone.",
        "",
        markdown_table(["metric", "%"], rows).rstrip(),
    ]


def _scores(run, metrics, scores):
    if not run.names_learned():
        return []
    best = None if metrics is None else metrics["eval_best_threshold"]
    return scores_section(run.model.config, run.calibration.reason, scores, best)


def _doubts(doubts):
    if not doubts:
        return []
    return ["", "## Not learned", *(f"- {markdown_text(doubt)}" for doubt in doubts)]


def _forgetting(report):
    if report is None:
        return []
    held_out = f"; held-out names: {markdown_text(report.data)}" if report.has_held_out() else ""
    lines = ["", "## Before and after", f"The starting point and the trained model{held_out}.", ""]
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
        code_block(f"decodetr train {words}"),
        "",
        f"{run.trainer.state.global_step} steps, {train_metrics.get('train_runtime', 0):.0f} s; "
        + ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
        + ".",
    ]
