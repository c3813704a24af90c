"""What the runs of a comparison reached, in one JSON file that several processes add to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from decodetr.utils.documents import read_json
from decodetr.utils.files import LOCK, write_json


class RunRecords:
    """Settings, ceilings and runs. Written after each run, together with what other processes added.

    Args:
        file: made with the first entry. settings: what is the same for all runs. contents: {name: digest} of what
            decides the results, besides the settings that name it.

    Attributes:
        content (dict): {"settings", "contents", "ceiling": {split: figures}, "runs": {name: {seed: entry}}}.

    Raises:
        ValueError: the file has runs of other settings or contents.
    """

    def __init__(self, file: Path, settings: dict[str, Any], contents: dict[str, Any]) -> None:
        self.file = file
        self.content: dict[str, Any] = {"settings": settings, "contents": contents, "ceiling": {}, "runs": {}}
        if file.exists():
            self.content |= read_json(file, dict)
            if changed := [name for name in contents if self.content["contents"].get(name) != contents[name]]:
                raise ValueError(
                    f"{file} has runs of other contents of {', '.join(changed)}; choose another folder, or delete it"
                )
            if self.content["settings"] != settings:
                raise ValueError(
                    f"{file} has runs of other settings: {self.content['settings']}, now {settings}; choose another "
                    "folder, or delete it"
                )

    def has(self, name: str, seed: int) -> bool:
        """Whether the run of a name and a seed is there, of this process or another one."""
        with self._lock():
            self._read()
        return str(seed) in self.content["runs"].get(name, {})

    def add(self, kind: str, name: str, entry: dict[str, Any]) -> None:
        """`entry` into content[kind][name]."""
        with self._lock():
            self._read()
            self.content[kind].setdefault(name, {}).update(entry)
            write_json(self.file, self.content)

    def _lock(self):
        return FileLock(self.file.parent / f"{LOCK}-{self.file.name}")  # another process adds in a moment too

    def _read(self):
        """Take over what other processes added."""
        if not self.file.exists():
            return
        found = read_json(self.file, dict)
        for kind in ("ceiling", "runs"):
            for name, done in found[kind].items():
                self.content[kind][name] = done | self.content[kind].get(name, {})


def teacher_cells(ceiling: dict[str, float], keys: Sequence[str]) -> list[list[str]]:
    """Cells of these AP50 of a ceiling: on annotated boxes, and on those of the localization stream, which
    files of earlier versions lack."""
    return [
        [f"{ceiling[f'{key}{boxes}']:.1f}" for key in keys]
        for boxes in ("", ", own boxes")
        if f"{keys[0]}{boxes}" in ceiling
    ]
