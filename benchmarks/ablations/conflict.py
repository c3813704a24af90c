"""What the curves of `conflict_trainer.py` say: a table, a sentence, and what a picture of them needs."""

import math
import statistics

from ablations.rows import ROWS
from decodetr.utils.tables import markdown_table

TITLE = "Do the two losses pull against each other?"
FILE = "conflict.svg"
_ASKS = """Cosine between the gradients of L_det and L_align, over those weights of the detector that both reach, and
how long that of L_align is, before lambda(t), against that of L_det. At most {times} steps of each training of
both streams are compared."""


def curves_of(content: dict) -> dict[str, list[dict[str, list]]]:
    """{row: the curve of each seed} of a world's file."""
    found = {}
    for row in ROWS:  # in their order
        curves = [run["conflict"] for run in content["runs"].get(row, {}).values() if run.get("conflict")]
        if curves:
            found[row] = curves
    return found


def conflict_picture(found: dict[str, dict]) -> dict | None:
    """What `draw` needs: the cosine over the training, of the rows and worlds that have one."""
    lines = {}
    worlds = {key: curves for key, content in found.items() if (curves := curves_of(content))}
    for key, rows in worlds.items():
        for row, curves in rows.items():
            if all(_known(curve["cosine"]) for curve in curves):
                name = ROWS[row].words if len(worlds) == 1 else f"{ROWS[row].words}, {key}"
                lines[name] = _by_progress(curves, found[key]["settings"]["steps"])
    if not lines:
        return None
    return {"lines": lines, "label": "% of the training", "title": TITLE, "measured": "cosine of dL_det and dL_align"}


def _by_progress(curves, steps):
    """[(percent of the training, cosines of the seeds)]."""
    values: dict[float, list[float]] = {}
    for curve in curves:
        for step, cosine in zip(curve["step"], curve["cosine"]):
            if cosine is not None:
                values.setdefault(100 * step / steps, []).append(cosine)
    return sorted(values.items())


def _known(values):
    return [value for value in values if value is not None]


def conflict_part(found: dict[str, dict], folder: str) -> str:
    """The section, or nothing where no curve was measured."""
    worlds = {key: curves for key, content in found.items() if (curves := curves_of(content))}
    if not worlds:
        return ""
    parts = []
    for key, rows in worlds.items():
        lines = []
        for row, curves in rows.items():
            shared = {count for curve in curves for count in curve["shared"]}
            cells = [_over_seeds([_mean(part(curve)) for curve in curves]) for part in (_cosines, _first, _last)]
            cells += [_over_seeds([_share_below(_cosines(curve)) for curve in curves], "{:.0f}")]
            cells += [_over_seeds([_mean(_known(curve["ratio"])) for curve in curves], "{:.3g}")]
            lines.append([ROWS[row].words, str(len(curves)), f"{max(shared):,}", *cells])
        heads = ["row", "seeds", "weights that both reach", "cosine", "first quarter", "last quarter"]
        table = markdown_table([*heads, "steps below 0, %", "length, L_align / L_det"], lines, escape=False)
        parts += [f"World `{key}`:\n", table, _answer(rows)]
    times = max(len(curve["step"]) for rows in worlds.values() for curves in rows.values() for curve in curves)
    picture = f"![{TITLE} Cosine over the training]({folder}/{FILE})\n" if conflict_picture(found) else ""
    return "\n".join([f"## {TITLE}\n{_ASKS.format(times=times)}\n", picture, *parts])


def _cosines(curve):
    return _known(curve["cosine"])


def _first(curve):
    return _known(curve["cosine"][: max(1, len(curve["cosine"]) // 4)])


def _last(curve):
    return _known(curve["cosine"][-max(1, len(curve["cosine"]) // 4) :])


def _share_below(cosines):
    """Percent of them that are below 0."""
    return 100 * _mean([float(cosine < 0) for cosine in cosines])


def _mean(values):
    return statistics.fmean(values) if values else math.nan


def _over_seeds(values, form="{:+.3f}"):
    """Mean, and lowest and highest of the seeds in brackets; nothing where there is no value."""
    if any(math.isnan(value) for value in values):
        return ""
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(_mean(values))} ({form.format(min(values))} to {form.format(max(values))})"


def _answer(rows):
    """One sentence of the rows in which both losses reach the detector, and of those in which they do not."""
    parts = []
    for row, curves in rows.items():
        means = [_mean(_cosines(curve)) for curve in curves]
        if not any(math.isnan(value) for value in means):
            below = _share_below([cosine for curve in curves for cosine in _cosines(curve)])
            parts.append(f"{ROWS[row].words}: {_mean(means):+.3f}, below 0 in {below:.0f} % of the steps")
    apart = [ROWS[row].words for row, curves in rows.items() if not any(any(curve["shared"]) for curve in curves)]
    text = f"**The cosine**: {'; '.join(parts)}." if parts else ""
    if apart:
        text += f" With isolation ({', '.join(apart)}) L_align reaches no weight of the detector: its gradient is 0."
    return text.strip() + "\n"
