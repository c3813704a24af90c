"""What the whole method reaches in every world, against the goals of this project: a table and a sentence."""

import statistics
from collections.abc import Callable

from ablations.rows import ROWS
from decodetr.utils.tables import markdown_table

# The whole method, and what it is compared with.
WHOLE = {"captions": "none", "joint-cosine": "joint-none"}
POINTS, RATIO, SHARE = 6, 0.9, 90  # over the baseline; of names with boxes; percent of the teacher
_LEARNED = {True: "are reached", False: "are missed"}
_HEAD = f"""## How good is the whole method?
The goals of this project, for names without boxes: {POINTS} points more than without a pool, {RATIO} of the AP50 of
names with boxes, {SHARE} % of what the teacher itself reaches. Means of the seeds.

The teacher is asked twice. On annotated boxes it sees each object that was found as it is annotated, once. On the same
boxes it names those of the detector, as the model does, at CLIP's own temperature and times the same objectness, with
no background. That is what the semantic stream learns from, and no limit: the model may pass it. What the teacher
loses from the one to the other, it loses by boxes that do not fit, are found twice or lie on nothing.
"""


def goals_part(found: dict[str, dict], values_of: Callable[[dict, str, str], dict[str, float]]) -> str:
    """The section. `values_of`: {seed: value} of a world's content, a row and a part, "novel" or "base"."""
    lines: list[list[str]] = []
    worlds: dict[str, list[str]] = {}  # by what is missed
    learned: dict[bool, list[str]] = {}  # by whether so much of the teacher on the same boxes is reached
    for key, content in found.items():
        for row, reference in WHOLE.items():
            runs = {name: values_of(content, name, "novel").values() for name in (row, reference)}
            if not runs[row]:
                continue
            novel, base = (statistics.fmean(values_of(content, row, part).values()) for part in ("novel", "base"))
            ceiling = content["ceiling"]["val"]
            share = _percent(novel, ceiling["AP50_novel"])
            # Not in files of earlier versions, and a joint run has boxes of its own.
            same = None if ROWS[row].joint else ceiling.get("AP50_novel, own boxes")
            more = novel - statistics.fmean(runs[reference]) if runs[reference] else None
            ratio = novel / base if base else None
            cells = [f"{novel:.1f}", f"{base:.1f}", "" if ratio is None else f"{ratio:.2f}"]
            cells += ["" if part is None else f"{part:.0f}" for part in (share, _percent(novel, same))]
            lines.append([key, str(len(runs[row])), *cells, "" if more is None else f"{more:+.1f}"])
            short = [f"{POINTS} points"] if more is None or more < POINTS else []
            short += [f"{RATIO} of names with boxes"] if ratio is None or ratio < RATIO else []
            short += [f"{SHARE} % of the teacher on annotated boxes"] if share is None or share < SHARE else []
            worlds.setdefault(" and ".join(short), []).append(key)
            if same:
                learned.setdefault(100 * novel >= SHARE * same, []).append(key)
    if not lines:
        return ""
    heads = ["world", "seeds", "without boxes", "with boxes", "without / with"]
    heads += ["of the teacher on annotated boxes, %", "on the same boxes, %", "over no pool"]
    reached = worlds.pop("", [])
    said = f"are reached in {', '.join(reached)}" if reached else "are reached in no world, all three"
    missed = [f"{short} in {', '.join(keys)}" for short, keys in worlds.items()]
    said += f". Missed: {'; '.join(missed)}" if missed else ""
    if learned:
        some = [f"{words} in {', '.join(learned[is_it])}" for is_it, words in _LEARNED.items() if is_it in learned]
        said += f". {SHARE} % of the teacher on the same boxes {'; '.join(some)}"
    return f"{_HEAD}\n{markdown_table(heads, lines, escape=False)}\n**The goals** {said}.\n"


def _percent(part, whole):
    return 100 * part / whole if whole else None
