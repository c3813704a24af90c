"""Run ordinary `decodetr` commands one after another, show each, and skip what an earlier run finished."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from decodetr.utils.documents import read_json
from decodetr.utils.files import clear, is_unused, write_json
from decodetr.utils.model_identity import folder_digest
from decodetr.utils.shipped import resolve

MARKER = "stages.json"


def claim(folder: Path, settings: dict, overwrite: bool = False, models: Iterable[str | Path] = ()) -> dict[str, dict]:
    """The record {"settings", "models", "seconds", "commands"} of a folder that is new, or holds a run of the same
    settings.

    Args:
        models: folders and shipped names that decide the result too: their contents are recorded.

    Raises:
        ValueError: the folder holds something else, or a run of other settings without `overwrite`.
    """
    marker, contents = folder / MARKER, {str(name): folder_digest(resolve(name)) for name in models}
    if not is_unused(folder):
        if not marker.exists():
            raise ValueError(f"{folder} is not empty and holds no run of this command; choose another folder.")
        record = read_json(marker, dict)
        if not overwrite and not {"settings", "seconds"} <= record.keys():
            raise ValueError(f"{marker} is not what this command writes; choose another folder, or --overwrite.")
        if not overwrite and record["settings"] == settings and record.get("models", contents) == contents:
            return {"commands": {}, **record}
        if not overwrite:
            changed = [name for name, now in contents.items() if record.get("models", contents).get(name) != now]
            other = f"; other contents: {', '.join(changed)}" if changed else ""
            raise ValueError(
                f"{folder} holds a run with other settings: {record['settings']}, now {settings}{other}; give the "
                "same ones to finish it, another folder, or --overwrite to delete it."
            )
        clear(folder)
    record = {"settings": settings, "models": contents, "seconds": {}, "commands": {}}
    write_json(marker, record)
    return record


def run_stages(
    folder: Path,
    stages: Iterable[tuple[Path, Sequence[object]]],
    count: int,
    record: dict[str, dict],
    run_command: Callable[[list[str]], int],
) -> tuple[int, list[str]]:
    """Run what is not done yet.

    Args:
        stages: (file that tells that a stage is finished, words of its command) in order. May be a generator, for
            later stages may look at files.
        count: how many there are.
        record: of `claim`. Seconds are added and written after each stage.
        run_command: runs a command, given its words, and returns its exit status: `decodetr.cli.main`.

    Returns:
        (exit status of the first command that failed or 0, all command lines so far).

    Raises:
        ValueError: what is there was made by another command, as of another version.
    """
    commands = []
    for number, (result, command) in enumerate(stages, start=1):
        words = [str(word) for word in command]
        commands.append(f"decodetr {shlex.join(words)}")
        said = f"decodetr {shlex.join(_placeless(words, folder))}"
        if result.exists() and record["commands"].get(str(number), said) != said:
            raise ValueError(
                f"{result} was made by another command:\n  {record['commands'][str(number)]}\nnow\n  {said}\n"
                "remove it and what was made after it, or start from the beginning (--overwrite, or another folder)"
            )
        done = "done before: " if result.exists() else ""
        sys.stdout.write(f"\n[{number}/{count}] {done}decodetr {_shown(words)}\n")
        sys.stdout.flush()
        if done:
            continue
        started = time.perf_counter()
        if status := run_command(words):
            return status, commands
        record["commands"][str(number)] = said
        record["seconds"][f"{number} {_title(words)}"] = round(time.perf_counter() - started, 1)
        write_json(folder / MARKER, record)
    return 0, commands


def _placeless(words, folder):
    """Words without the place of the folder, which may be moved."""
    places = (str(folder), f"{folder}{os.sep}")
    return ["OUTPUT" + word.removeprefix(places[0]) if word == places[0] or word.startswith(places[1]) else word
            for word in words]  # fmt: skip


def flat(options: Mapping[str, object]) -> list[object]:
    """{option: value} as words."""
    return [word for pair in options.items() for word in pair]


def _title(words):
    """The command and its subcommand, if it has one: "pool build". For predict, also what it looks for."""
    if words[0] == "predict":
        return "predict, novel names" if "--names-file" in words else "predict, all names"
    return " ".join(words[:1] if words[1].startswith("-") else words[:2])


def _shown(words):
    """The command line, with a long list of pictures cut short."""
    if len(pictures := [word for word in words if word.endswith(".jpg")]) > 1:
        words = [word for word in words if word not in pictures[1:]]
        words.insert(words.index(pictures[0]) + 1, "...")
    return shlex.join(words)
