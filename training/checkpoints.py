"""Which checkpoints of a run are whole, and which one a run goes on from.

A process can be killed at any moment, also while it writes a checkpoint or deletes an old one. The Trainer writes a
checkpoint's weights, optimizer and random states, then, with `mark`, the list of these files and their sizes, and
trainer_state.json last. A checkpoint is complete if the listed files have these sizes and trainer_state.json can be
read.
"""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from decodetr.utils.files import write_json

MARK = "complete.json"
STATE = "trainer_state.json"  # transformers' TRAINER_STATE_NAME
logger = logging.getLogger(__name__)


def clear(folder):
    """Remove what an earlier run left in the folder of a checkpoint, its mark first: what is written anew must not
    pass for whole because the old one was."""
    folder = Path(folder)
    (folder / MARK).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def mark(folder):
    """List the files of a checkpoint, all of them but trainer_state.json, in its `complete.json`."""
    folder = Path(folder)
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files if file.name != STATE}
    write_json(folder / MARK, sizes)


def problem(folder) -> str | None:
    """Why one cannot go on from a checkpoint; None if it is complete."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        sizes = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {MARK}: it was not written to its end, or holds a model alone (save_only_model)"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return f"{STATE} is missing or was not written to its end"
    return None


def newest_complete(output_dir):
    """Folder (`Path`) of the newest complete checkpoint, or None; newer ones that are broken are named in a
    warning."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and folder.is_dir():
            found.append((int(step), folder))
    for _, folder in sorted(found, reverse=True):
        why = problem(folder)
        if why is None:
            return folder
        logger.warning("%s is left out: %s.", folder, why)
    return None


def to_resume(word, output_dir):
    """The checkpoint that a run goes on from, or None to start at the beginning.

    Args:
        word: a folder; "last" (or True), the newest complete checkpoint of `output_dir`; "auto", the same, or the
            beginning if there is none; None or False, the beginning.

    Raises:
        FileNotFoundError: "last", and there is none. ValueError: the folder is no complete checkpoint.
    """
    if word in (None, False, "", "false", "False"):
        return None
    if word in (True, "last", "true", "True", "auto"):
        folder = newest_complete(output_dir)
        if folder is None and word != "auto":
            raise FileNotFoundError(
                f"--resume_from_checkpoint last: {output_dir} has no complete checkpoint-* folder; to start at the "
                "beginning in that case, give auto."
            )
        return None if folder is None else str(folder)
    why = problem(word)
    if why is not None:
        raise ValueError(
            f"--resume_from_checkpoint {word}: {why}; give another checkpoint-* folder, or last for the newest "
            "complete one."
        )
    return str(word)
