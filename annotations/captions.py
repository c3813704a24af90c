"""Captions that people wrote of whole images, as COCO has them."""

from pathlib import Path

from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short


def read_captions(file: str | Path) -> tuple[dict[int, list[int]], dict[str, int]]:
    """Captions of whole images, of JSON with `annotations` [{"image_id", "caption"}]: ({image_id: numbers of its
    captions}, {caption: its number}).

    Raises:
        FileNotFoundError, ValueError: no such file, or not of this form. The message names file and row.
    """
    document = read_json(file)
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise ValueError(f"{file}: expected annotations with image_id and caption, as COCO has its captions")
    rows, numbers = {}, {}
    for number, row in enumerate(document["annotations"]):
        caption = row.get("caption") if isinstance(row, dict) else None
        if not isinstance(caption, str) or not caption.strip() or type(row.get("image_id")) is not int:
            raise ValueError(f"{file}: annotations[{number}]: expected image_id and caption, got {short(row)}")
        rows.setdefault(row["image_id"], []).append(numbers.setdefault(caption.strip(), len(numbers)))
    if not rows:
        raise ValueError(f"{file}: expected captions, got none")
    return rows, numbers
