"""`push_to_hub` of models, pools and vocabularies: their files and their card in one commit, or nothing.

The library's method sends a card full of placeholders. This one sends decodetr's, filled by its templates, and refuses
what `decodetr push` refuses (`card_leftovers.py`) before anything is sent. Where decodetr is not installed there are
no templates: the card of the repository must be whole.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard

from .card_leftovers import check_card
from .hub_repository import CARD, stored_card, upload, weight_files

# (folder, ACCOUNT/NAME, license or None) -> the card of what lies in the folder, whose own one, if it has one, is
# renewed. The root of the installed package sets it.
make_card: Callable[[Path, str, str | None], str] | None = None
_DROPPED = {
    "safe_serialization": "weights are always safetensors; leave it out",
    "use_temp_dir": "a temporary folder is always used; leave it out",
}
_PUSHED_WITH = (
    *("repo_id", "private", "token", "revision", "commit_message", "commit_description", "create_pr", "tags"),
    *("license", "image_processor"),
)


def push_saved(
    save: Callable[[Path], object],
    repo_id: str,
    kind: str,
    *,
    license: str | None = None,
    tags: list[str] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str,
    commit_description: str | None = None,
    create_pr: bool = False,
    replaced: Callable[[set[str]], Iterable[str]] = lambda there: (),
) -> CommitInfo:
    """Save something into a folder of its own, and send that with its card.

    Args:
        save (function): writes into a folder. repo_id (`str`): NAME or ACCOUNT/NAME.
        kind (`str`): of what is saved, "model", "pool" or "vocabulary".
        license (`str`, *optional*): that the card states, in the Hub's spelling. Default: that of the repository's
            card.
        tags (*optional*): more of them for the card. The others: as of [`upload`].

    Raises:
        ValueError: the repository holds another kind, the card has leftovers, or no license. Nothing was sent then.
            OSError: from the Hub.
    """
    repo_id, old = stored_card(repo_id, kind, revision, token)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder)
        card = folder / CARD
        if old is not None:
            card.write_text(old, encoding="utf-8")
        text = tagged(_card(folder, repo_id, license, old), tags or [])
        check_card(text, f"the card of {repo_id}")
        card.write_text(text, encoding="utf-8")
        return upload(
            folder, repo_id, commit_message, private=private, token=token, revision=revision, replaced=replaced,
            description=commit_description, create_pr=create_pr,
        )  # fmt: skip


def push_model(
    self: Any,
    repo_id: str,
    *,
    license: str | None = None,
    image_processor: Any = None,
    max_shard_size: int | str = "50GB",
    tags: str | list[str] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    **unknown: Any,
) -> CommitInfo:
    """Upload the model and its card in one commit. The card is that of `decodetr card`; what a person wrote into the
    one that is there stays, and results of what was there go. Weights that were there go too.

    Args:
        repo_id (`str`): NAME or ACCOUNT/NAME, made if missing. license (`str`, *optional*): of the weights, in the
            Hub's spelling. Default: that of the card that is there.
        image_processor (*optional*): goes in the same commit. The others: as of `PushToHubMixin.push_to_hub`.

    Returns:
        The commit's information.

    Raises:
        ValueError: the repository holds another kind, or the card has leftovers, as `decodetr push` refuses them, or
            no license. Nothing was sent then.
        OSError: from the Hub, with what to do. There is no new commit then.
        TypeError: another argument, such as those that transformers 5 has dropped.
    """
    _check_arguments(unknown)

    def save(folder: Path) -> None:
        self.save_pretrained(folder, max_shard_size=max_shard_size)
        if image_processor is not None:
            image_processor.save_pretrained(folder)

    tags = [*(self.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])]
    message = commit_message or "Upload model"
    return push_saved(
        save, repo_id, "model", license=license, tags=tags, private=private, token=token, revision=revision,
        commit_message=message, commit_description=commit_description, create_pr=create_pr, replaced=weight_files,
    )  # fmt: skip


def push_arguments(save_directory: str | Path, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Take what `save_pretrained(..., push_to_hub=True)` is told of the Hub out of its keyword arguments.

    Returns:
        Arguments of [`push_model`], or None: nothing is to be sent.

    Raises:
        ValueError: each process would save a part.
    """
    if not kwargs.pop("push_to_hub", False):
        return None
    if kwargs.get("distributed_checkpoint"):
        raise ValueError("push_to_hub does not go with distributed_checkpoint: save first, push what is whole")
    given = {key: kwargs.pop(key) for key in _PUSHED_WITH if key in kwargs}
    return {"repo_id": Path(save_directory).name, **given}


def push_part(
    self: Any,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    create_pr: bool = False,
    **unknown: Any,
) -> CommitInfo:
    """Upload a part of a model, its config or its image processor, to a repository whose card is whole.

    Args: as of `PushToHubMixin.push_to_hub`.

    Raises:
        ValueError: the repository holds no model, has no card, or its card has leftovers. OSError: from the Hub, with
            what to do. TypeError: another argument.
    """
    _check_arguments(unknown)
    repo_id, card = stored_card(repo_id, "model", revision, token)
    if card is None:
        raise ValueError(
            f"{repo_id} has no card ({CARD}), which a part of a model does not bring: push the model first, with "
            "model.push_to_hub(..., image_processor=...), or all of its folder by `decodetr push`"
        )
    check_card(card, f"the card of {repo_id}")
    with tempfile.TemporaryDirectory() as name:
        self.save_pretrained(name)
        return upload(
            name, repo_id, commit_message or f"Upload {type(self).__name__}", private=private, token=token,
            revision=revision, description=commit_description, create_pr=create_pr,
        )  # fmt: skip


def _check_arguments(unknown):
    """TypeError for arguments that nothing is done with, as of transformers' own models."""
    for name in unknown:
        why = f"; transformers 5 has dropped it too: {_DROPPED[name]}" if name in _DROPPED else ""
        raise TypeError(f"push_to_hub() got an unexpected keyword argument {name!r}{why}")


def tagged(text: str, tags: list[str]) -> str:
    """A card with more tags."""
    if not tags:
        return text
    card = ModelCard(text)
    card.data["tags"] = list(dict.fromkeys([*(card.data.get("tags") or []), *tags]))
    return card.content


def _card(folder, repo_id, license, old):
    if make_card is not None:
        return make_card(folder, repo_id, license)
    if old is None:
        raise ValueError(
            f"{repo_id} has no card ({CARD}), and there are no templates to make one of where decodetr is not "
            "installed: `pip install decodetr` and `import decodetr`, or put a card with a license into the repository"
        )
    if license is None:
        return old
    card = ModelCard(old)
    card.data["license"] = license
    return card.content
