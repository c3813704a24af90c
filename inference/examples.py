"""Example images of names: of a folder for each name, or boxes of an annotation file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from decodetr.annotations.coco import read_annotated
from decodetr.inference.picture_files import find_images
from decodetr.modeling_decodetr.image_encoder import pixel_box
from decodetr.utils.excerpts import some_of
from decodetr.utils.images import is_image, open_image

if TYPE_CHECKING:
    import PIL.Image

    from decodetr.annotations.coco import CocoAnnotations

logger = logging.getLogger(__name__)


def examples_of_folders(folder: str | Path, most: int | None = None) -> dict[str, list[PIL.Image.Image]]:
    """The pictures of a folder that has a sub-folder for each name. A warning says which lie beside these.

    Args:
        folder: with the sub-folders. Their names are the names. most (int, optional): pictures of a name, in the order
            of their file names.

    Returns:
        {name: PIL RGB pictures}, names in alphabetical order.

    Raises:
        FileNotFoundError: no such folder, no sub-folders, or one without pictures. ValueError: a damaged picture.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"--images {folder} is no folder; expected one with a sub-folder of pictures for each name"
        )
    entries = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        raise FileNotFoundError(
            f"--images {folder} has no sub-folders; expected one with example pictures for each name, or "
            "--annotations FILE with the boxes of examples"
        )
    if loose := [path.name for path in entries if not path.is_dir() and is_image(path)]:
        logger.warning(
            "--images %s: pictures beside the sub-folders belong to no name, and are not used: %s; move each into the "
            "folder of its name",
            folder,
            some_of(loose, 5),
        )
    return {path.name: [open_image(file) for file in find_images([path])[:most]] for path in folders}


def examples_of_boxes(coco: CocoAnnotations, most: int | None = None) -> dict[str, list[PIL.Image.Image]]:
    """Cut the annotated boxes of each name out of their pictures.

    Args:
        coco ([`CocoAnnotations`]): crowds do not count. most (int, optional): boxes of a name, the largest ones.

    Returns:
        {name: PIL RGB crops} of the names that have boxes, in the order of the file.

    Raises:
        ValueError: no name has a box, or a damaged picture.
    """
    boxes: dict[int, list] = {}
    for entry in coco.images:
        index, image_id = coco.annotations_by_image, entry["image_id"]
        categories = index.arrays(image_id, crowds=False)["category"].tolist()
        sides = np.array([entry["width"], entry["height"]] * 2)
        for category, box in zip(categories, index.corners(image_id, crowds=False).clip(0, sides).tolist()):
            if (area := (box[2] - box[0]) * (box[3] - box[1])) > 0:
                boxes.setdefault(category, []).append((area, image_id, box))
    if not boxes:
        raise ValueError(f"{coco.file}: expected boxes of examples, got none")
    wanted: dict[int, list] = {}
    for category, rows in boxes.items():
        for _, image_id, box in sorted(rows, key=lambda row: -row[0])[:most]:
            wanted.setdefault(image_id, []).append((category, box))
    crops: dict[int, list] = {category: [] for category in sorted(boxes)}
    entries = [entry for entry in coco.images if entry["image_id"] in wanted]
    for entry in tqdm(entries, desc="examples", unit="image"):
        image = read_annotated(entry, coco.file)
        for category, box in wanted[entry["image_id"]]:
            crops[category].append(image.crop(pixel_box(image, box)))
    return {coco.names[category]: images for category, images in crops.items()}
