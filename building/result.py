"""What a build says of itself: a section of the model's card, and the last lines of the command."""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from decodetr.building.commands import Start
from decodetr.building.coverage import coverage_text
from decodetr.building.options import BuildOptions
from decodetr.building.shown import shown_words, why_shown
from decodetr.cards.cost import cost_section, put_sections
from decodetr.cards.places import shown_place
from decodetr.cards.scores import best_of_report, scores_section
from decodetr.cards.sections import Section
from decodetr.modeling_decodetr import DeCoDetrConfig
from decodetr.utils.documents import read_json
from decodetr.utils.hub import recorded_place, without_user
from decodetr.utils.markup import markdown_text, one_line

TITLE = "## How it was built"


def write_result(
    options: BuildOptions, start: Start, found: dict[str, Any], spent: Mapping[str, Mapping[str, Any]]
) -> str:
    """Put the section, and that of what it took, into the card of OUT/model, in the place of earlier ones, and return
    the first as text. What the pool took stands in its own card. Without boxes, what was measured and the scores are
    those of the build too: the training of OUT/model had nothing to measure on.

    Args:
        options (BuildOptions). start (Start).
        found (dict): "photos", "unreadable", "teacher_boxes" and "not_calibrated" as far as they are known,
            "coverage" and "coverage_before" of [`coverage`].
        spent (dict): {stage: {"seconds", "begun", "ended", "machines"}}, as build.json has it. Empty of a build of an
            earlier version: nothing is said of what it took.
    """
    lines = _lines(options, start, found, lambda text: markdown_text(shown_place(text)))
    card = options.output / "model" / "README.md"
    sections = [Section("\n".join([TITLE, "", *(f"- {line}" for line in lines)]), "built")]
    put_sections(card, [*([] if start.boxed else _later(options, found)), *sections, *cost_section(spent)])
    return "\n".join(_lines(options, start, found, one_line)) + "\n"


def _lines(options, start, found, as_text):
    """The lines, with what comes from elsewhere made fit for a card or a terminal by `as_text`."""
    place = as_text(recorded_place(options.detector))
    if options.localize:
        yield f"Localization began with {place}, and learned its certain regions, as objects of no class."
    else:
        yield f"Boxes and objectness are those of {place}, to the bit."
    teachers = [as_text(without_user(recorded_place(name))) for name in (options.clip, options.captioner)]
    yield f"Names were learned from {teachers[0]} and the captions of {teachers[1]}, with `decodetr build`."
    if start.boxed:
        yield "The data set has boxes: these names were learned from them too."
    else:
        photos = f"Of {found['photos']:,} photos without a box" if "photos" in found else "Of photos without a box"
        left_out = f" ({found['unreadable']:,} could not be read)" if found.get("unreadable") else ""
        yield f"{photos}{left_out}. No name was ever boxed."
    if reason := found.get("not_calibrated"):
        yield f"Scores are not calibrated: {as_text(reason).rstrip('.')}."
    elif not start.boxed:
        yield (
            f"Scores were calibrated on {found['teacher_boxes']:,} boxes that CLIP named in photos that were kept "
            "aside. They say how often the teacher agrees, and not how often it is right."
        )
    if "coverage_before" in found:
        yield as_text(coverage_text(found["coverage_before"], "The detector, before it learned regions,"))
    if "coverage" in found:
        yield as_text(coverage_text(found["coverage"]))
    if (report := _report(options)) is not None:
        yield _measured(report, None if start.boxed else found["teacher_boxes"])
    if reason := why_shown(options.output):
        yield reason


def _report(options):
    file = options.output / "report" / "report.json"
    return read_json(file, dict) if file.is_file() else None


def _measured(report, boxes):
    """The sentence on AP50: of validation images, or, with their number, of boxes of the teacher."""
    metrics, against = report["metrics"], "on validation images"
    if boxes is not None:
        against = f"against what CLIP named in the photos kept aside, boxes: {boxes:,}"
    return f"AP50 {metrics['AP50']:.1f} % {against} (class-agnostic: {metrics['class_agnostic_AP50']:.1f} %)."


def _later(options, found):
    """The sections of the model's card that its training wrote before there was anything to measure on."""
    report = _report(options)
    text = "Nothing: CLIP named nothing in the photos kept aside."
    if report is not None:
        text = f"{_measured(report, found['teacher_boxes'])} How often that is right was not measured."
    yield Section(f"## Measured\n{text}", "measured")
    if reason := found.get("not_calibrated"):
        config = DeCoDetrConfig.from_pretrained(options.output / "model")
        best = None if report is None else best_of_report(report)
        reason = shown_place(reason).rstrip(".")
        yield Section("\n".join(scores_section(config, reason, best=best)).strip(), "scores")


def how_to_ask_otherwise(stage: str, done: Collection[str]) -> str:
    """What to know of the options that the message of a failed stage names; nothing where they can just be given."""
    if stage not in ("first-pool", "pool") or "coverage" not in done:
        return ""
    return (
        f"decodetr build: the stage {stage} failed, as said above; with another --prompt or --keep-share, give "
        "--overwrite coverage too\n"
    )


def how_to_go_on(output: Path) -> str:
    """What to look at, and the next command."""
    lines = [f"{output / 'model'} is the model; {output / 'model' / 'README.md'} describes it"]
    if (output / "report" / "report.html").is_file():
        lines.append(f"look at {output / 'report' / 'report.html'}, and at the pictures in {output / 'pictures'}")
    shown = shlex.join(["--model", str(output / "model"), *shown_words(output), "--output", "found"])
    lines.append(f"decodetr predict PHOTOS {shown}")
    return "\n".join(lines) + "\n"
