"""What an unfinished `decodetr predict` has done: the same command goes on from it, whatever ended the first one.

A line of JSON for each image, appended once its picture is on the disk, after a first line that says what made them.
A line that was cut off is passed over. The file goes when all results are written. In memory is only where each line
begins, so that a hundred thousand images are no burden.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from decodetr.utils.documents import decoded, parse_json
from decodetr.utils.files import file_state
from decodetr.utils.model_identity import json_digest

FILE = ".decodetr-predict.jsonl"


class _Line(NamedTuple):
    start: int  # bytes
    source: list | None
    picture: str | None
    found: int
    best: float


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
        self._first = {"settings": json_digest(settings)}
        self._lines: dict[str, _Line] = {}
        self._frames: dict[str, list[str]] = {}  # keys of each video
        self._index()

    def _index(self):
        try:
            file = open(self._file, "rb")
        except OSError:
            return
        with file:
            start = 0
            for number, line in enumerate(file):
                row = self._row(line)
                if number == 0 and row != self._first:
                    return
                if isinstance(row, dict) and {"result", "source"} <= set(row):
                    self._note(start, row)
                start += len(line)

    def _note(self, start, row):
        key = key_of(row["result"])
        if "frame" in row["result"] and key not in self._lines:
            self._frames.setdefault(row["result"]["file"], []).append(key)
        self._lines[key] = _line(start, row)

    def _row(self, line):
        try:
            return parse_json(decoded(line.rstrip(b"\n"), self._file), self._file)
        except ValueError:  # cut off by a kill. What follows is of a later run
            return None

    def has(self, key: str | Path) -> bool:
        """Whether there is a result of an image that is as it was then, whose picture is there if it has one."""
        line = self._lines.get(str(key))
        if line is None or line.source != _state(key):
            return False
        return line.picture is None or (self.output / line.picture).is_file()

    def found(self, key: str | Path) -> tuple[int, float]:
        """(number of detections, best score) of a result that is there."""
        line = self._lines[str(key)]
        return line.found, line.best

    def picture(self, key: str | Path) -> str | None:
        """The name of the picture of a result that is there."""
        return self._lines[str(key)].picture

    def read(self, keys: list[str]) -> Iterator[dict[str, Any]]:
        """Yield the results that are there, in the order of their keys."""
        if not keys:
            return
        with open(self._file, "rb") as file:
            for key in keys:
                file.seek(self._lines[key].start)
                yield self._row(file.readline())["result"]

    def add(self, results: list[dict[str, Any]]) -> None:
        """Keep results, dicts with "file", whose pictures are written."""
        rows = [{"source": _state(result["file"]), "result": result} for result in results]
        new = not self._lines
        with open(self._file, "wb" if new else "ab") as file:
            # On a new line, also after one that was cut off.
            file.write(f"{json.dumps(self._first)}\n".encode("ascii") if new else b"\n")
            for row in rows:
                start = file.tell()
                file.write(f"{json.dumps(row)}\n".encode("ascii"))
                self._note(start, row)

    def end(self, video: str) -> None:
        """Keep that all frames of a video are there."""
        self.add([{"file": video, "end": True}])

    def has_video(self, video: str) -> bool:
        """Whether there are all frames of a video that is as it was then."""
        line = self._lines.get(key_of({"file": video, "end": True}))
        return line is not None and line.source == _state(video)

    def frames(self, video: str) -> list[str]:
        """Keys of the frames of a video that are there, in their order."""
        return self._frames.get(video, [])


def key_of(result: dict[str, Any]) -> str:
    """What a result is found by: its file, and of a video the number of its frame."""
    if "end" in result:
        return f"{result['file']}#end"
    return result["file"] if "frame" not in result else f"{result['file']}#{result['frame']}"


def _line(start, row):
    result = row["result"]
    found = len(result.get("detections", ()))
    return _Line(start, row["source"], result.get("picture"), found, result.get("best_score", 0.0))


def _state(path):
    """Size and time of the last change of a file, by which a changed one is known. None if it is gone."""
    try:
        return list(file_state(path)[1:])
    except OSError:
        return None
