"""A folder to the Hub, in one commit: all of it, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import validate_repo_id

from decodetr.modeling_decodetr.hub_repository import check_kind, upload
from decodetr.publishing.contents import Contents, contents, needed
from decodetr.utils.files import reading


@dataclass(frozen=True)
class Pushed:
    """
    Attributes:
        contents ([`Contents`]): what was sent. address (str): of the repository, or of its branch. commit (str): id.
    """

    contents: Contents
    address: str
    commit: str


def push(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | bool | None = None,
    everything: bool = False,
) -> Pushed:
    """Check the folder of a model, a pool, a vocabulary or an export as loading does, and upload it with its card.

    Files of the same kind that the repository has from before, and the folder has not, go in the same commit: it would
    be loaded with a mixture.

    Args:
        folder. repo_id (str): NAME or ACCOUNT/NAME, made if missing. private (bool, *optional*): of a new repository.
        revision (str, *optional*): branch, made if missing. message (str, *optional*): of the commit.
        token (*optional*): default: that of `hf auth login` or of HF_TOKEN.
        everything (bool): see [`contents`].

    Raises:
        FileNotFoundError, ValueError: as of [`contents`], or the repository holds another kind. OSError: from the Hub,
            with what to do. There is no new commit then.
    """
    validate_repo_id(repo_id)
    with reading(folder):  # nobody writes into it meanwhile
        found = contents(folder, everything)

        def replaced(there: set[str]) -> set[str]:
            check_kind(there, found.kind, repo_id, str(folder))
            return {name for name in there if needed(name, found.kind)}

        made = upload(
            folder,
            repo_id,
            message or f"Upload {found.kind}",
            private=private,
            token=token,
            revision=revision,
            files=found.sent,
            replaced=replaced,
        )
    address = str(made.repo_url) + (f"/tree/{revision}" if revision else "")
    return Pushed(found, address, made.oid)
