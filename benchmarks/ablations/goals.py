"""What the whole method reaches in every world, against the goals of this project: a table and a sentence."""

import statistics
from collections.abc import Callable

from decodetr.utils.tables import markdown_table

# The whole method, and what it is compared with.
WHOLE = {"captions": "none", "joint-cosine": "joint-none"}
POINTS, RATIO, SHARE = 6, 0.9, 90  # over the baseline; of names with boxes; percent of the teacher
_HEAD = f"""## How good is the whole method?
The goals of this project, for names without boxes: {POINTS} points more than without a pool, {RATIO} of the AP50 of
names with boxes, {SHARE} % of what the teacher itself reaches on the boxes that were found. Means of the seeds.
"""


def goals_part(found: dict[str, dict], values_of: Callable[[dict, str, str], dict[str, float]]) -> str:
    """The section. `values_of`: {seed: value} of a world's content, a row and a part, "novel" or "base"."""
    lines: list[list[str]] = []
    worlds: dict[str, list[str]] = {}  # by what is missed
    for key, content in found.items():
        for row, reference in WHOLE.items():
            runs = {name: values_of(content, name, "novel").values() for name in (row, reference)}
            if not runs[row]:
                continue
            novel, base = (statistics.fmean(values_of(content, row, part).values()) for part in ("novel", "base"))
            share = 100 * novel / content["ceiling"]["val"]["AP50_novel"]
            more = novel - statistics.fmean(runs[reference]) if runs[reference] else None
            ratio = novel / base if base else None
            cells = [f"{novel:.1f}", f"{base:.1f}", "" if ratio is None else f"{ratio:.2f}", f"{share:.0f}"]
            lines.append([key, str(len(runs[row])), *cells, "" if more is None else f"{more:+.1f}"])
            short = [f"{POINTS} points"] if more is None or more < POINTS else []
            short += [f"{RATIO} of names with boxes"] if ratio is None or ratio < RATIO else []
            short += [f"{SHARE} % of the teacher"] if share < SHARE else []
            worlds.setdefault(" and ".join(short), []).append(key)
    if not lines:
        return ""
    heads = ["world", "seeds", "without boxes", "with boxes", "without / with", "of the teacher, %", "over no pool"]
    reached = worlds.pop("", [])
    said = f"are reached in {', '.join(reached)}" if reached else "are reached in no world, all three"
    missed = [f"{short} in {', '.join(keys)}" for short, keys in worlds.items()]
    said += f". Missed: {'; '.join(missed)}" if missed else ""
    return f"{_HEAD}\n{markdown_table(heads, lines, escape=False)}\n**The goals** {said}.\n"
