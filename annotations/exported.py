"""What annotation tools export, as `CocoAnnotations`: images, where they are, and the shapes on them.

A reader (cvat.py, label_studio.py, labelme.py, pascal_voc.py) makes an `ExportedImage` of each entry of its files.
Here they are found on disk and checked, so that all forms have the same checks and messages.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco import AnnotationIndex, CocoAnnotations
from decodetr.annotations.coco_checks import is_name
from decodetr.annotations.findings import FirstError
from decodetr.annotations.left_over import NO_PICTURE, pictures_below
from decodetr.annotations.turned_shapes import around, turned_corners
from decodetr.annotations.written_paths import spelling_key
from decodetr.utils.excerpts import short
from decodetr.utils.images import image_header, upright_size
from decodetr.utils.paths import inside

if TYPE_CHECKING:
    from typing import Any

    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)

NOT_ANNOTATED = "pictures without annotations, not used: save them as annotated without a box if they show nothing"
_PASSED_OVER = "shapes that are neither boxes nor areas"


@dataclass(frozen=True)
class ExportedShape:
    """A shape on an image.

    Args:
        where (str): file and row.
        label: its name, as the file has it.
        points: x, y, x, y, ... in pixels, of which the box around them is taken. Not finite: an error.
        corners (bool): the points are x0, y0, x1, y1, in this order.
        degrees (float): how far a box of such corners is turned around its center, clockwise.
    """

    where: str
    label: object
    points: Sequence[float]
    corners: bool = False
    degrees: float = 0.0


@dataclass
class ExportedImage:
    """An image of an export.

    Args:
        where (str): file and row.
        written (str): its name, as the file has it. path (Path, optional): where it is. None: nowhere.
        size (tuple, optional): (width, height) that the file declares.
        shapes (list[ExportedShape]).
    """

    where: str
    written: str
    path: Path | None
    size: tuple[int, int] | None = None
    shapes: list[ExportedShape] = field(default_factory=list)


class PictureFinder:
    """
    The pictures below a folder, found by what annotations call them.

    Args:
        folder (Path): of the data set, or that of the pictures. Nothing outside of it is found.
        check (bool): without it, pictures that are not there are taken to be where the annotations say.

    Attributes:
        pictures (list[Path]): all of them, sorted. others (list[Path]): odd files among them.
    """

    def __init__(self, folder: str | Path, check: bool = True) -> None:
        self.folder, self.check = Path(folder), check
        self.pictures, self.others = pictures_below(folder)
        self._all = {os.path.normpath(path): path for path in self.pictures}
        self._by_end: dict[str, list[Path]] = {}
        for path in self.pictures:
            parts = spelling_key(os.path.relpath(path, folder)).split("/")
            for place in range(len(parts)):
                self._by_end.setdefault("/".join(parts[place:]), []).append(path)

    def locate(
        self, name: str, where: str, findings: Findings, beside: Sequence[str | Path] = ("",), said: bool = True
    ) -> Path | None:
        """The file that a name means: as [`find`]. Without `check`, that of a name that no file has is where the name
        says."""
        found = self.find(name, where, findings, beside, said)
        if found is not None or self.check:
            return found
        return self.folder / beside[0] / PurePosixPath(name.replace("\\", "/")).name

    def find(
        self, name: str, where: str, findings: Findings, beside: Sequence[str | Path] = ("",), said: bool = True
    ) -> Path | None:
        """The file that a name means.

        Args:
            name (str): as written. where (str): file and row, for messages.
            findings (Findings): is told of another spelling, and of paths that lead out of the folder.
            beside (list): folders in the folder that the name may begin in, the likeliest first.
            said (bool): tell of another spelling.

        Returns:
            Path: that of the name, else of the only picture whose path ends in the same way. None: there is none.
        """
        outside = None
        for place in beside:
            try:
                path = inside([self.folder / place, self.folder], name, where)
            except ValueError as error:
                outside = error
                continue
            if (found := self._all.get(os.path.normpath(path))) is not None or os.path.isfile(path):
                return found or Path(path)
        if (found := self._ending(name)) is not None:
            if said:
                text = f"{where}: {name!r} is {os.path.relpath(found, self.folder)!r}"
                findings.add("warning", "files in another spelling", text, "as they are in the folder")
            return found
        if outside is not None:
            what = "images outside of the data set's folder"
            findings.add("error", what, str(outside), "left out with their objects")
        return None

    def _ending(self, name):
        """The only picture that has the longest end of its path in common with a name."""
        parts = [part for part in spelling_key(name).split("/") if part != ".."]
        for place in range(len(parts)):
            if found := self._by_end.get("/".join(parts[place:])):
                return found[0] if len(found) == 1 else None
        return None


def exported_annotations(
    source: str | Path,
    folder: str | Path,
    images: Iterable[ExportedImage],
    findings: Findings | None,
    told: Findings,
    names: Sequence[str] = (),
) -> CocoAnnotations:
    """
    The images of an export as annotations.

    Args:
        source: the file or folder that was read, for messages. folder: that file names are relative to.
        images (iterable of ExportedImage).
        findings (Findings or None): as given to the reader. told (Findings): the same, or a `FirstError`.
        names: those that the export declares. Others that it uses follow in alphabetical order.

    Returns:
        CocoAnnotations: images and categories are numbered from 1 in their order.

    Raises:
        ValueError: what cannot be used, where `findings` is None.
    """
    entries: list[dict[str, Any]] = []
    rows: list[int] = []
    labels: list[str] = []
    boxes: list[list[float]] = []
    images = list(images)
    times = Counter(image.path for image in images if image.path is not None)
    for image in images:
        entry = _entry(image, len(entries) + 1, folder, told, times)
        if entry is None:
            continue
        for shape in image.shapes:
            if (box := _box(shape, told)) is not None:
                rows.append(len(entries))
                labels.append(str(shape.label))
                boxes.append(box)
                if findings is None and 0 in box[2:]:
                    told.add("warning", "boxes without area", f"{shape.where}: {box}", "not trained on")
        entries.append(entry)
    names = [*dict.fromkeys(names), *sorted(set(labels) - set(names))]
    number_of = {name: number for number, name in enumerate(names)}
    sides = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    index = AnnotationIndex(
        [entry["image_id"] for entry in entries],
        np.array(rows, dtype=np.int64),
        np.arange(1, len(rows) + 1),
        np.array([number_of[label] for label in labels], dtype=np.int64),
        sides,
        sides[:, 2] * sides[:, 3],
        np.zeros(len(rows), dtype=np.int64),
    )
    if findings is None:
        told.warn(logger, source)
    return CocoAnnotations(source, Path(folder), names, list(range(1, len(names) + 1)), entries, index)


def told_to(findings: Findings | None) -> Findings:
    """What a reader tells of problems: those findings, or the first error raised."""
    return FirstError() if findings is None else findings


def passed_over(kind: object, where: str, findings: Findings) -> None:
    """Tell of a shape that has no box, such as a point or a line."""
    findings.add("warning", _PASSED_OVER, f"{where}: {short(kind)}", "left out")


def left_over(finder: PictureFinder, used: Iterable[Path]) -> dict[str, list[Path]]:
    """What of a finder's folder nothing uses: NOT_ANNOTATED -> pictures, NO_PICTURE -> files with another suffix."""
    named = {os.path.normpath(path) for path in used}
    rest = [path for path in finder.pictures if os.path.normpath(path) not in named]
    return {NOT_ANNOTATED: rest, NO_PICTURE: finder.others}


def declared_size(width: object, height: object) -> tuple[int, int] | None:
    """(width, height) where both are whole numbers of at least 1, or texts of such. Else None."""
    try:
        sides = [float(str(side)) for side in (width, height)]
    except ValueError:
        return None
    if not all(math.isfinite(side) and side >= 1 and side == int(side) for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def number_in(text: object) -> float:
    """A number or the number that a text is. NaN for anything else, which the check of boxes refuses."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return math.nan
    try:
        return float(text)
    except (OverflowError, ValueError):
        return math.nan


def _entry(image, number, folder, told, times: Mapping[Path, int]):
    """The entry of `CocoAnnotations.images`, or None where the image cannot be used."""
    if image.path is None:
        message = f"{image.where}: expected one image called {image.written!r} below {folder}, got none, or several; "
        message += "restore it, or take it out of the annotations"
        told.add("error", "images that are not there", message, "left out with their objects")
        return None
    if times[image.path] > 1 and image.path.is_file():  # else a name stands for a picture that need not be there
        message = f"{image.where}: expected a picture of its own, got {image.path}, which {times[image.path]} entries "
        message += f"are of ({image.written!r} here); give each its own file, or leave one entry for the picture"
        told.add("error", "entries that are of one picture", message, "left out with their objects")
        return None
    size = image.size
    if size is None:
        try:
            size = upright_size(*image_header(image.path))
        except (OSError, ValueError) as error:
            told.add("error", "images that cannot be read", f"{image.where}: {error}", "left out with their objects")
            return None
    entry = {"image_id": number, "file_name": os.path.relpath(image.path, folder), "path": str(image.path)}
    return entry | {"width": size[0], "height": size[1], "size_declared": image.size is not None}


def _box(shape, told):
    """x, y, w, h, or None where the shape cannot be used."""
    if not is_name(shape.label):
        message = f"{shape.where}: expected a name, got {short(shape.label)}; give the shape a label"
        told.add("error", "shapes without a name", message, "left out")
        return None
    points = [float(value) for value in shape.points]
    if len(points) < 4 or len(points) % 2 or not all(map(math.isfinite, [*points, shape.degrees])):
        message = f"{shape.where}: expected finite coordinates in pixels, got {short(points)}; correct the shape"
        told.add("error", "shapes whose coordinates are no finite numbers", message, "left out")
        return None
    if shape.corners and (points[2] < points[0] or points[3] < points[1]):
        message = f"{shape.where}: expected x0 <= x1 and y0 <= y1, got {short(points)}; correct the box"
        told.add("error", "boxes of negative size", message, "left out")
        return None
    return around(turned_corners(points, shape.degrees) if shape.degrees else points)
