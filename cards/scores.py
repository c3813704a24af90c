"""What a model's card and a report say of its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodetr.cards.places import shown_place
from decodetr.cards.render import content_of, parsed
from decodetr.cards.sections import Section, sections_of, with_section
from decodetr.utils.documents import read_text
from decodetr.utils.markup import front_matter, markdown_text
from decodetr.utils.tables import markdown_table, score_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from decodetr.modeling_decodetr.configuration_decodetr import DeCoDetrConfig

TITLE = "## Scores"
HEADER = ["names", "precision, %", "recall, %", "calibration error", "of scores above 0.1"]
LEAST_OF_BEST = 10  # objects: with fewer, the score of the best F1 is that of one detection or another
_FACTS = {"images", "objects", "names", "data", "kept_aside", "before", "after"}


def scores_section(
    config: DeCoDetrConfig,
    reason: str | None = None,
    measured: dict[str, dict] | None = None,
    best: float | None = None,
) -> list[str]:
    """
    The section of a card.

    Args:
        config (DeCoDetrConfig). reason (str or None): why its scores were not calibrated here.
        measured: of validation images, as `before_and_after` gives them. best (float): score of the best F1 on them.

    Returns:
        list of lines.
    """
    info, lines = config.calibration_info, ["", TITLE]
    common = score_text(config.common_threshold)
    taken = (info or {}).get("thresholds_of")
    if info is not None and not _FACTS <= info.keys():  # written by somebody else
        info = None
    if reason is not None:
        lines.append(
            f"Not calibrated by this run: {markdown_text(reason)}." + (" Those of before stay." if info else "")
        )
    if info is not None:
        where = "training images that were kept aside" if info["kept_aside"] else "images"
        own, data = len(config.name_thresholds or ()), markdown_text(shown_place(info["data"]))
        lines += [
            f"Calibrated on {info['images']} {where} ({data}) with {info['objects']} "
            f"objects of {info['names']} names: a score says how often such a detection is right (IoU of at least "
            "0.5). All names share one slope and one bias, also those without boxes, of which these images say "
            "nothing.",
        ]
        if not info["kept_aside"]:
            lines[-1] += " Where the model was trained on these images, what it reaches on them is too good."
        lines += [
            "",
            f"`decodetr predict` shows scores above {common}"
            + (f" ({own} names have separate thresholds)" if own else "")
            + f"; give other programs the same: `pipeline(...)(image, threshold={common})`.",
        ]
    if taken:
        own = len(config.name_thresholds or ())
        lines.append(
            f"`decodetr predict` shows scores above {common}"
            + (f" ({own} names have separate thresholds)" if own else "")
            + f", where F1 was best in an evaluation ({markdown_text(shown_place(taken))})."
        )
    rows = [] if info is None else score_rows(info, "images kept aside" if info["kept_aside"] else "these images")
    if measured is not None:
        rows += [
            row for group in measured["after"] for row in score_rows(of_one(measured, group), f"validation, {group}")
        ]
    if rows:
        header = HEADER if info is not None else [f"names, threshold {common}", *HEADER[1:]]
        lines += ["", markdown_table(header, rows).rstrip()]
    if best is not None:
        lines += ["", best_score(best)]
    return lines


def best_score(threshold: float) -> str:
    """The sentence on the score at which F1 is best, in 0..1."""
    return f"F1 is best at a score of {score_text(threshold)}: `decodetr predict --threshold`."


def best_of(threshold: float | None, objects: int) -> float | None:
    """The score at which F1 is best, if it says something. None where nothing was found, which has no threshold (1 in
    the metrics of a training), or where fewer than `LEAST_OF_BEST` objects say so."""
    return threshold if threshold is not None and threshold < 1 and objects >= LEAST_OF_BEST else None


def best_of_report(report: Mapping[str, Any]) -> float | None:
    """[`best_of`] what a report.json has."""
    return best_of(report.get("threshold"), objects_of(report))


def objects_of(report: Mapping[str, Any]) -> int:
    """How many objects a report.json is of: annotations of its names, without crowds."""
    return sum(row["support"] for row in report.get("per_name", {}).values())


def of_one(measured: dict[str, dict], group: str) -> dict[str, dict]:
    """{"before", "after"} of a group out of what `before_and_after` gives."""
    return {when: groups[group] for when, groups in measured.items()}


def score_rows(measured: dict[str, dict], what: str) -> list[list[str]]:
    """Rows of a table: before calibration, if it was calibrated, and as it is."""
    return [
        [
            f"{what}, before" if when == "before" else what,
            *(
                "-" if measured[when][key] is None else f"{100 * measured[when][key]:.1f}"
                for key in ("precision", "recall")
            ),
            *(f"{measured[when][key]:.3f}" for key in ("error", "error_shown")),
        ]
        for when in ("before", "after")
        if when in measured
    ]


def with_scores(card: Path, config: DeCoDetrConfig, folder: Path) -> str:
    """
    The text of a model's card with the section on its scores, in the place of an older one.

    Args:
        card (Path): Markdown, which need not be there. config (DeCoDetrConfig). folder (Path): of the model.
    """
    text = read_text(card) if card.is_file() else _new_card(config, folder)
    found = parsed(text, str(card))
    section = Section("\n".join(scores_section(config)).strip(), "scores")
    found.text = with_section(found.text, section, after=_after(found.text))
    return content_of(found)


def _after(body):
    """What the section follows: what was measured, else the last."""
    measured = [part for part in sections_of(body) if part.key == "measured" or part.heading.startswith("## Measured")]
    return (measured[0].key or measured[0].heading) if measured else None


def _new_card(config, folder):
    front = front_matter({"library_name": "transformers", "pipeline_tag": "object-detection"})
    what = f"A DeCo-DETR ({config.detector_config.model_type}) that detects {config.num_labels} names."
    return "\n".join([front, f"# {markdown_text(folder.resolve().name)}", "", what, ""])
