"""Annotated pictures: boxes and readable names, drawn with supervision's annotators.

Small images are enlarged first, because a label of legible size would otherwise cover the object; the font is DejaVu
Sans, which comes with matplotlib and has accents, Greek and Cyrillic (for other scripts give a font file).
"""

import warnings
from pathlib import Path

SMALL = 640  # pixels: images whose longer side is shorter are enlarged by a whole factor


def draw_detections(image, boxes, names, scores, font_path=None):
    """A new picture with boxes and "name score" labels.

    Args:
        image: PIL image, any mode.
        boxes: (n, 4) xyxy pixels of `image`.
        names: n strings.
        scores: n floats in 0..1.
        font_path: TrueType file; default DejaVu Sans.

    Returns:
        PIL RGB image, a whole multiple of the size of `image`. Equal names have equal colours within a picture; the
        best detections are drawn last, on top.
    """
    import matplotlib
    import numpy as np
    from PIL import Image

    with warnings.catch_warnings():  # its notice that it draws without OpenCV is of no use to ours
        warnings.filterwarnings("ignore", message="OpenCV")
        import supervision as sv

    factor = max(1, SMALL // max(image.size))
    canvas = image.convert("RGB")
    if factor > 1:
        canvas = canvas.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    if len(names) == 0:
        return canvas.copy()
    order = np.argsort(np.asarray(scores, dtype=np.float32), kind="stable")
    color_of_name = {name: number for number, name in enumerate(dict.fromkeys(names))}
    detections = sv.Detections(
        xyxy=np.asarray(boxes, dtype=np.float32).reshape(-1, 4)[order] * factor,
        confidence=np.asarray(scores, dtype=np.float32)[order],
        class_id=np.array([color_of_name[names[i]] for i in order]),
    )
    palette = sv.ColorPalette.DEFAULT
    # Black on light colours, white on dark ones, by the luma of ITU-R BT.601.
    text = ["#000000" if 0.299 * c.r + 0.587 * c.g + 0.114 * c.b > 140 else "#ffffff" for c in palette.colors]
    font_path = font_path or Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    size = max(13, round(0.018 * max(canvas.size)))
    thickness = sv.calculate_optimal_line_thickness(canvas.size)
    canvas = sv.BoxAnnotator(palette, thickness=thickness).annotate(canvas, detections)
    labels = sv.RichLabelAnnotator(
        palette,
        text_color=sv.ColorPalette.from_hex(text),
        font_path=str(font_path),
        font_size=size,
        text_padding=max(2, size // 5),
        smart_position=True,  # labels neither overlap nor leave the picture
    )
    return labels.annotate(canvas, detections, labels=[f"{names[i]} {scores[i]:.2f}" for i in order])
