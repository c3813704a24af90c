"""Tables and plots of what `decodetr bench` measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.speed.bench import FILES, Setting, fastest_of, words_of
from decodetr.speed.timing import show
from decodetr.utils.files import replacing, write_text
from decodetr.utils.markup import figure_text
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from typing import Any

    from matplotlib.axes import Axes

_COLUMNS = (
    "model | how | pixels | N | read | passes | ms, median (quartiles) | images/s | over its bare detector | "
    "over {reference} | over {fastest} | GFLOP | of the floor | MB of a call | parameters, M | as eager"
)
_COLORS = (
    "#2f5d8c",
    "#d1495b",
    "#e08a4a",
    "#4a8c5d",
    "#7a5195",
    "#888888",
    "#1b9e9e",
    "#b07aa1",
    "#59351f",
    "#c9b037",
)


def text_of(document: dict[str, Any]) -> str:
    """The whole report in Markdown: the machine, and a table for each group."""
    machine, floors = document["machine"], document["floors"]
    facts = {
        **machine,
        **document["settings"],
        "image_size": document["settings"]["image_size"] or "standard",
        **{f"a product of large matrices, {name}": f"{one['gflops']:,.0f} GFLOP/s" for name, one in floors.items()},
        **{f"a large copy, {name}": f"{one['gbytes']:,.1f} GB/s" for name, one in floors.items()},
    }
    parts = [markdown_table(["machine and settings", "value"], facts.items(), escape=False)]
    parts += [group_text(group) for group in document["groups"]]
    parts.append(_notes(document))
    return "\n".join(parts)


def group_text(group: dict[str, Any]) -> str:
    """The table of a group, without columns in which nothing stands."""
    reference = next((row["title"] for row in group["rows"] if row["kind"] == "ours"), "the first")
    fastest = fastest_of(row for row in group["rows"] if row["title"] == reference and "skipped" not in row)
    columns = _COLUMNS.format(reference=reference, fastest=f"{reference} by {fastest}")
    header = [name.strip() for name in columns.split("|")]
    rows = [_cells(row, group["setting"]["batch_size"]) for row in group["rows"] if "skipped" not in row]
    shown = [0, *(place for place in range(1, len(header)) if any(row[place] for row in rows))]
    lines = [f"{words_of(Setting(**group['setting']))}:\n"]
    if rows:
        lines.append(
            markdown_table([header[i] for i in shown], [[row[i] for i in shown] for row in rows], escape=False)
        )
    for row in group["rows"]:
        if "skipped" in row:
            lines.append(f"- not measured: {row['title']}, {row['how']}: {row['skipped']}")
    return "\n".join(lines) + ("" if rows and len(lines) == 2 else "\n")


def _cells(row, batch_size):
    millions = f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else ""
    if row["tables"]:
        millions += f" + {row['tables'] / 1e6:.1f} tables"
    if row["published_millions"]:
        millions += f" (published {row['published_millions']:g})"
    return [
        row["title"],
        row["how"],
        " x ".join(map(str, row["image_size"])),
        row["queries"] or "",
        row.get("read", ""),
        row["passes"] if row["passes"] > 1 else "",
        show(row["seconds"], 1e3, 1),
        f"{batch_size / row['seconds']['median']:.2f}",
        show(row["over_bare"], digits=3) if "over_bare" in row else "",
        show(row["over_reference"]) if "over_reference" in row else "",
        show(row["over_fastest"]) if "over_fastest" in row else "",
        f"{row['flops'] / 1e9:.1f}" if "flops" in row else "",
        f"{100 * row['share_of_floor']:.0f} %" if "share_of_floor" in row else "",
        f"{row['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in row else "",
        millions,
        _against_eager(row),
    ]


def _against_eager(row):
    if "same_as_eager" not in row:
        return ""
    faster = f", time {show(row['over_eager'])}" if "over_eager" in row else ""
    return f"{100 * row['same_as_eager']:.0f} % the same{faster}"


def _notes(document):
    rows = [row for group in document["groups"] for row in group["rows"]]
    notes = [
        "All rows of a table were timed in turn in one process; a ratio is the median of ratios of neighbours. "
        "Weights are random where no folder was given, which changes no time.",
        "forward: from prepared pixels to the model's output. file: from a JPEG of 1280 x 960 in memory to boxes: "
        "decode, prepare, forward, the 100 best pairs of box and name.",
        "read: queries of the image that the semantic stream read. Where no number is given it is decided by their "
        "objectness, which with random weights says nothing of real pictures.",
        "FLOPs count matrix products, convolutions and attention. The floor is what they take at the measured rate of "
        "a product of large matrices, or what reading all weights once takes, whichever is longer.",
    ]
    if any(row.get("passes", 1) > 1 for row in rows):
        notes.append("passes: a prompt holds so few names that the whole model runs several times for a picture.")
    if any(row["title"].startswith("OWLv2") for row in rows):
        notes.append("OWLv2 encodes its names in every call, as its processor and forward do, or once beforehand.")
    if any(row["title"].startswith("OmDet") for row in rows):
        notes.append(
            "OmDet-Turbo's language cache holds all names (by default 100); off: it is emptied before every call. Its "
            "task is cut off at 77 tokens, as by its processor."
        )
    return "\n".join(f"- {note}" for note in notes) + "\n"


def write_report(document: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write bench.md, and the plots for which there is more than one point. Returns the files."""
    folder = Path(folder)
    written = [write_text(folder / FILES[1], text_of(document))]
    lines = dict(_lines(document))
    if any(len(points) > 1 for points in lines.values()):
        written.append(_draw(folder / FILES[2], lambda axes: _draw_names(axes, lines)))
    points = list(_points(document))
    if len(points) > 1:
        written.append(_draw(folder / FILES[3], lambda axes: _draw_parameters(axes, points)))
    return written


def _measured(document) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for group in document["groups"]:
        for row in group["rows"]:
            if "skipped" not in row:
                yield group["setting"], row


def _first_setting(document):
    """The setting of the first group, whose names alone are changed in the plots."""
    return document["groups"][0]["setting"] if document["groups"] else {}


def _lines(document):
    """{title and how: {names: seconds of a picture}} of the groups that differ from the first by their names alone."""
    first, lines = _first_setting(document), {}
    for setting, row in _measured(document):
        if all(setting[key] == first[key] for key in ("batch_size", "queries", "what")):
            key = row["title"] + ("" if row["how"] == "eager" else f", {row['how']}")
            lines.setdefault(key, {})[setting["names"]] = row["seconds"]["median"] / setting["batch_size"]
    return lines


def _points(document):
    """(title, parameters with tables, seconds) of the first group."""
    first = _first_setting(document)
    for setting, row in _measured(document):
        if setting == first and row["how"] == "eager" and row["parameters"]:
            yield row["title"], row["parameters"] + row["tables"], row["seconds"]["median"] / setting["batch_size"]


def _draw_names(axes: Axes, lines: dict[str, dict[int, float]]) -> None:
    for place, (title, values) in enumerate(lines.items()):
        counts = sorted(values)
        style = "--" if title.endswith(", bare") else "-"
        axes.plot(
            counts,
            [1e3 * values[count] for count in counts],
            f"o{style}",
            color=_COLORS[place % len(_COLORS)],
            label=figure_text(title),
        )
    axes.set(xscale="log", yscale="log", xlabel="names", ylabel="ms an image, median")
    axes.legend(frameon=False, fontsize=7)


def _draw_parameters(axes: Axes, points: list[tuple[str, int, float]]) -> None:
    for place, (title, numbers, seconds) in enumerate(points):
        axes.plot(numbers / 1e6, 1e3 * seconds, "o", color=_COLORS[place % len(_COLORS)], label=figure_text(title))
    axes.set(yscale="log", xlabel="parameters and tables, millions", ylabel="ms an image, median")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=7)


def _draw(file: Path, draw: Callable[[Axes], None]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it takes its time
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draw(figure.subplots())
    with replacing(file) as partial:
        figure.savefig(partial, dpi=110)
    return file
