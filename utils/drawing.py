"""Annotated pictures: boxes and readable names, drawn with supervision's annotators, and a panel that explains them.

Small images are enlarged first, because a label of legible size would otherwise cover the object. The font is DejaVu
Sans, which comes with matplotlib and has accents, Greek and Cyrillic (for other scripts give a font file).
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from decodetr.processing.picture_modes import to_rgb
from decodetr.utils.markup import one_line

SMALL = 640  # pixels: images whose longer side is shorter are enlarged by a whole factor
LARGE = 4096  # pixels: images whose longer side is longer are drawn smaller
MOST_EXPLAINED = 8  # detections in the panel of a picture


def draw_detections(
    image: Image.Image,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None,
    font_path: str | Path | None = None,
    numbered: bool = False,
    colors: Sequence[str] | None = None,
) -> Image.Image:
    """A new picture with boxes and "name score" labels. Of a name that is wider than the picture the end is cut off.

    Args:
        image: PIL image, any mode.
        boxes: (n, 4) xyxy pixels of `image`.
        names: n strings.
        scores: n floats in 0..1. None writes names alone, as for annotations.
        font_path: TrueType file. Default DejaVu Sans.
        numbered: put the number of the detection, from 1, before its name.
        colors: n colours such as "#d1495b", instead of one per name.

    Returns:
        PIL RGB image, a whole multiple of the size of `image`, or of at most LARGE pixels a side. Equal names have
        equal colours within a picture. The best detections are drawn last, on top.
    """
    sv = _supervision()
    canvas, factor = shrunk(to_rgb(image), LARGE)
    if (enlarged := SMALL // max(image.size)) > 1:
        factor = enlarged
        canvas = canvas.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    canvas = canvas.copy() if canvas is image else canvas
    if len(names) == 0:
        return canvas
    after = [""] * len(names) if scores is None else [f" {score:.2f}" for score in scores]
    scores = np.zeros(len(names)) if scores is None else scores
    order = np.argsort(np.asarray(scores, dtype=np.float32), kind="stable")
    detections = sv.Detections(
        xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order] * factor,
        confidence=np.asarray(scores, dtype=np.float32)[order],
        class_id=np.array(_color_numbers(colors or names))[order],
    )
    palette = sv.ColorPalette.from_hex(list(dict.fromkeys(colors))) if colors else sv.ColorPalette.DEFAULT
    text = list(map(_text_on, palette.colors))
    size = _font_size(canvas)
    padding = max(2, size // 5)
    thickness = sv.calculate_optimal_line_thickness(canvas.size)
    canvas = sv.BoxAnnotator(palette, thickness=thickness).annotate(canvas, detections)
    labels = sv.RichLabelAnnotator(
        palette,
        text_color=sv.ColorPalette.from_hex(text),
        font_path=str(font_path or default_font()),
        font_size=size,
        text_padding=padding,
        smart_position=True,  # labels neither overlap nor leave the picture
    )
    room = canvas.width - 2 * padding - 1
    texts = [_label(f"{i + 1}. " if numbered else "", one_line(names[i]), after[i], labels.font, room) for i in order]
    return labels.annotate(canvas, detections, labels=texts)


def shrunk(image: Image.Image, most: int) -> tuple[Image.Image, float]:
    """(picture of at most `most` pixels a side, its scale to the image): for what is drawn small anyway."""
    scale = min(1.0, most / max(image.size))
    if scale == 1.0:
        return image, scale
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, reducing_gap=2.0), scale


def draw_explanations(
    picture: Image.Image,
    names: Sequence[str],
    scores: Sequence[float],
    prototypes: Sequence[Sequence[dict[str, Any]]],
    font_path: str | Path | None = None,
) -> Image.Image:
    """The picture of `draw_detections(..., numbered=True)` with a panel of the prototypes behind its detections.

    Args:
        picture: PIL RGB image.
        names, scores: of the n detections, best first.
        prototypes: n lists of {"index", "caption", "weight", ...}, as `explain_detections` gives them.
        font_path: as for `draw_detections`.

    Returns:
        PIL RGB image: the picture at the top left, unchanged, and to its right (below it, if it is much wider than
        high) one block per detection, in one or two columns, with a bar, weight and caption for each prototype. Bars
        are relative to the heaviest prototype shown. Those of one caption, as a coarse prototype and a fine one often
        have, are one line. Captions are cut to fit. At most MOST_EXPLAINED detections. A line says how many more there
        are. Without detections the picture alone.
    """
    if not names:
        return picture.copy()
    prototypes = [_of_one_caption(rows) for rows in prototypes]
    size = _font_size(picture)
    font = ImageFont.truetype(str(font_path or default_font()), size)
    line, width = round(1.45 * size), 34 * size
    shown = min(len(names), MOST_EXPLAINED)
    footer = [f"Not shown here: {len(names) - shown} more."] if len(names) > shown else []
    block_height = line * (max(map(len, prototypes)) + 1) + size
    below = picture.width > 1.5 * picture.height
    columns = 1 if shown <= MOST_EXPLAINED // 2 else 2
    panel_width = width * columns
    panel_height = block_height * -(-shown // columns) + size + line * len(footer)
    left, top = (0, picture.height) if below else (picture.width, 0)
    canvas = Image.new(
        "RGB", (max(picture.width, left + panel_width), max(picture.height, top + panel_height)), "white"
    )
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    colors = _supervision().ColorPalette.DEFAULT
    heaviest = max(row["weight"] for rows in prototypes[:shown] for row in rows)

    def write(x, y, text, room, fill="black"):
        pen.text((x, y), _cut(one_line(text), font, room), font=font, fill=fill)

    for i, color_number in enumerate(_color_numbers(names)[:shown]):
        x = left + i % columns * width + size
        y = top + i // columns * block_height + size
        room = width - 2 * size
        color = colors.by_idx(color_number).as_rgb()
        pen.rectangle((x, y, x + size, y + size), fill=color)
        text = _label(f"{i + 1}. ", one_line(names[i]), f" {scores[i]:.2f}", font, room - 1.5 * size)
        pen.text((x + 1.5 * size, y), text, font=font, fill="black")
        for row in prototypes[i]:
            y += line
            pen.rectangle((x, y, x + 5 * size, y + size), fill="#eeeeee")
            pen.rectangle((x, y, x + 5 * size * row["weight"] / heaviest, y + size), fill=color)
            write(x + 5.5 * size, y, f"{row['weight']:.1%}", 4 * size, "#444444")
            caption = row["caption"] or f"prototype {row['index']}"
            write(x + 9.5 * size, y, caption, room - 9.5 * size)
    for text in footer:
        write(left + size, top + panel_height - line, text, panel_width - 2 * size, "#444444")
    return canvas


def _of_one_caption(rows):
    """The prototypes with those of one caption added up, heaviest first."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        key = row["index"] if row["caption"] is None else row["caption"]
        before = found.get(key)
        found[key] = row if before is None else {**before, "weight": before["weight"] + row["weight"]}
    return sorted(found.values(), key=lambda row: -row["weight"])


def label_colors(names: Sequence[str]) -> list[tuple[str, str]]:
    """For each name the colours of its box and of the text on it, such as ("#d1495b", "#ffffff"): those that
    [`draw_detections`] gives it."""
    palette = _supervision().ColorPalette.DEFAULT
    colors = [palette.by_idx(number) for number in _color_numbers(names)]
    return [(color.as_hex(), _text_on(color)) for color in colors]


def _text_on(color):
    """Black or white, whichever has more contrast to a colour (WCAG 2: relative luminance of sRGB)."""
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
        for x in (color.r / 255, color.g / 255, color.b / 255)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def _supervision():
    """The module, which takes its time to import."""
    from decodetr.utils.quiet_supervision import sv

    return sv


def default_font() -> Path:
    """Path of DejaVu Sans."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _font_size(picture):
    """Pixels: legible, and in proportion to large pictures."""
    return max(13, round(0.018 * max(picture.size)))


def _color_numbers(names):
    """Place in the palette of every name (or colour): equal ones have equal places."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return [number[name] for name in names]


def _label(before, name, after, font, room):
    """A name between its number and its score: as much of it as fits into `room` pixels together with these."""
    return f"{before}{_cut(name, font, room - font.getlength(before + after))}{after}"


def _cut(text, font, room):
    """The text, or as much of its beginning as fits into `room` pixels, with an ellipsis."""
    if font.getlength(text) <= room:
        return text
    longer = range(1, len(text))
    return text[: bisect_right(longer, room, key=lambda length: font.getlength(f"{text[:length]}…"))] + "…"
