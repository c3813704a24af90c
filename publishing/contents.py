"""What of a folder goes to the Hub: what loading reads, its card, and what the card shows. The rest stays.

A trained model lies among checkpoints, states of optimizers and logs of its run. Nobody needs them to load it, and
some are pickles, which run code where they are read.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from decodetr.inference.loading import check_type, load_model
from decodetr.runtime import ExportedDetector
from decodetr.runtime.description import (
    MODEL_FILES,
    WRITTEN,
    Description,
    check_facts,
    check_files,
    read_description,
)
from decodetr.runtime.sessions import FACTS
from decodetr.utils.card_leftovers import check_card
from decodetr.utils.documents import parse_json, read_json, read_text
from decodetr.utils.files import reading
from decodetr.utils.paths import files_below
from decodetr.utils.shipped import a, kind_of, load_pool, load_vocabulary

CARD = "README.md"
_BESIDE = re.compile(r"LICEN[CS]E[\w.-]*|NOTICE[\w.-]*|CITATION\.cff")
_WEIGHTS = r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
# By `kind_of`: which files loading reads. Code of a model besides.
_KINDS = {
    "model": re.compile(rf"config\.json|preprocessor_config\.json|{_WEIGHTS}"),
    "pool": re.compile(r"pool\.(json|safetensors)"),
    "vocabulary": re.compile(r"vocabulary\.(json|safetensors)"),
    "exported model": re.compile("|".join(map(re.escape, WRITTEN))),
}
# Never, not even with everything else: what runs code where it is read, and what a run keeps for itself.
_PICKLES = (".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill", ".msgpack")
_OF_A_RUN = re.compile(r"(checkpoint-.*|optimizer|scheduler|scaler|rng_state)([._-].*)?|__pycache__|\..*")
# What a card links, in Markdown (with pairs of brackets inside, as CommonMark has them) and in HTML.
_LINKS = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\]\(\s*<([^<>\n]+)>",
        r"\]\(\s*((?!<)(?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))+)",
        r"^ {0,3}\[[^\]\n]+\]:\s*<([^<>\n]+)>",
        r"^ {0,3}\[[^\]\n]+\]:\s*([^\s<]\S*)",
        r"\b(?:src|href|poster)\s*=\s*[\"']([^\"']+)",
        r"\b(?:src|href|poster)\s*=\s*([^\s\"'>]+)",
    )
]
_SETS = re.compile(r"\bsrcset\s*=\s*[\"']([^\"']+)")  # "a.png, b.png 2x"
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


@dataclass(frozen=True)
class Contents:
    """
    Attributes:
        folder (Path). kind (str): "model", "pool", "vocabulary" or "exported model".
        sent (list[str]): files that go, as relative paths with /, sorted. bytes (int): of them.
        left (list[str]): files and folders that stay.
    """

    folder: Path
    kind: str
    sent: list[str]
    bytes: int
    left: list[str]


def contents(folder: str | Path, everything: bool = False) -> Contents:
    """Check a folder as loading does, and say which of its files go to the Hub.

    Args:
        folder: of a model, a pool, a vocabulary or an export.
        everything (bool): also files that are not needed to load it, but no pickles, checkpoints and hidden files.

    Raises:
        FileNotFoundError: it is none of these, or has no card. ValueError: it is damaged or not finished, its card
            has leftovers, or a link would send a file from elsewhere.
    """
    folder = Path(folder)
    found = kind_of(folder)
    if found is None or found[0] not in _KINDS:
        reason = "there is no such folder"
        if folder.is_dir():
            reason = f"it is {a(found[0])}; {found[1].format(folder)}" if found else _what_is_there(folder)
        raise FileNotFoundError(
            f"{folder}: expected the folder of a model, a pool, a vocabulary or an exported model: {reason}"
        )
    kind = found[0]
    with reading(folder):
        if kind == "model":  # before a card is asked for, which no other model gets
            check_type(read_json(folder / "config.json", dict).get("model_type"), folder)
        _check_card(folder)
        _check(folder, kind)
        files = [Path(file).relative_to(folder).as_posix() for file in files_below(folder)]
        shown = _shown_by_card(folder)
        sent = [name for name in files if _goes(name, kind, shown, everything)]
        _check_links(folder, sent)
        size = sum((folder / name).stat().st_size for name in sent)
    left = sorted({_top(name, sent) for name in set(files) - set(sent)} - {""})
    return Contents(folder, kind, sorted(sent), size, left)


def needed(name: str, kind: str) -> bool:
    """Whether loading this kind reads a file of that name. Of a repository, these are replaced by a push."""
    return bool(_KINDS[kind].fullmatch(name)) or (kind == "model" and name in _code())


@cache
def _code():
    """Names of the code that travels with a model."""
    package = Path(__file__).resolve().parent.parent
    rooms = (package / "modeling_decodetr", package / "processing")
    return {file.name for room in rooms for file in room.glob("*.py")} - {"__init__.py"}


def _check_links(folder, sent):
    """ValueError where a link would send a file from elsewhere."""
    root = folder.resolve()
    for name in sent:
        if not (real := (folder / name).resolve()).is_relative_to(root):
            raise ValueError(
                f"{folder / name} is a link to {real}, which is outside of the folder; put the file itself in its "
                "place, or remove it"
            )


def _what_is_there(folder):
    for below in ("model", "pool"):
        if kind_of(folder / below):
            return f"its {below} is {folder / below}"
    return f"it has {', '.join(sorted(path.name for path in folder.iterdir())[:8]) or 'nothing'}"


def _check_card(folder):
    """ValueError unless there is a card, and nothing is left over in it."""
    card = folder / CARD
    if not card.is_file():
        raise FileNotFoundError(
            f"{card} is missing: it is the card, which says what this is, of what it was made, and its license; "
            f"make it by decodetr card {folder} --license ID --output {card}"
        )
    check_card(read_text(card), str(card))


def _check(folder, kind):
    """Load it, as whoever fetches it will."""
    if kind == "model":
        load_model(folder, device="cpu")
    elif kind == "pool":
        load_pool(folder)
    elif kind == "vocabulary":
        load_vocabulary(folder)
    elif (description := read_description(folder)).runtime == "pt2":
        _check_program(folder, description)
    else:
        try:
            ExportedDetector(folder)
        except ImportError as error:
            raise ValueError(f"{error}; an export is tried before it is sent") from error


def _check_program(folder: Path, description: Description) -> None:
    """A file of torch.export is not opened by torch here, since that runs what is pickled in it."""
    file = folder / MODEL_FILES["pt2"]
    check_files(folder, description)
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
            name = next((name for name in archive.namelist() if name.endswith(f"/{FACTS}.json")), None)
            facts = parse_json(archive.read(name).decode(), file, dict) if name and broken is None else {}
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error}); export the model again") from error
    if not facts:
        raise ValueError(f"{file} is damaged: it does not say of which export it is; export the model again")
    check_facts(file, description, facts)


def _shown_by_card(folder):
    """Relative paths of files that the card shows or links."""
    text = read_text(folder / CARD)
    found = [link for pattern in _LINKS for link in pattern.findall(text)]
    found += [part.split()[0] for links in _SETS.findall(text) for part in links.split(",") if part.strip()]
    return {str(PurePosixPath(_path(link))) for link in found}


def _path(link):
    """The path of a link, without what follows it, such as "#top" and "?raw=true"."""
    return unquote(re.split("[#?]", unescape(_ESCAPED.sub(r"\1", link)), maxsplit=1)[0])


def _goes(name, kind, shown, everything):
    if needed(name, kind):
        return True
    parts = PurePosixPath(name).parts
    if any(_OF_A_RUN.fullmatch(part) for part in parts) or name.lower().endswith(_PICKLES):
        return False
    return everything or name == CARD or name in shown or (len(parts) == 1 and bool(_BESIDE.fullmatch(name)))


def _top(name, sent):
    """What is said of a file that stays: its topmost folder, if all of that stays. Of hidden files of ours nothing."""
    parts = PurePosixPath(name).parts
    if parts[0].startswith((".decodetr", ".cache")):
        return ""
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth]) + "/"
        if not any(other.startswith(above) for other in sent):
            return above
    return name
