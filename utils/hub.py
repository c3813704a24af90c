"""Who may ask the Hub: a name that the user typed, never one that stands in a file. The rule itself travels with the
model, which embeds names too: `modeling_decodetr/hub_rule.py`."""

from collections.abc import Sequence
from pathlib import Path

from decodetr.utils.model_room import load

__all__ = ["downloaded", "local_only", "recorded_place", "without_user"]

_rule = load("hub_rule")
local_only, recorded_place = _rule.local_only, _rule.recorded_place
without_user = load("hub_repository").without_user


def downloaded(repo_id: str, files: Sequence[str]) -> Path | None:
    """The folder in the Hub's cache with files of a repository, which are fetched where they are not there.

    Args:
        repo_id (`str`): a name that the user gave.
        files (list of `str`): those that are wanted and may be there. Without the first, the repository is something
            else.

    Returns:
        None where there is no such repository, or not that file, or where the Hub cannot be asked.

    Raises:
        ConnectionError: the connection was lost. ImportError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
    except ImportError as error:  # an exported model runs without it
        raise ImportError(
            f"{repo_id}: no such folder, and a name of the Hub needs huggingface_hub: pip install huggingface_hub"
        ) from error

    with load("hub_repository").hub_errors(repo_id):
        try:
            hf_hub_download(repo_id, files[0])
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
            return None
        return Path(snapshot_download(repo_id, allow_patterns=list(files)))
