"""What the browser draws of a Sighting: the picture, boxes and their colours, and why a box is there."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decodetr.utils.drawing import label_colors, shrunk
from decodetr.utils.markup import html_text, one_line

if TYPE_CHECKING:
    import PIL.Image

_SIDE, _QUALITY = 1280, 88  # of the picture that is sent, pixels and of JPEG


def data_uri(image: PIL.Image.Image) -> str:
    """A picture for the browser: JPEG of at most 1280 pixels a side, in a text, so that no file is written."""
    stream = io.BytesIO()
    shrunk(image, _SIDE)[0].save(stream, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def drawing(
    picture: str, size: tuple[int, int], shown: dict[str, list], picked: int | None = None, drawn: Any = None
) -> dict[str, Any]:
    """What stage.js draws.

    Args:
        picture (str): of [`data_uri`]. size: width and height of the image, pixels. shown (dict): lists of n "names",
            "scores", "boxes" and "row". picked (int, *optional*): the row that is marked. drawn (*optional*): a box of
            somebody's own, x0, y0, x1, y1.
    """
    colors = label_colors(shown["names"])
    boxes = [
        {"box": clipped(box, size), "label": f"{one_line(name)} {score:.2f}", "row": row, "fill": fill, "text": text}
        for box, name, score, row, (fill, text) in zip(
            shown["boxes"], shown["names"], shown["scores"], shown["row"], colors
        )
    ]
    names = ", ".join(dict.fromkeys(map(one_line, shown["names"])))
    alt = f"Your picture with {len(boxes)} boxes: {names}" if boxes else "Your picture, without boxes"
    return {
        "picture": picture,
        "width": size[0],
        "height": size[1],
        "boxes": boxes,
        "picked": picked,
        "drawn": drawn,
        "alt": alt[:500],
    }


def clipped(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """A box x0, y0, x1, y1 cut off at its picture, to a hundredth of a pixel."""
    return [round(min(max(value, 0.0), float(size[i % 2])), 2) for i, value in enumerate(box)]


def box_at(x: float, y: float, boxes: Sequence[Sequence[float]], rows: Sequence[int]) -> int | None:
    """The row of the smallest of the boxes that hold a point, which is what one means who clicks there. Of equal ones
    the first. None: there is no box."""
    around = [
        ((x1 - x0) * (y1 - y0), place)
        for place, (x0, y0, x1, y1) in enumerate(boxes)
        if x0 <= x <= x1 and y0 <= y <= y1
    ]
    return rows[min(around)[1]] if around else None


def own_box(text: str, size: tuple[int, int]) -> list[float]:
    """The box of a text "x0, y0, x1, y1", corners in any order, cut off at the picture.

    Raises:
        ValueError: it is none, or too small.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.replace(";", ",").split(","))
        fits = all(map(math.isfinite, (x0, y0, x1, y1)))
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("Draw a box on the picture, or write its corners: left, top, right, bottom in pixels.")
    box = clipped([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], size)
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        raise ValueError(f"The box has less than 2 pixels in the picture of {size[0]} x {size[1]}; draw a larger one.")
    return box


def reasons(found: dict[str, list], row: int | None) -> str:
    """HTML that says why a detection is there. Names and captions are shown, never obeyed."""
    if row is None:
        return "<p>Click a box, or choose a detection, to see what it is made of.</p>"
    name, score = html_text(one_line(found["names"][row])), found["scores"][row]
    sure, likely = found["objectness"][row], found["name_probability"][row]
    prototypes = found["prototypes"][row]
    heaviest = max([one["weight"] for one in prototypes], default=1.0) or 1.0
    lines = "".join(_row(one, 100 * one["weight"] / heaviest) for one in prototypes)
    return (
        f"<h2>Why &ldquo;{name}&rdquo;, {score:.2f}</h2>"
        f"<p>There is an object: <b>{sure:.2f}</b>. If so, it has this name: <b>{likely:.2f}</b>. "
        "The score is their product, after calibration.</p>"
        "<table><caption>What its query looked up in the pool of captions</caption>"
        '<thead><tr><th scope="col"><span class="unseen">Bar</span></th><th scope="col">Share</th>'
        '<th scope="col">Caption</th><th scope="col">Level</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _row(prototype, percent):
    caption = html_text(one_line(prototype["caption"] or f"prototype {prototype['index']}"))
    return (
        f'<tr><td class="bar"><i style="width:{percent:.1f}%"></i></td><td>{prototype["weight"]:.1%}</td>'
        f"<td>{caption}</td><td>{prototype['level']}</td></tr>"
    )
