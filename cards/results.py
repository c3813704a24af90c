"""Measured results: reports of `decodetr eval` and what training measured, as the Hub's model-index and as tables."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from decodetr.cards.places import hub_dataset, last_part
from decodetr.cards.render import Markdown
from decodetr.cards.scores import objects_of
from decodetr.utils.documents import read_json
from decodetr.utils.markup import markdown_text, visible
from decodetr.utils.model_identity import model_identity
from decodetr.utils.tables import markdown_table

TASK, OURS = "object-detection", "decodetr eval"
METRICS = {
    "AP50_novel": "box AP50, novel names",
    "AP50_base": "box AP50, base names",
    "AP50": "box AP50",
    "AP": "box AP, IoU 0.5 to 0.95",
    "AP75": "box AP75",
    "APr": "box AP, rare names",
    "APc": "box AP, common names",
    "APf": "box AP, frequent names",
    "class_agnostic_AP50": "box AP50 without names",
}


def results_of(
    metrics: Mapping[str, float | None], file: str, data: str | None, facts: Mapping[str, Any], split: str | None
) -> list[EvalResult]:
    """What was measured on one data set.

    Args:
        metrics (dict): in percent. Those that are not finite, and those that [`METRICS`] does not have, are left out.
        file (str): the annotation file. data (str or None): the data set. facts (dict): how it was measured.
        split (str or None): such as "val".
    """
    published = hub_dataset(data)
    name = published or last_part(data) or last_part(str(Path(file).parent.parent.resolve())) or last_part(file)
    kind = published or re.sub(r"[^\w.-]+", "-", name.casefold()).strip("-") or "own"
    protocol = facts.get("protocol")
    return [
        EvalResult(
            task_type=TASK,
            task_name="Object Detection",
            dataset_type=kind,
            dataset_name=visible(name),
            dataset_config=None if protocol in (None, "custom") else str(protocol),
            dataset_split=split,
            dataset_args={key: value for key, value in facts.items() if key != "protocol" and value is not None},
            metric_type=key,
            metric_name=words,
            metric_value=round(float(value), 2),
        )
        for key, words in METRICS.items()
        if (value := metrics.get(key)) is not None and math.isfinite(value)
    ]


def read_report(file: str | Path, folder: str | Path) -> tuple[list[EvalResult], dict]:
    """The results of a report.json of `decodetr eval`, and the report.

    Args:
        folder (str or Path): of the model, which must be the one that was measured.

    Raises:
        ValueError, FileNotFoundError: it is no such report, or one of another model.
    """
    file = Path(file)
    file = file / "report.json" if file.is_dir() else file
    report = read_json(file, dict)
    protocol, metrics = report.get("protocol"), report.get("metrics")
    if not isinstance(protocol, dict) or not isinstance(metrics, dict) or "annotations_file" not in protocol:
        raise ValueError(f"{file}: expected report.json of `decodetr eval --output`, got another file")
    identity = model_identity(folder)
    own = identity["revision"] or f"weights {(identity['weights'] or '')[:12]}"
    if protocol.get("revision") != own:
        raise ValueError(
            f"{file} is of another model, {protocol.get('model')} ({protocol.get('revision')}); {folder} is {own}: "
            "give a report of this one. It is another model too once it was trained, calibrated or renamed since: "
            "then evaluate it again"
        )
    if "oracle" in protocol or not str(protocol.get("vocabulary", "")).startswith("stored in the model"):
        raise ValueError(
            f"{file} was measured with something that the model does not hold (an oracle, or --vocabulary); evaluate "
            "the model as it is"
        )
    facts = {
        "protocol": protocol["protocol"],
        "images": protocol["images"],
        "objects": objects_of(report) if "per_name" in report else protocol["annotations"],
        "names": protocol["vocabulary_size"],
        "max_detections": report["max_detections"],
        "federated": bool(protocol["federated"]) or None,
        "annotations_digest": protocol["annotations_digest"],
        "measured_by": OURS,
    }
    data = (report.get("source") or {}).get("data")
    return results_of(
        metrics, protocol["annotations_file"], data, facts, last_part(protocol["annotations_file"])
    ), report


def merged(old: Iterable[EvalResult] | None, new: Iterable[EvalResult]) -> list[EvalResult]:
    """Results, where those of `new` replace the old ones of the same data set."""
    new = list(new)
    fresh = {result.unique_identifier for result in new}
    return [*(result for result in old or () if result.unique_identifier not in fresh), *new]


def measured_text(results: Sequence[EvalResult]) -> Markdown | None:
    """A table for each data set. None without results of ours."""
    groups: dict[tuple, list[EvalResult]] = {}
    for result in results:
        if result.task_type == TASK and result.metric_type in METRICS:
            groups.setdefault(result.unique_identifier, []).append(result)
    blocks = []
    for group in groups.values():
        first, args = group[0], group[0].dataset_args or {}
        where = ", ".join(markdown_text(part) for part in (first.dataset_name, first.dataset_split) if part)
        protocol = f" ({markdown_text(first.dataset_config)})" if first.dataset_config else ""
        counted = ", ".join(f"{args[key]:,} {key}" for key in ("images", "objects", "names") if _counts(args.get(key)))
        rules = ["Box AP in percent"]
        if _counts(args.get("max_detections")):
            rules.append(f"{args['max_detections']} detections an image")
        if args.get("federated"):
            rules.append("federated as LVIS has it")
        if by := args.get("measured_by"):
            rules.append(f"measured by {markdown_text(by)}")
        rows = [[result.metric_type, _number(result.metric_value)] for result in group]
        table = markdown_table(["metric", "%"], rows).rstrip()
        blocks.append(f"{where}{protocol}{': ' + counted if counted else ''}. {', '.join(rules)}.\n\n{table}")
    if not blocks:
        return None
    if any("class_agnostic" in block for block in blocks):
        blocks.append("Class-agnostic: the boxes alone, whatever their names.")
    return Markdown("\n\n".join(blocks))


def _number(value):
    return f"{value:.1f}" if isinstance(value, int | float) else str(value)


def _counts(value):
    return isinstance(value, int) and not isinstance(value, bool)
