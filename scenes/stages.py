"""Runs ordinary `decodetr` commands one after another, shows each, and skips what an earlier run finished."""

import shlex
import sys
import time

from decodetr.utils.documents import read_json
from decodetr.utils.files import clear, is_unused, write_json

MARKER = "stages.json"


def claim(folder, settings, overwrite=False):
    """The record {"settings", "seconds"} of a folder that is new, or holds a run of the same settings.

    Raises:
        ValueError: the folder holds something else, or a run of other settings without `overwrite`.
    """
    marker = folder / MARKER
    if not is_unused(folder):
        if not marker.exists():
            raise ValueError(f"{folder} is not empty and holds no run of this command; choose another folder.")
        record = read_json(marker, dict)
        if not overwrite and record["settings"] == settings:
            return record
        if not overwrite:
            raise ValueError(
                f"{folder} holds a run with other settings: {record['settings']}, now {settings}; give the same ones "
                "to finish it, another folder, or --overwrite to delete it."
            )
        clear(folder)
    record = {"settings": settings, "seconds": {}}
    write_json(marker, record)
    return record


def run_stages(folder, stages, count, record):
    """Run what is not done yet.

    Args:
        stages: (file that tells that a stage is finished, words of its command) in order; may be a generator, for
            later stages may look at files.
        count: how many there are.
        record: of `claim`; seconds are added and written after each stage.

    Returns:
        (exit status of the first command that failed or 0, all command lines so far).
    """
    from decodetr.__main__ import main

    commands = []
    for number, (result, words) in enumerate(stages, start=1):
        words = [str(word) for word in words]
        commands.append(f"decodetr {shlex.join(words)}")
        done = "done before: " if result.exists() else ""
        sys.stdout.write(f"\n[{number}/{count}] {done}decodetr {_shown(words)}\n")
        sys.stdout.flush()
        if done:
            continue
        started = time.perf_counter()
        if status := main(words):
            return status, commands
        record["seconds"][f"{number} {_title(words)}"] = round(time.perf_counter() - started, 1)
        write_json(folder / MARKER, record)
    return 0, commands


def flat(options):
    """{option: value} as words."""
    return [word for pair in options.items() for word in pair]


def _title(words):
    """The command and its subcommand, if it has one: "pool build"; of predict what it looks for."""
    if words[0] == "predict":
        return "predict, novel names" if "--names-file" in words else "predict, all names"
    return " ".join(words[:1] if words[1].startswith("-") else words[:2])


def _shown(words):
    """The command line, with a long list of pictures cut short."""
    if len(pictures := [word for word in words if word.endswith(".jpg")]) > 1:
        words = [word for word in words if word not in pictures[1:]]
        words.insert(words.index(pictures[0]) + 1, "...")
    return shlex.join(words)
