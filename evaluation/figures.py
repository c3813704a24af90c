"""Pictures of a report: precision over recall, calibration, kinds of errors, and the worst images."""

from pathlib import Path

import numpy as np
from PIL import Image

from decodetr.annotations.coco import read_annotated
from decodetr.utils.drawing import draw_detections
from decodetr.utils.files import replacing
from decodetr.utils.markup import figure_text

_COLORS = ("#2f5d8c", "#d1495b", "#e08a4a", "#4a8c5d", "#7a5195", "#888888")


def draw_curves(curves: dict[str, dict[str, list[float]]], file: str | Path) -> None:
    """Precision over recall of each group, whole line IoU 0.5, broken 0.75. `curves`: of [`Analysis.curves`]."""
    figure, axes = _figure(7, 4.5)
    for (group, lines), color in zip(curves.items(), _COLORS):
        for (iou, values), style in zip(lines.items(), ("-", "--")):
            axes.plot(
                [i / 100 for i in range(101)], values, style, color=color, label=figure_text(f"{group}, IoU {iou}")
            )
    axes.set(xlabel="recall", ylabel="precision, mean over names", xlim=(0, 1), ylim=(0, 1.02))
    _save(figure, file, legend=True)


def draw_calibration(calibration: dict[str, dict], file: str | Path) -> None:
    """Precision over score of each group. `calibration`: of [`Analysis.calibration`]."""
    figure, axes = _figure(5.5, 4.5)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for (group, entry), color in zip(calibration.items(), _COLORS):
        points = [(row["score"], row["precision"]) for row in entry["bins"]]
        axes.plot(
            *zip(*points) if points else ((), ()),
            ".-",
            color=color,
            label=figure_text(f"{group}: error {entry['error']:.3f}"),
        )
    axes.set(xlabel="score", ylabel="share that is right (IoU 0.5)", xlim=(0, 1), ylim=(0, 1.02))
    _save(figure, file, legend=True)


def draw_errors(errors: dict[str, dict[str, float | None]], groups: list[str], file: str | Path) -> None:
    """What AP50 would gain without each kind of errors. `errors`: of [`Analysis.errors`]."""
    figure, axes = _figure(7, 4)
    height = 0.8 / len(groups)
    for place, (group, color) in enumerate(zip(groups, _COLORS)):
        gains = [entry[f"delta_AP50_{group}"] or 0 for entry in errors.values()]  # None: a group without objects
        axes.barh(
            [i + place * height for i in range(len(errors))], gains, height, color=color, label=figure_text(group)
        )
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(errors))], list(errors))
    axes.invert_yaxis()
    axes.set(xlabel="AP50 gained without them, points")
    _save(figure, file, legend=True)


def comparison(
    entry: dict,
    annotated: tuple[np.ndarray, list[str], list[float] | None, np.ndarray],
    detected: tuple[np.ndarray, list[str], list[float] | None, np.ndarray],
    font: str | None = None,
) -> Image.Image:
    """Draw an image twice: as annotated, and with its detections. Green what was found and is right, red the rest.

    Args:
        entry: of `CocoAnnotations.images`.
        annotated, detected: (boxes (n, 4) x0, y0, x1, y1 in pixels, names, scores or None, (n,) bool: right).
        font: as for [`draw_detections`].

    Returns:
        PIL RGB image.

    Raises:
        OSError, ValueError: the image cannot be read.
    """
    image = read_annotated(entry)
    image.thumbnail((640, 640))
    scale = image.width / entry["width"]
    left, right = (
        draw_detections(
            image, boxes * scale, names, scores, font, colors=["#3fa35b" if good else "#d1495b" for good in right]
        )
        for boxes, names, scores, right in (annotated, detected)
    )
    canvas = Image.new("RGB", (left.width + right.width + 8, left.height), "white")
    canvas.paste(left)
    canvas.paste(right, (left.width + 8, 0))
    return canvas


def draw_differences(result: dict[str, dict], file: str | Path) -> None:
    """Differences of two runs with their intervals. `result`: of [`compare`]."""
    rows = {key: row for key, row in result.items() if row["low"] is not None}
    figure, axes = _figure(7, 1 + 0.35 * len(rows))
    for place, row in enumerate(rows.values()):
        axes.plot([row["low"], row["high"]], [place, place], color=_COLORS[0], linewidth=2)
        axes.plot(row["difference"], place, "o", color=_COLORS[0])
    axes.axvline(0, color="#bbbbbb", linewidth=1)
    axes.set_yticks(range(len(rows)), list(map(figure_text, rows)))
    axes.invert_yaxis()
    axes.set(xlabel="second minus first, points, 95 % of the resamples")
    _save(figure, file)


def _save(figure, file, legend=False):
    (axes,) = figure.axes
    if legend and axes.get_legend_handles_labels()[0]:  # of nothing, matplotlib warns
        axes.legend(frameon=False, fontsize=8)
    with replacing(file) as partial:
        figure.savefig(partial, dpi=110)


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because it takes its time
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
