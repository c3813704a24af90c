"""What a large COCO file says, kept as arrays beside other data that are made once (`utils.made_once`): it is parsed
by the first process that reads it, and read in a moment by those that come later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.image_entries import Federation, ImageEntries, Texts
from decodetr.utils.documents import read_json
from decodetr.utils.files import file_state, write_json
from decodetr.utils.made_once import NotKept, made_once

if TYPE_CHECKING:
    from typing import Any

    from decodetr.annotations.coco import CocoAnnotations

LARGE = 16 << 20  # bytes of a file that is parsed once. A smaller one takes less than a second
_FORM = "annotations-2"  # of what is kept: another number where it changes
_NUMBERS = ("image_id", "width", "height", "size_declared")
_TEXTS = ("file_name", "path")
_BOXES = ("id", "category", "bbox", "area", "iscrowd")

logger = logging.getLogger(__name__)


def parsed_once(file: Path, how: list[Any], parse: Callable[[], CocoAnnotations]) -> dict[str, Any] | None:
    """
    What `parse` makes of a file: parsed now, or by an earlier process.

    Args:
        file (Path). how: what else the result depends on, for JSON. parse: its errors are raised.

    Returns:
        dict of the arguments of CocoAnnotations besides `file`, "annotations_by_image" being those of AnnotationIndex.
        None, with a warning, where nothing can be kept.
    """

    def make(staging):
        _write(staging, parse())

    try:
        return _read(made_once(_FORM, file, [[file_state(file)], how], lambda: file.stat().st_size, make))
    except NotKept as error:
        logger.warning("%s: it is parsed again by each process that reads it: %s", file, error)
        return None


def _write(staging, coco):
    images, index = coco.images.columns, coco.annotations_by_image
    arrays = {name: images[name] for name in _NUMBERS}
    for name in _TEXTS:
        arrays |= {f"{name} bytes": images[name].content, f"{name} starts": images[name].starts}
    arrays |= {f"box {name}": index.column(name) for name in _BOXES} | {"box image": index.image_rows}
    if coco.federation is not None:
        (one, ones), (two, twos) = coco.federation.absent, coco.federation.not_exhaustive
        arrays |= {"absent": one, "absent starts": ones, "partial": two, "partial starts": twos}
    for name, values in arrays.items():
        np.save(staging / f"{name.replace(' ', '-')}.npy", values)
    words = {"names": coco.names, "category_ids": coco.category_ids, "frequencies": coco.frequencies}
    write_json(staging / "annotations.json", {**words, "image_folder": str(coco.image_folder)})


def _read(folder):
    words = read_json(folder / "annotations.json", dict)

    def array(name):  # mapped from the file; what somebody changes is theirs alone
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c"))

    columns = {name: array(name) for name in _NUMBERS}
    columns |= {name: Texts(array(f"{name}-bytes"), array(f"{name}-starts")) for name in _TEXTS}
    index = [columns["image_id"], array("box-image"), *(array(f"box-{name}") for name in _BOXES)]
    federation = None
    if (folder / "absent.npy").is_file():
        lists = ((array(name), array(f"{name}-starts")) for name in ("absent", "partial"))
        federation = Federation(columns["image_id"], *lists)
    return {
        "image_folder": Path(words.pop("image_folder")),
        **words,
        "images": ImageEntries(columns),
        "annotations_by_image": index,
        "federation": federation,
    }
