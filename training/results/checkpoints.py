"""Which checkpoints are whole, which run they are of, and which one a run goes on from.

A process can be killed at any moment, also while it writes a checkpoint or deletes an old one. The Trainer writes a
checkpoint's weights, optimizer and random states, then, with `mark`, the list of these files and their sizes, and
trainer_state.json last. A checkpoint is complete if the listed files have these sizes and trainer_state.json can be
read. One of the files, run.json, says which run it is of: a folder holds the checkpoints of one run alone.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from decodetr.training.results.identity import LENGTH, differences
from decodetr.utils.documents import read_json
from decodetr.utils.files import write_json

MARK = "complete.json"
RUN = "run.json"  # what the run is that wrote it
STATE = "trainer_state.json"  # transformers' TRAINER_STATE_NAME
_REMEDY = (
    "Go on with the settings, data and start of that run; or begin another one, in another --output (--model "
    "CHECKPOINT starts from its weights), or here with --overwrite, which removes them."
)
logger = logging.getLogger(__name__)


_told: set[str] = set()  # to the run that is about to train


def _warn(text):
    """Warn once a run, which looks several times, before what takes long and when it trains."""
    if text not in _told:
        _told.add(text)
        logger.warning(text)


def begun() -> None:
    """A run has begun: the next one in this process is told everything again."""
    _told.clear()


def clear(folder: str | Path) -> None:
    """Remove what an earlier run left in the folder of a checkpoint, its mark first: what is written again must not
    pass for whole because the old one was."""
    folder = Path(folder)
    (folder / MARK).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def mark(folder: str | Path) -> None:
    """List the files of a checkpoint, all of them but trainer_state.json, in its `complete.json`."""
    folder = Path(folder)
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files if file.name != STATE}
    write_json(folder / MARK, sizes)


def begin(folder: str | Path, run: dict[str, Any]) -> None:
    """Empty the folder of a checkpoint, and write what its run is (`identity.py`) into it, before all else."""
    clear(folder)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / RUN, run)


def problem(folder: str | Path) -> str | None:
    """Why one cannot go on from a checkpoint. None if it is complete."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        sizes = read_json(folder / MARK, dict)
    except FileNotFoundError:
        return f"it has no {MARK}: it was not written to its end, or holds a model alone (save_only_model)"
    except (OSError, ValueError) as error:
        return f"{MARK} is damaged: {error}"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    try:
        step = read_json(folder / STATE, dict).get("global_step")
    except (OSError, ValueError):
        return f"{STATE} is missing, damaged or was not written to its end"
    return None if isinstance(step, int) else f"{STATE} does not say its step (global_step)"


def step_of(folder: str | Path) -> int:
    """The optimizer steps of a complete checkpoint."""
    return read_json(Path(folder) / STATE, dict)["global_step"]


def strangeness(folder: str | Path, run: dict[str, Any]) -> str | None:
    """Why a checkpoint is not of the run `run`. None if it is; their lengths may differ."""
    return _differs(folder, {key: value for key, value in run.items() if key != LENGTH})


def _differs(folder, run):
    try:
        stored = read_json(Path(folder) / RUN, dict)
    except FileNotFoundError:
        return f"  it has no {RUN}, so nothing says which run it is of"
    except (OSError, ValueError) as error:
        return f"  {RUN} is damaged ({error}), so nothing says which run it is of"
    return "\n".join(differences(stored, run)) or None


def _checkpoints(output_dir):
    """Folders of the checkpoints in a folder, newest first."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and folder.is_dir():
            found.append((int(step), folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _newest(output_dir, run):
    """(folder of the newest complete checkpoint or None, what tells one from `run` where all are another run's, or
    None). Newer ones that are broken, or another run's, are named in a warning."""
    strange, skipped = None, []
    for folder in _checkpoints(output_dir):
        if (why := problem(folder)) is not None:
            _warn(f"{folder} is left out: {why}.")
        elif run is None or (why := strangeness(folder, run)) is None:
            for other in skipped:
                _warn(f"{other} is left out: it is of another run.")
            return folder, None
        else:
            strange = strange or f"{folder}:\n{why}"
            skipped.append(folder)
    return None, strange


def to_resume(
    word: str | Path | bool | None, output_dir: str | Path, run: dict[str, Any] | None = None, overwrite: bool = False
) -> str | None:
    """The checkpoint that a run goes on from, or None to start at the beginning.

    Args:
        word: a folder. "last" (or True), the newest complete checkpoint of `output_dir`. "auto", the same, or the
            beginning if there is none. None or False, the beginning.
        run (dict, *optional*): of `training.results.identity.run_identity`. A checkpoint of another run is refused.
        overwrite (bool): the checkpoints of other runs in `output_dir` will be removed.

    Raises:
        FileNotFoundError: "last", and there is none. ValueError: the folder is no complete checkpoint, or of another
        run, or a run would begin in a folder with checkpoints of another run.
    """
    if word is None or word in (False, "", "false", "False"):
        if run is not None and not overwrite:
            _check_beginning(output_dir, run)
        return None
    if isinstance(word, bool) or word in ("last", "true", "True", "auto"):
        folder, strange = _newest(output_dir, run)
        if folder is not None:
            return str(folder)
        if strange is not None and not (overwrite and word == "auto"):
            asked = "" if word == "auto" else f"--resume-from-checkpoint {word}: "
            raise ValueError(f"{asked}the checkpoints of {output_dir} are of another run. {strange}\n{_REMEDY}")
        if word == "auto" and run is not None and not overwrite:
            _check_beginning(output_dir, {key: value for key, value in run.items() if key != LENGTH})
        if word != "auto":
            raise FileNotFoundError(
                f"--resume-from-checkpoint last: {output_dir} has no complete checkpoint-* folder; to start at the "
                "beginning in that case, give auto."
            )
        return None
    why = problem(word)
    if why is not None:
        raise ValueError(
            f"--resume-from-checkpoint {word}: {why}; give another checkpoint-* folder, or last for the newest "
            "complete one."
        )
    if run is not None and (why := strangeness(word, run)) is not None:
        raise ValueError(f"--resume-from-checkpoint {word}: it is of another run:\n{why}\n{_REMEDY}")
    return str(word)


def _check_beginning(output_dir, run):
    """ValueError if a run that begins would leave its checkpoints among those of another one, or of a longer or
    shorter one. A warning if they are its own."""
    folders = [folder for folder in _checkpoints(output_dir) if any(folder.iterdir())]
    for folder in folders:
        if (why := _differs(folder, run)) is not None:
            raise ValueError(
                f"{output_dir} has checkpoints of another run, and a new one would mix with them. {folder}:\n{why}\n"
                "Give another --output, or --overwrite to remove them; to go on from them, give "
                "--resume-from-checkpoint last and the settings that they were made with."
            )
    if LENGTH in run and folders:
        _warn(
            f"{output_dir} has checkpoints of this very run, the newest {folders[0].name}, which starts from the "
            "beginning now; --resume-from-checkpoint auto goes on from them."
        )


def remove_strange(output_dir: str | Path, run: dict[str, Any] | None) -> None:
    """Remove the checkpoints of other runs from a folder; those of all runs, if `run` is None."""
    for folder in _checkpoints(output_dir):
        if run is None or strangeness(folder, run) is not None:
            logger.warning("%s is removed (--overwrite)", folder)
            clear(folder)
