"""A repository of the Hub: how a folder becomes one commit of it, what it holds, and what to do where that fails.

What a model, a table or an export records of where things lay on its maker's machine is cut to the last part in what
is sent, as in cards. The files of the folder stay as they are.

It imports nothing of ours: `utils` loads it by its path, without the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

CARD = "README.md"
# What a repository holds, and the file that tells. Its JSON has a record of what it was made of.
MARKS = {"model": "config.json", "pool": "pool.json", "vocabulary": "vocabulary.json", "exported model": "export.json"}
_TABLES = ("pool.json", "vocabulary.json")  # whose fields are that record, but for texts; others have *_info
_TEXTS = ("names", "captions", "prompt", "prompts", "templates")
_ABSOLUTE = re.compile(r"(?:~?/|[A-Za-z]:[\\/]|\\\\|file://).+", re.DOTALL)
_SIGNED = re.compile(r"(?<=://)[^/\s@]*@")  # user:password@ of an address
_SHOWN = 8  # files of a repository
_UNKNOWN_TOKEN = "Invalid credentials in Authorization header"  # X-Error-Message of the Hub


def upload(
    folder: str | Path,
    repo_id: str,
    message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    files: Sequence[str] | None = None,
    replaced: Callable[[set[str]], Iterable[str]] = lambda there: (),
    description: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Make the files of a folder a commit of a repository, which is created if missing.

    Args:
        folder (`str` or `Path`). repo_id (`str`): NAME or ACCOUNT/NAME. message (`str`): of the commit.
        private (`bool`, *optional*): of a new repository.
        token (`str` or `bool`, *optional*): default: that of `hf auth login` or of HF_TOKEN.
        revision (`str`, *optional*): branch, made if missing.
        files (list of `str`, *optional*): of the folder, these alone.
        replaced (function): names of the files that are there -> those that go in the same commit, unless they come
            again. What it raises is raised before anything is sent.
        description (`str`, *optional*): of the commit. create_pr (`bool`): propose the commit instead of making it.

    Raises:
        OSError: as of [`hub_errors`]. There is no new commit then.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    folder = Path(folder)
    if files is None:
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    api = HfApi(token=token)
    with hub_errors(repo_id, writes=True):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        try:
            there = set(api.list_repo_files(repo_id, revision=revision))
        except RevisionNotFoundError:  # a branch that is made now, of the files of the first one
            there = set(api.list_repo_files(repo_id))
        gone = sorted(set(replaced(there)) - set(files))
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationDelete(name) for name in gone]
        operations += [CommitOperationAdd(name, _sent(folder, name)) for name in files]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
        )


def check_kind(names: Collection[str], kind: str, repo_id: str, what: str = "this") -> None:
    """Refuse to put one kind of things among another one.

    Args:
        names: of the files of a repository. kind (`str`): key of `MARKS`, of what is to be sent there.
        repo_id, what (`str`): what the message calls the two.

    Raises:
        ValueError: the repository holds another kind.
    """
    if other := next((other for other, mark in MARKS.items() if other != kind and mark in names), None):
        raise ValueError(f"{repo_id} holds {_a(other)}, and {what} is {_a(kind)}; name another repository")


def _a(kind):
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def shown_place(value: Any) -> Any:
    """A value of a record with folders of one machine by their last part and addresses without a user's name and
    password, also inside of lists and dicts."""
    if isinstance(value, dict):
        return {key: item if _of_texts(key, item) else shown_place(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown_place(item) for item in value]
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name
    return without_user(value) if isinstance(value, str) else value


def without_user(text: str) -> str:
    """A text whose addresses have no user's name and password."""
    return _SIGNED.sub("", text)


def _of_texts(key, value):
    """Whether a field has names, captions or what they are made of, such as "/m/01", and no places."""
    return key == "prompt" or (not isinstance(value, str) and str(key).endswith(_TEXTS))


def _sent(folder, name):
    """What is sent of a file: its path, or its bytes with other places."""
    file = folder / name
    if name not in MARKS.values():
        return file
    content = json.loads(file.read_text(encoding="utf-8"))
    record = {key: value for key, value in content.items()
              if name in _TABLES or key == "source" or key.endswith("_info")}  # fmt: skip
    shown = shown_place(record)
    if shown == record:
        return file
    text = json.dumps({**content, **shown}, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", errors="backslashreplace")


def stored_card(
    repo_id: str, kind: str, revision: str | None = None, token: str | bool | None = None
) -> tuple[str, str | None]:
    """The whole name of a repository of the user, and its card.

    Args:
        repo_id (`str`): NAME or ACCOUNT/NAME. kind (`str`): key of `MARKS`, of what it is to hold.
        revision (`str`, *optional*): branch; one that is not there has the card of the first one.
        token (`str` or `bool`, *optional*).

    Returns:
        (ACCOUNT/NAME, text or None: the repository or its card is not there).

    Raises:
        ValueError: it holds another kind. OSError: as of [`hub_errors`].
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(token=token)
    with hub_errors(repo_id, writes=True):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        try:
            there = api.list_repo_files(repo_id, revision=revision)
        except RevisionNotFoundError:
            revision, there = None, api.list_repo_files(repo_id)
        except RepositoryNotFoundError as error:
            if error.response.headers.get("X-Error-Message") == _UNKNOWN_TOKEN:
                raise
            return repo_id, None
        check_kind(there, kind, repo_id)
        if CARD not in there:
            return repo_id, None
        return repo_id, Path(api.hf_hub_download(repo_id, CARD, revision=revision)).read_text(encoding="utf-8")


@contextmanager
def hub_errors(repo_id: str, writes: bool = False) -> Iterator[None]:
    """Inside, errors of the Hub say what to do, and a lost connection is an OSError.

    Args:
        repo_id (`str`): what is read or written, for the message.
        writes (`bool`): it is written.

    Raises:
        HfHubHTTPError: (an OSError) as the Hub's client raised it, with a line more. ConnectionError: the Hub was not
            reached, or the connection was lost.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        yield
    except Exception as error:  # the client wraps what happens to large files into a RuntimeError
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HTTPError):
            cause = cause.__cause__
        if cause is None:
            raise
        if not isinstance(cause, HfHubHTTPError):
            half = "no half of it is visible there" if writes else "no half of it is used"
            raise ConnectionError(
                f"{repo_id}: the connection to the Hub failed ({type(cause).__name__}: {cause}); {half}. Try again: "
                "what has arrived whole is not sent again."
            ) from error
        advice = _advice(cause, repo_id, writes)
        if cause is not error:
            raise OSError(f"{error} {cause}\n{advice}") from error
        cause.append_to_message(f"\n{advice}" if advice else "")
        raise


def _advice(error, repo_id, writes):
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    token = (
        f"make a token with the right to {'write' if writes else 'read'} at {constants.ENDPOINT}/settings/tokens, and "
        "give it by `hf auth login` or in the environment variable HF_TOKEN."
    )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision: give a branch, a tag or a commit that it has."
    if error.response.headers.get("X-Error-Message") == _UNKNOWN_TOKEN:
        return f"The Hub does not know this token: {token}"
    said = isinstance(error, RepositoryNotFoundError) and not writes  # by the client
    if said or error.response.status_code not in (401, 403, 404):
        return ""
    yours = "name a repository of yours, ACCOUNT/NAME; or " if writes else ""
    return f"{repo_id} cannot be {'written' if writes else 'read'} with this token, or without one: {yours}{token}"


def repository_files(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> list[str]:
    """Names of the files of a Hub repository, sorted. Empty where it cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    with suppress(HfHubHTTPError, HTTPError, HFValidationError, OfflineModeIsEnabled):
        return sorted(HfApi(token=token).list_repo_files(repo_id, revision=revision))
    return []


def it_has(repo_id: str, revision: str | None = None, token: str | bool | None = None) -> str:
    """The end of a sentence about a repository that holds something else: "; it has a, b, c". Empty where it cannot be
    asked."""
    names = [name for name in repository_files(repo_id, revision, token) if not name.startswith(".")]
    more = ", ..." if len(names) > _SHOWN else ""
    return f"; it has {', '.join(names[:_SHOWN])}{more}" if names else ""


def weight_files(names: Iterable[str]) -> list[str]:
    """Those of some file names that weights have, whole or in shards."""
    weights = re.compile(r"model(\.[^.]+)?(-\d{5}-of-\d{5})?\.safetensors(\.index(\.[^.]+)?\.json)?")
    return [name for name in names if weights.fullmatch(name)]
