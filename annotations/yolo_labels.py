"""The rows of YOLO's label files: `class` and numbers in 0..1 of the image, whose meaning one row does not tell.

| numbers | a row can be |
|---|---|
| 4 | a box, cx cy w h |
| 5 | a box and a confidence, or an angle |
| even, from 6 | a polygon, x y x y ..., of which an oriented box has four points; or a box and keypoints |
| odd, from 7 | a box and keypoints with visibility |

So the form is what data.yaml declares, by `kpt_shape` or `label_format`, or what all rows of the part agree on.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from decodetr.utils.boxes import centers_to_sides, sides_of
from decodetr.utils.documents import read_text
from decodetr.utils.excerpts import short

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from decodetr.annotations.findings import Findings

FORMATS = ("box", "confidence", "polygon")
_REMEDY = "write it as `class cx cy w h` in 0..1 of the image"
_DECLARE = "say in data.yaml what the rows are: `label_format: box`, `confidence` (box and confidence) or `polygon`"
_DECLARE += ", which may have boxes among them; or `kpt_shape: [keypoints, 2 or 3]`"
_COLUMNS = (
    "file",
    "line",
    "class",
    "count",
    "cx",
    "cy",
    "w",
    "h",
    "x0",
    "y0",
    "x1",
    "y1",
    "pose2",
    "pose3",
    "oriented",
)
_OUTSIDE = 0.1  # of a box's size: so far out of it keypoints may lie


def declared_format(file: str | Path, config: dict[str, Any]) -> str | tuple[int, int] | None:
    """What a data.yaml says of its label rows: a word of `FORMATS`, (keypoints, numbers of each), or None.

    Raises:
        ValueError: it says something else. The message names the file.
    """
    shape, word = config.get("kpt_shape"), config.get("label_format")
    if shape is not None:
        numbers = [str(value) for value in shape] if isinstance(shape, list) else []
        if len(numbers) != 2 or not all(map(str.isdecimal, numbers)) or numbers[1] not in ("2", "3"):
            raise ValueError(f"{file}: expected kpt_shape: [number of keypoints, 2 or 3], got {short(shape)}")
        return int(numbers[0]), int(numbers[1])
    if word is not None and word not in FORMATS:
        raise ValueError(f"{file}: expected label_format: {', '.join(FORMATS)}, got {short(word)}")
    return word


def read_label_files(
    files: Sequence[Path],
    num_classes: int,
    source: str | Path,
    declared: str | tuple[int, int] | None,
    findings: Findings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The boxes of the label files of one part.

    Args:
        files (list[Path]): of each image. Those that are not there have no rows.
        num_classes (int): of data.yaml, `source`.
        declared: of `declared_format`.
        findings (Findings): is told of rows that cannot be used. They are left out.

    Returns:
        (rows of `files` (n,), classes (n,), boxes (n, 4) x, y, w, h in 0..1), in the order of files and lines.

    Raises:
        ValueError: rows that can be read in two ways.
    """
    numbers = array("d")
    for place, file in enumerate(files):
        if os.path.lexists(file):
            _read_file(place, file, num_classes, source, findings, numbers)
    table = dict(zip(_COLUMNS, np.array(numbers).reshape(-1, len(_COLUMNS)).T))
    is_polygon = _decide(table, declared, files, source, findings)
    keep = is_polygon >= 0
    boxes = centers_to_sides(np.stack([table[name] for name in ("cx", "cy", "w", "h")], axis=1))
    around = sides_of(np.stack([table[name] for name in ("x0", "y0", "x1", "y1")], axis=1))
    boxes[is_polygon == 1] = around[is_polygon == 1]
    for row in np.flatnonzero(keep & (boxes[:, 2:] < 0).any(axis=1)):
        message = f"{_where(files, table, row)}: expected no negative size, got {boxes[row, 2:].tolist()}; {_REMEDY}"
        findings.add("error", "boxes of negative size", message, "left out")
        keep[row] = False
    return table["file"][keep].astype(np.int64), table["class"][keep].astype(np.int64), boxes[keep]


def _where(files, table, row):
    return f"{files[int(table['file'][row])]}: line {int(table['line'][row])}"


def _read_file(place, file, num_classes, source, findings, numbers):
    """Append the readable rows of one file."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        findings.add("error", "label files that cannot be read", str(error), "left out")
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where, words = f"{file}: line {number}", line.split()
        try:
            category, values = float(words[0]), np.array(words[1:], dtype=np.float64)
        except ValueError:
            message = f"{where}: expected numbers, got {line!r:.80}; {_REMEDY}"
            findings.add("error", "rows that are no numbers", message, "left out")
            continue
        if not (np.isfinite(category) and np.isfinite(values).all()):
            message = f"{where}: expected finite numbers, got {line!r:.80}; {_REMEDY}"
            findings.add("error", "rows with numbers that are not finite", message, "left out")
        elif category != int(category) or not 0 <= category < num_classes:
            message = f"{where}: expected a class of 0 to {num_classes - 1} ({source}), got {words[0]}"
            findings.add("error", "classes that data.yaml does not have", message, "left out")
        elif len(values) < 4:
            message = f"{where}: expected 4 numbers after the class, got {len(values)}; {_REMEDY}"
            findings.add("error", "rows of fewer than 4 numbers", message, "left out")
        elif np.abs(values).max() > 2:
            message = f"{where}: expected numbers in 0..1, got {line!r:.80}: are they pixels? {_REMEDY}"
            findings.add("error", "rows with numbers outside of 0..1", message, "left out")
        else:
            numbers.extend([place, number, category, len(values), *values[:4], *_readings(values)])


def _readings(values):
    """What a row would be as a polygon (x0, y0, x1, y1), and whether it can be a pose of 2 or 3 numbers a keypoint,
    and is an oriented box."""
    around, count = [0.0] * 4, len(values)
    if count >= 6 and count % 2 == 0:
        points = values.reshape(-1, 2)
        around = [*points.min(axis=0), *points.max(axis=0)]
    oriented = count == 8 and np.abs(values[0:2] + values[4:6] - values[2:4] - values[6:8]).max() < 1e-3
    return *around, _is_pose(values, 2), _is_pose(values, 3), oriented


def _is_pose(values, size):
    """Whether a row can be a box inside of the image and keypoints on it."""
    (x, y, width, height), rest = values[:4], values[4:]
    if not len(rest) or len(rest) % size or min(x - width / 2, y - height / 2) < -1e-3:
        return False
    if max(x + width / 2, y + height / 2) > 1 + 1e-3:
        return False
    points = rest.reshape(-1, size)
    if size == 3 and not np.isin(points[:, 2], (0, 1, 2)).all():
        return False
    seen = points[:, 2] > 0 if size == 3 else points.any(axis=1)
    margin = np.array([width, height]) * (0.5 + _OUTSIDE)
    return bool((np.abs(points[seen, :2] - (x, y)) <= margin).all())


def _decide(table, declared, files, source, findings):
    """(n,) 1 for polygons, 0 for boxes, -1 for rows that are of another form than the part."""
    count = table["count"].astype(np.int64)
    if isinstance(declared, tuple):
        expected = f"4 numbers, or the 4 + {declared[0]} * {declared[1]} that kpt_shape of {source} says"
        allowed, polygons = np.isin(count, (4, 4 + declared[0] * declared[1])), np.zeros(len(count), bool)
    elif declared == "confidence":
        expected, allowed, polygons = f"5 numbers, as label_format of {source} says", count == 5, count < 0
    elif declared == "polygon":
        polygons = (count >= 6) & (count % 2 == 0)
        expected, allowed = f"corners x y x y ..., as label_format of {source} says, or a box", polygons | (count == 4)
    elif declared == "box":
        expected, allowed, polygons = f"4 numbers, as label_format of {source} says", count == 4, count < 0
    else:
        return _agree(count, table, files, source, findings)
    return _left_out(allowed, polygons, expected, count, table, files, findings)


def _agree(count, table, files, source, findings):
    """The same where nothing is declared: what the rows agree on. Boxes and polygons are told apart, as no polygon has
    two points, so a part may have both."""
    boxes, polygons = count == 4, (count >= 6) & (count % 2 == 0)
    usual = boxes | polygons
    if polygons.any() and len(set(count[polygons].tolist())) == 1 and not table["oriented"][polygons].all():
        numbers, row = count[polygons][0], int(polygons.argmax())
        for size in (3, 2):
            if table[f"pose{size}"][polygons].all():
                raise ValueError(
                    f"{_where(files, table, row)}: the {numbers} numbers of each of {polygons.sum()} rows can be a "
                    f"polygon of {numbers // 2} points, or a box and {(numbers - 4) // size} keypoints of {size} "
                    f"numbers; {_DECLARE}"
                )
    if len(count) and usual.sum() * 2 <= len(count):
        row = int((~usual).argmax())
        form = "boxes and a confidence or an angle" if count[row] == 5 else "boxes and keypoints"
        raise ValueError(
            f"{_where(files, table, row)}: expected 4 numbers, or the corners of a polygon, got {count[row]}, one of "
            f"{(~usual).sum()} such rows of {len(count)}: are they {form}? {_DECLARE}"
        )
    expected = f"4 numbers, or the corners of a polygon, as in the other {usual.sum()} rows of {source}"
    return _left_out(usual, polygons, expected, count, table, files, findings)


def _left_out(allowed, polygons, expected, count, table, files, findings):
    for row in np.flatnonzero(~allowed):
        message = f"{_where(files, table, row)}: expected {expected}, got {count[row]} numbers; {_DECLARE}"
        findings.add("error", "rows of another form than the others", message, "left out")
    return np.where(allowed, polygons.astype(np.int64), -1)
