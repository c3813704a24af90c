"""The card of a trained model: what it is, what it learned from, what was measured, and how to use it."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decodetr.annotations.coco import CocoAnnotations
from decodetr.evaluation.output_evaluator import rules_of
from decodetr.evaluation.score_card import scores_section
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.training.forgetting import ForgettingReport
from decodetr.utils.files import write_text
from decodetr.utils.markup import code_block, front_matter, in_words, markdown_text
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import markdown_table
from decodetr.utils.versions import package_versions

_HEADLINE = ("AP50_novel", "AP50_base", "AP50", "AP", "AP75", "class_agnostic_AP50")
_PACKAGES = ("decodetr", "torch", "transformers", "accelerate")
_SHOWN_NAMES = 30


@dataclass(frozen=True)
class RunResult:
    """
    What a run has made, for its card.

    Args:
        output_dir (str): of the run. words (sequence of str): of its command line.
        start (str or None): the saved model, detector or backbone that it started from.
        config (DeCoDetrConfig): of the trained model. image_size (dict): of its image processor.
        names (list[str]): that the saved model detects. names_learned (bool): it knows them.
        steps (int): of the run, of which train_metrics are those of the Trainer.
        val (CocoAnnotations or None): the validation data, and max_detections, kept in an image, as the run was told.
        metrics (dict or None): of the final evaluation on them.
        scores: of their images, as `before_and_after` gives them, or None.
        not_calibrated (str or None): why scores are not calibrated.
        doubts (list[str]): whether it has learned.
        forgetting (ForgettingReport or None): of a fine-tune.
    """

    output_dir: str
    words: Sequence[str]
    start: str | None
    config: DeCoDetrConfig
    image_size: dict
    names: list[str]
    names_learned: bool
    steps: int
    train_metrics: dict
    val: CocoAnnotations | None = None
    max_detections: int | None = None
    metrics: dict | None = None
    scores: object | None = None
    not_calibrated: str | None = None
    doubts: list[str] = field(default_factory=list)
    forgetting: ForgettingReport | None = None


def write_card(result: RunResult) -> Path:
    """Write OUTPUT/README.md. Returns its path."""
    start, folder = result.start, Path(result.output_dir)
    front = {"library_name": "decodetr", "pipeline_tag": "object-detection"}
    if start and resolve(start) == start and not Path(start).exists():  # of the Hub
        front["base_model"] = start
    sections = [
        _introduction(result, folder.resolve().name),
        _measured(result),
        _scores(result),
        _doubts(result.doubts),
        _forgetting(result.forgetting),
        _knowledge(result.config.training_info),
        _training(result),
    ]
    text = "\n".join([front_matter(front), *(line for section in sections for line in section)])
    return write_text(folder / "README.md", text + "\n")


def _introduction(result, title):
    names = result.names
    some = ", ".join(map(markdown_text, names[:_SHOWN_NAMES])) + (", ..." if len(names) > _SHOWN_NAMES else "")
    does = f"detects {len(names)} names: {some}"
    if not result.names_learned:
        does = f"finds objects, and has yet to learn their {len(names)} names: {some}"
    snippet = [
        "from transformers import pipeline",
        "from decodetr import DeCoDetrForObjectDetection  # makes the model known to transformers",
        "",
        f'detector = pipeline("object-detection", {str(result.output_dir)!r}, trust_remote_code=False)',
        'print(detector("picture.jpg"))',
    ]
    return [
        f"# {markdown_text(title)}",
        "",
        f"A DeCo-DETR ({result.config.detector_config.model_type}) that {does}.",
        "",
        code_block("\n".join(snippet), "python"),
        "",
        f"Images become {result.image_size} (pixels). From the shell: `decodetr predict`; other names: its "
        "`--names`, or `model.set_vocabulary`.",
    ]


def _measured(result):
    if result.metrics is None:
        return ["", "## Measured", "Nothing: there were no validation images."]
    values = {key.removeprefix("eval_"): value for key, value in result.metrics.items()}
    rows = [[key, f"{values[key]:.1f}"] for key in _HEADLINE if math.isfinite(values.get(key, math.nan))]
    val = result.val
    rules = rules_of(val, result.max_detections)
    boxes_alone = [
        "The boxes alone are measured: this run does not train the semantic stream, which has random weights, so the "
        "model knows no names yet. Train it with `--streams semantic` or `joint`.",
        "",
    ]
    return [
        "",
        "## Measured",
        *([] if result.names_learned else boxes_alone),
        f"{len(val.images)} images of {markdown_text(val.file)}; box AP in percent, {rules['max_detections']} "
        f"detections an image{', federated as LVIS has it' if rules['federated'] else ''}. "
        "Class-agnostic: boxes alone.",
        "",
        markdown_table(["metric", "%"], rows).rstrip(),
    ]


def _scores(result):
    if not result.names_learned:
        return []
    best = None if result.metrics is None else result.metrics["eval_best_threshold"]
    return scores_section(result.config, result.not_calibrated, result.scores, best)


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


def _training(result):
    words = shlex.join(result.words)
    return [
        "",
        "## Made",
        code_block(f"decodetr train {words}"),
        "",
        f"{result.steps} steps, {result.train_metrics.get('train_runtime', 0):.0f} s; "
        + ", ".join(map(" ".join, package_versions(_PACKAGES).items()))
        + ".",
    ]
