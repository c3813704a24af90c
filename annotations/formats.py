"""The words for data sets that commands and readers share: parts, formats of boxes, what `--data` can be.

Nothing is imported, so that `--help` is instant.
"""

DATA_HELP = "COCO or YOLO folder, or a folder or Hub name of a `datasets` data set (docs/data.md)"
PARTS = ("train", "val", "test")
BOX_FORMATS = ("coco", "pascal_voc", "yolo")  # x, y, w, h | x0, y0, x1, y1 | cx, cy, w, h in 0..1
