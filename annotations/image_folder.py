"""A folder of pictures without annotations, as `CocoAnnotations` without names: what a pool is built of."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.annotations.exported import ExportedImage, exported_annotations, told_to
from decodetr.annotations.left_over import NO_PICTURE, pictures_below
from decodetr.utils.images import image_header, upright_size

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)


def read_image_folder(folder: str | Path, findings: Findings | None = None) -> CocoAnnotations:
    """
    The pictures of a folder and of the folders in it.

    Args:
        folder: of pictures. findings (Findings, optional): is told of pictures that cannot be read. They are left out
            either way; default: they are logged.

    Returns:
        CocoAnnotations: images are numbered from 1 in the order of their paths, without objects and names.
    """
    told = told_to(findings)
    pictures, others = pictures_below(folder)
    images = []
    for path in pictures:
        try:
            upright_size(*image_header(path))
        except (OSError, ValueError) as error:
            told.add("warning", "images that cannot be read", str(error), "left out")
        else:
            images.append(ExportedImage(str(path), os.path.relpath(path, folder), path))
    coco = exported_annotations(folder, folder, images, findings, told)
    coco.left_over = {NO_PICTURE: others}
    return coco
