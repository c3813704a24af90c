"""The split of names into base and novel: where a command finds it, and the file that holds it."""

from pathlib import Path

from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import short


def names_split_file(data: str | Path | None, names_split: str | Path | None = None) -> Path | None:
    """The names split of a command: `names_split` if given, else DATA/names.json; None without one or for "none"."""
    if names_split == "none":
        return None
    if names_split:
        file = Path(names_split)
        if not file.is_file():
            raise FileNotFoundError(f"--names-split {file}: no such file; give the JSON file of base and novel names")
        return file
    beside = Path(data) / "names.json" if data else None
    return beside if beside is not None and beside.is_file() else None


def read_split(path: str | Path) -> tuple[list[str], list[str]]:
    """(base names, novel names) of a file {"base": {"<category id>": "name"}, "novel": {...}}.

    Raises:
        FileNotFoundError, ValueError: no such file, or another form. The message names the file.
    """
    split = read_json(path, unique=True)
    if not isinstance(split, dict) or not {"base", "novel"} <= set(split):
        expected = '{"base": {"1": "person", ...}, "novel": {"5": "airplane", ...}}'
        raise ValueError(f"{path}: expected {expected}, got {short(split)}")
    base, novel = (_names(path, group, split[group]) for group in ("base", "novel"))
    _check_apart(path, base, novel)
    return base, novel


def _names(file, group, given):
    """The names of a group, {"<category id>": "name"}."""
    if not isinstance(given, dict):
        raise ValueError(
            f'{file}: expected base and novel as {{"<category id>": "name", ...}}, got {short(given)} as {group}'
        )
    names = list(given.values())
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{file}: {group}: expected names, got {short(name)}; write it as a text")
    return names


def _check_apart(file, base, novel):
    if both := set(base) & set(novel):
        raise ValueError(f"{file}: {sorted(both)[:5]} are both base and novel; a name must be one of them")
