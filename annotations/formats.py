"""The words for data sets that commands and readers share: parts, formats of boxes, what `--data` can be.

Nothing heavy is imported, so that `--help` is instant.
"""

from decodetr.utils.name_list import read_typed_names

DATA_HELP = (
    "folder in the form of COCO, YOLO, CVAT, Label Studio, Pascal VOC or LabelMe, or a folder or Hub name of a "
    "`datasets` data set (docs/data.md)"
)
PARTS = ("train", "val", "test")
BOX_FORMATS = ("coco", "pascal_voc", "yolo")  # x, y, w, h | x0, y0, x1, y1 | cx, cy, w, h in 0..1


def form_of(class_names: str | None, box_format: str | None) -> dict:
    """Return the values of --class-names and --box-format as arguments of [`load_annotations`]."""
    return {"class_names": read_typed_names(class_names, "--class-names"), "box_format": box_format or "coco"}
