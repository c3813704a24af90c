"""What a run of `decodetr train` finds in its output folder, and what follows (docs/command_line.md, "Outputs")."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

ARGUMENTS = "training_args.bin"  # of the Trainer, with each model that it saves; its name alone is read
RESULTS, CARD = "train_results.json", "README.md"  # written when training, and when all of a run, is done
_RESUME = "resume_from_checkpoint"


def output_fields(output_dir: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of DeCoDetrTrainingArguments that follow from what is in an output folder.

    A model that no run wrote is refused, and a finished run. An unfinished one goes on, unless its checkpoints are of
    another run (`training.results.checkpoints`). What is said by --overwrite or --resume-from-checkpoint is obeyed.

    Args:
        output_dir: need not exist. given: the fields that are given.

    Returns:
        dict: {field: value}.

    Raises:
        ValueError: with what mends it.
    """
    folder = Path(output_dir)
    if (folder / "config.json").is_file() and not (folder / ARGUMENTS).is_file():
        raise ValueError(
            f"--output {output_dir} has a model that no run of `decodetr train` wrote there; give another --output"
        )
    if given.get("overwrite_output_dir") or given.get(_RESUME) is not None:
        return {}
    results, card = (folder / name for name in (RESULTS, CARD))
    if results.is_file() and card.is_file():
        raise ValueError(
            f"--output {output_dir} has a finished run; give another --output, --overwrite to replace it, or "
            "--resume-from-checkpoint last to make it longer"
        )
    if any(path.is_dir() for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        return {_RESUME: "auto"}
    return {}


def begin(output_dir: str | Path) -> None:
    """Remove what says that the folder has a finished run: another one begins or goes on there."""
    for name in (RESULTS, CARD):
        Path(output_dir, name).unlink(missing_ok=True)
