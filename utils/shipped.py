"""The models and tables that travel with the package, by name: the folders of hub_cards/.

Wherever a folder or Hub name is asked for, "scenes-decodetr" is one too, and needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decodetr.utils.documents import read_json
from decodetr.utils.files import regular_file
from decodetr.utils.hub import local_only
from decodetr.utils.lazy import TYPE_CHECKING
from decodetr.utils.model_room import load
from decodetr.utils.spelling import closest

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import PrototypePool, Vocabulary

_rule = load("hub_rule")
HUB_CARDS: Path = _rule.HUB_CARDS
DEFAULT_MODEL = "scenes-decodetr"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[\w.-]+)?")


def resolve(name: str | Path, what: str | None = None) -> str:
    """Where to load a model or table from.

    An existing folder stays as it is. Else NAME, or a path that ends in hub_cards/NAME (as provenance written on
    another machine has it), becomes the folder of that name in the package, if there is one. Anything else stays too:
    a Hub name.

    Args:
        name (`str` or `Path`): a folder, a Hub name or a shipped name.
        what (`str`, *optional*): what it is loaded as: "pool", "vocabulary", or any kind of model.

    Raises:
        ValueError: the folder holds something else.
    """
    folder: str = _rule.packaged(name, HUB_CARDS)
    if what is not None and (other := _other_kind(folder, what)):
        raise ValueError(f"expected a {what}, {str(name)!r} is {a(other[0])}; {other[1].format(name)}")
    return folder


_TABLES = ("pool", "vocabulary")
_OF_TEXTS = ("text model", "CLIP")
# What tells the kinds of folders that commands write or take, what they are called, and what they are good for.
_KINDS = {
    "pool.json": ("pool", "give it with --pool"),
    "vocabulary.json": ("vocabulary", "give it with --vocabulary"),
    "config.json": ("model", "give it with --model; its pool and its names are inside"),
    "recipe.yaml": ("recipe", "it has no weights: `decodetr train --recipe {0} --data DIR ...` makes a model"),
    "export.json": ("exported model", "`decodetr predict --model {0}` detects with it"),
    "pool/pool.json": ("output of `decodetr pool build`", "its pool is {0}/pool, its regions are {0}/regions"),
    "detections.json": ("output of `decodetr predict`", "give the folder of a model"),
    "report.json": ("report of `decodetr eval`", "give the folder of a model"),
    "annotations": ("data set", "give it with --data"),
    "data.yaml": ("data set", "give it with --data"),
}


def _other_kind(folder, what):
    found = kind_of(folder)
    return found if found and found[0] != _kind_of_what(what) else None


def _kind_of_what(what):
    return what if what in _TABLES else "model"


def kind_of(folder: str | Path) -> tuple[str, str] | None:
    """What a folder on this machine holds: (kind, what to do with it), or None where that is unknown or no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    return next((kind for file, kind in _KINDS.items() if (folder / file).exists()), None)


def a(noun: str) -> str:
    """A noun, such as a kind of [`kind_of`], with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def is_hub_name(name: str | Path) -> bool:
    """Whether something can be ACCOUNT/NAME of the Hub: it is nothing on this machine, and not shipped."""
    return "/" in str(name) and bool(_HUB_NAME.fullmatch(str(name))) and not Path(resolve(name)).exists()


def hub_kind(name: str | Path) -> tuple[str, str] | None:
    """What [`kind_of`] says, of a Hub repository. None where it cannot be asked: no such name, no network."""
    if not is_hub_name(name):
        return None
    there = set(load("hub_repository").repository_files(str(name)))
    return next((kind for file, kind in _KINDS.items() if file in there), None)


def cannot_load(what: str, name: str | Path, error: Exception | str, ask: bool = False) -> FileNotFoundError:
    """The error for a user whose `what` ("model", "text model") `name` did not load, with the reason and a remedy.
    `ask`: the Hub may be asked what it has of that name."""
    other = _other_kind(resolve(name), what) or (hub_kind(name) if ask else None)
    if other and other[0] != _kind_of_what(what):
        error = f"it is {a(other[0])}; {other[1].format(name)}"
    shipped = sorted({file.parent.name for file in HUB_CARDS.glob("*/*.safetensors")})
    near = closest(str(name), sorted(path.name for path in HUB_CARDS.iterdir() if path.is_dir()))
    return FileNotFoundError(
        f"the {what} {name!r} cannot be loaded: {error}{near}\nGive a folder, a Hub name, or a name shipped with "
        f"decodetr ({', '.join(shipped) or 'none in this copy'})."
    )


@contextmanager
def loading(what: str, name: str | Path, asked_by: str | None = None) -> Iterator[str]:
    """Yield the folder or Hub name to load from. Inside, only names that the user gave are asked of the Hub.

    Args:
        what (`str`), name (`str` or `Path`): see [`resolve`].
        asked_by (`str`, *optional*): who names it, if not the user. See [`local_only`].

    Raises:
        FileNotFoundError: for an OSError inside. ValueError: the folder holds something else, or what would have to be
            asked of the Hub.
    """
    folder = resolve(name, what)
    try:
        with local_only(folder, asked_by):
            yield folder
    except OSError as error:
        raise cannot_load(what, name, error, ask=asked_by is None) from error
    except ValueError as error:  # the library cannot tell a repository without config.json from a strange one
        other = hub_kind(name) if asked_by is None else None
        if other is None or other[0] == _kind_of_what(what):
            raise
        raise cannot_load(what, name, error, ask=True) from error


def load_pool(name: str | Path) -> PrototypePool:
    """Load the [`PrototypePool`] of a folder, a Hub name or a shipped name.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or something else.
    """
    from decodetr.modeling_decodetr import PrototypePool

    return _load_table("pool", PrototypePool, name)


def load_vocabulary(name: str | Path) -> Vocabulary:
    """Load the [`Vocabulary`] of a folder, a Hub name or a shipped name.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or something else.
    """
    from decodetr.modeling_decodetr import Vocabulary

    return _load_table("vocabulary", Vocabulary, name)


def _load_table(what, table, name):
    from huggingface_hub.errors import HFValidationError

    try:
        return table.from_pretrained(resolve(name, what))
    except (OSError, HFValidationError) as error:
        raise cannot_load(what, name, error, ask=True) from error


def expect(what: str, name: str | Path | None, *files: str) -> None:
    """Check that a named thing can be there, without loading it: a folder holds one of the files, and its JSON files
    can be read.

    Whether a Hub name exists is left to loading it.

    Args:
        what (`str`): such as "model" or "CLIP". name (`str` or None): None is accepted.
        files (`str`): glob patterns, one of which must be found in a folder.

    Raises:
        FileNotFoundError: it is not there. ValueError: a JSON file of the folder cannot be read, or the folder holds a
            detector where a text model is expected.
    """
    if name is None:
        return
    folder = Path(resolve(name, what))
    if folder.is_dir():
        if not any(next(folder.glob(pattern), None) for pattern in files):
            raise cannot_load(what, str(name), f"the folder has no {' or '.join(files)}")
        for file in sorted(folder.glob("*.json")):  # the library reads them with fewer words, or a traceback
            read_json(file)
        kind = read_json(folder / "config.json", dict).get("model_type") if "config.json" in files else None
        if what in _OF_TEXTS and kind == "decodetr":
            raise ValueError(f"expected a {what}, {str(name)!r} is a detector; give a CLIP, such as scenes-clip")
    elif folder.exists():
        raise cannot_load(what, str(name), "it is a file, expected a folder")
    elif not _HUB_NAME.fullmatch(str(name)):
        raise cannot_load(what, str(name), "there is no such folder")


def expect_file(option: str, file: str | Path | None) -> None:
    """Check that the file of an option is there. None is accepted.

    Raises:
        FileNotFoundError: it is not. ValueError: it is no regular file.
    """
    if file is not None:
        try:
            regular_file(file)
        except (OSError, ValueError) as error:
            raise type(error)(f"{option} {error}".strip()) from error
