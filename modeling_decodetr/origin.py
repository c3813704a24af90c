"""Where a loaded model is from, so that what belongs to it is loaded from there too."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import CONFIG_NAME


@dataclass(frozen=True)
class Origin:
    """A folder, or a revision of a Hub repository. A copy on the disk has no token.

    Attributes:
        where (`str`): the folder as an absolute path, or the name of the repository.
        hub (`dict[str, Any]`): subfolder, and of a repository revision, cache_dir, token and local_files_only, where
            they were given. The revision is the commit that the cache has of the one that was given.
    """

    where: str
    hub: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, where: str | Path, kwargs: dict[str, Any]) -> Origin:
        """The origin of what `from_pretrained` has just loaded with these keyword arguments."""
        if Path(where).is_dir():  # the process may go to another folder
            return cls(os.path.abspath(where), {"subfolder": kwargs.get("subfolder") or ""})
        given = {key: kwargs[key] for key in ("subfolder", "revision", "cache_dir", "token", "local_files_only")
                 if kwargs.get(key) is not None}  # fmt: skip
        if commit := _commit(str(where), given):  # a branch may move on
            given["revision"] = commit
        return cls(str(where), given)

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where, "hub": {key: value for key, value in self.hub.items() if key != "token"}}

    def __deepcopy__(self, memo: dict) -> Origin:
        return replace(self)


def _commit(repo_id, given):
    file = f"{given['subfolder']}/{CONFIG_NAME}" if given.get("subfolder") else CONFIG_NAME
    cached = try_to_load_from_cache(repo_id, file, given.get("cache_dir"), given.get("revision"))
    if not isinstance(cached, str):
        return None
    return Path(cached).parents[len(Path(file).parts) - 1].name
