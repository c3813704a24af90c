"""What it took to build something: the seconds of its stages, counted over all runs, and the section of a card."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decodetr.cards.render import content_of, parsed
from decodetr.cards.sections import Section, with_section
from decodetr.utils.documents import read_text
from decodetr.utils.files import write_text
from decodetr.utils.markup import markdown_text
from decodetr.utils.tables import markdown_table

COST = "## What it took"


@contextmanager
def counted(spent: dict[str, Any], stage: str, machine: str, save: Callable[[], object]) -> Iterator[None]:
    """Inside, the seconds of a stage are counted, over all runs that tried it. One that was killed leaves a start
    without an end: its seconds are not known.

    Args:
        spent (dict): {stage: {"seconds", "begun", "ended", "machines"}}, which is added to.
        stage (str). machine (str): what it runs on. save (callable): keeps `spent`, at the start and at the end.
    """
    one = spent.setdefault(stage, {"seconds": 0.0, "begun": 0, "ended": 0})
    one["begun"] += 1
    one["machines"] = sorted({*one.get("machines", ()), machine})
    save()
    started = time.perf_counter()
    try:
        yield
    finally:
        one["ended"] += 1
        one["seconds"] += time.perf_counter() - started
        save()


def cost_section(spent: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """The section on what stages took, over all runs that tried them: none where nothing was counted. None is
    invented: a run that was killed did not count its seconds, and so the sum is a lower bound."""
    if not spent:
        return []
    lost = {stage: one["begun"] - one["ended"] for stage, one in spent.items()}
    rows = [
        [stage, f"{'at least ' if lost[stage] else ''}{one['seconds']:,.0f}", one["begun"]]
        for stage, one in spent.items()
    ]
    seconds, killed = sum(one["seconds"] for one in spent.values()), sum(lost.values())
    rows.append(["together", f"{'at least ' if killed else ''}{seconds:,.0f}", ""])
    machines = "; ".join(sorted({machine for one in spent.values() for machine in one["machines"]}))
    text = (
        f"Measured seconds of wall clock, on {markdown_text(machines)}: {seconds / 3600:.3g} hours. What "
        "a stage loads is in them. Energy was not measured."
    )
    if killed:
        text += f" Runs that were killed, whose seconds nobody counted: {killed}."
    return [Section(f"{COST}\n{text}\n\n{markdown_table(['stage', 'seconds', 'runs'], rows).rstrip()}", "cost")]


def put_sections(card: Path, sections: Iterable[Section]) -> None:
    """Put sections into a card, in the place of earlier ones. A folder without a card has none to put them into."""
    if not card.is_file():
        return
    old = parsed(read_text(card), str(card))
    after = "made"
    for section in sections:
        old.text, after = with_section(old.text, section, after), section.key or after
    write_text(card, content_of(old))
