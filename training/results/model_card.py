"""The card of a trained model: what it is, what it learned from, what was measured, and how to use it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from decodetr.annotations.coco import CocoAnnotations
from decodetr.cards.model_card import ModelFacts, model_card
from decodetr.cards.places import last_part, shown_command, shown_place
from decodetr.cards.results import measured_text, results_of
from decodetr.cards.scores import best_of, scores_section
from decodetr.evaluation.output_evaluator import rules_of
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.training.results.forgetting import ForgettingReport
from decodetr.training.results.time_spent import Spent
from decodetr.utils.files import write_text
from decodetr.utils.markup import code_block, markdown_text
from decodetr.utils.versions import package_versions

_PACKAGES = ("decodetr", "torch", "transformers", "accelerate")


@dataclass(frozen=True)
class RunResult:
    """
    What a run has made, for its card.

    Args:
        output_dir (str): of the run. words (sequence of str): of its command line.
        start (str or None): the saved model, detector or backbone that it started from.
        config (DeCoDetrConfig): of the trained model. image_size (dict): of its image processor.
        names (list[str]): that the saved model detects. names_learned (bool): it knows them.
        steps (int): of the run. spent (Spent): the time that they took.
        val (CocoAnnotations or None): the validation data, and max_detections, kept in an image, as the run was told.
        metrics (dict or None): of the final evaluation on them.
        scores: of their images, as `before_and_after` gives them, or None.
        not_calibrated (str or None): why scores are not calibrated.
        doubts (list[str]): whether it has learned.
        forgetting (ForgettingReport or None): of a fine-tune.
        machine (str): what it ran on.
    """

    output_dir: str
    words: Sequence[str]
    start: str | None
    config: DeCoDetrConfig
    image_size: dict
    names: list[str]
    names_learned: bool
    steps: int
    spent: Spent
    val: CocoAnnotations | None = None
    max_detections: int | None = None
    metrics: dict | None = None
    scores: object | None = None
    not_calibrated: str | None = None
    doubts: list[str] = field(default_factory=list)
    forgetting: ForgettingReport | None = None
    machine: str = "a device that is not recorded"


def write_card(result: RunResult) -> Path:
    """Write OUTPUT/README.md. Returns its path."""
    folder = Path(result.output_dir)
    scores = _scores(result)
    facts = ModelFacts(
        config=result.config,
        image_size=result.image_size,
        folder=folder,
        name=str(result.output_dir),
        names_learned=result.names_learned,
        start=result.start,
        results=_results(result),
        measured=_measured(result),
        scores="\n".join(scores).strip() or None,
        doubts=result.doubts,
        before=_forgetting(result.forgetting),
        made=_made(result),
    )
    return write_text(folder / "README.md", model_card(facts))


def _results(result):
    if result.metrics is None:
        return []
    values = {key.removeprefix("eval_"): value for key, value in result.metrics.items()}
    rules = rules_of(result.val, result.max_detections)
    facts = {
        "images": len(result.val.images),
        "names": len(result.names),
        "max_detections": rules["max_detections"],
        "federated": rules["federated"] or None,
        "annotations_digest": result.val.digest(),
        "measured_by": "decodetr train, on validation images",
    }
    data = (result.config.training_info or {}).get("data")
    return results_of(values, str(result.val.file), data, facts, last_part(str(result.val.file)))


def _measured(result):
    if result.metrics is None:
        return "Nothing: there were no validation images."
    if result.names_learned:
        return None
    return (
        "The boxes alone are measured: this run does not train the semantic stream, which has random weights, so the "
        "model knows no names yet. Train it with `--streams semantic` or `joint`."
        f"\n\n{measured_text(_results(result)) or ''}"
    )


def _scores(result):
    if not result.names_learned:
        return []
    best = None
    if result.metrics is not None:
        objects = len(result.val.annotations_by_image.column("id", crowds=False))
        best = best_of(result.metrics["eval_best_threshold"], objects)
    return scores_section(result.config, result.not_calibrated, result.scores, best)


def _forgetting(report):
    if report is None:
        return None
    held_out = f"; held-out names: {markdown_text(shown_place(report.data))}" if report.has_held_out() else ""
    lines = [f"The starting point and the trained model{held_out}.", "", report.table()]
    if not report.has_held_out():
        lines += [
            "",
            "There were no held-out names to measure, so what was forgotten is not known; `--held-out-data` gives "
            "images of some.",
        ]
    return "\n".join(lines)


def _made(result):
    return "\n".join(
        [
            code_block(f"decodetr train {shown_command(result.words)}"),
            "",
            f"{_time(result)} Energy was not measured.",
            "",
            "With " + ", ".join(map(" ".join, package_versions(_PACKAGES).items())) + ".",
        ]
    )


def _time(result):
    steps, spent = result.steps, result.spent
    if not spent.steps:
        return f"{steps} steps; the time that they took was not recorded."
    of_which = "" if spent.steps == steps else f" of the last {spent.steps}, others not recorded,"
    return (
        f"{steps} steps, {spent.seconds:.0f} s{of_which} on {markdown_text(result.machine)}. That is "
        f"{spent.device_seconds / 3600:.3g} hours of one device (computed: seconds x processes)."
    )
