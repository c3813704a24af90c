"""What an unfinished `decodetr predict` has done: the same command goes on from it, whatever ended the first one.

A line of JSON for each image, appended once its picture is on the disk, after a first line that says what made them.
A line that was cut off is passed over. The file goes when detections.json has all images.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from decodetr.utils.documents import decoded, parse_json

FILE = ".decodetr-predict.jsonl"


class Journal:
    """
    The results of one folder.

    Args:
        output (`str` or `Path`): the folder, which exists.
        settings (`dict`): everything that decides a result but the image itself, JSON. Results of other settings are
            forgotten.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any]) -> None:
        self.output, self._file = Path(output), Path(output) / FILE
        self._first = {"settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}
        self._results = self._read()

    def _read(self):
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return {}
        rows = []
        for line in lines:
            try:
                rows.append(parse_json(decoded(line, self._file), self._file))
            except ValueError:  # cut off by a kill. What follows is of a later run
                continue
        if not rows or rows[0] != self._first:
            return {}
        results = {}
        for row in rows[1:]:
            if isinstance(row, dict) and {"result", "source"} <= set(row):
                results[row["result"]["file"]] = row
        return results

    def get(self, path: str | Path) -> dict[str, Any] | None:
        """The result of an image that is as it was then, whose picture is there, else None."""
        row = self._results.get(str(path))
        if row is None or row["source"] != _state(path) or not (self.output / row["result"]["picture"]).is_file():
            return None
        return row["result"]

    def add(self, results: list[dict[str, Any]]) -> None:
        """Keep results of images, dicts with "file" and "picture", whose pictures are written."""
        new = not self._results
        rows = [{"source": _state(result["file"]), "result": result} for result in results]
        self._results |= {row["result"]["file"]: row for row in rows}
        text = "".join(f"{json.dumps(row)}\n" for row in ([self._first] if new else []) + rows)  # ASCII
        with open(self._file, "wb" if new else "ab") as file:
            # On a new line, also after one that was cut off.
            file.write(("" if new else "\n").encode() + text.encode("ascii"))


def _state(path):
    """Size and time of the last change of a file, by which a changed one is known. None if it is gone."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]
