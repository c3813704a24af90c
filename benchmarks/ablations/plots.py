"""A picture of a question: lines of means, with the runs as dots."""

import statistics
from pathlib import Path

MEASURED = "AP50 of names without boxes"


def draw(
    file: Path,
    lines: dict[str, list[tuple[float, list[float]]]],
    label: str,
    title: str,
    log: bool = False,
    measured: str = MEASURED,
) -> None:
    """
    Write an SVG, the same bytes for the same values and version of matplotlib.

    Args:
        lines: {name: [(x, values of the seeds)]}. label: of the x axis. log: whether it is logarithmic.
        measured: what the values are. AP50 has an axis from 0 on.
    """
    import matplotlib

    from decodetr.utils.files import replacing

    style = {"svg.hashsalt": "decodetr", "svg.fonttype": "path", "font.size": 9}
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(lines.items()):
            colour = f"C{number}"
            xs = [x for x, _ in points]
            axes.plot(xs, [statistics.fmean(values) for _, values in points], color=colour, label=name)
            dots = [(x, value) for x, values in points for value in values]
            axes.plot(*zip(*dots), "o", color=colour, markersize=3, alpha=0.6)
        if log:
            axes.set_xscale("log")
            ticks = sorted({x for points in lines.values() for x, _ in points})
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        axes.set(xlabel=label, ylabel=measured, title=title)
        if measured == MEASURED:
            axes.set_ylim(0, 1.08 * max(max(values) for points in lines.values() for _, values in points) or 1)
        else:
            axes.axhline(0, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with replacing(file) as staging:
            figure.savefig(staging, format="svg", metadata={"Date": None})
