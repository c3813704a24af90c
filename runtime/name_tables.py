"""Names to what a graph reads of them, once for each swap: the graph never compares names with prototypes.

The same values as `derive` of the model computes, in numpy.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from decodetr.runtime.description import TABLES_FILE
from decodetr.utils.documents import read_json
from decodetr.utils.files import reading, regular_file
from decodetr.utils.hub import downloaded
from decodetr.utils.shipped import cannot_load, is_hub_name, resolve

if TYPE_CHECKING:
    from typing import Any

    from decodetr.runtime.description import Description

_VOCABULARY = ("vocabulary.json", "vocabulary.safetensors")
_BLOCK = 1024  # prototypes that are compared at once


class NameTables(NamedTuple):
    """
    Names, and what the graph reads of them.

    Attributes:
        names (list[str] of length K). info (dict): who embedded them. embeddings (K, d): of any length.
        rows (K, d): centred unit rows. log_share (K,): log of the share that a name has of the softmax, where equal
            rows share one place. background (M,) bool: the prototypes that stand for none of the names.
    """

    names: list[str]
    info: dict[str, Any]
    embeddings: np.ndarray
    rows: np.ndarray
    log_share: np.ndarray
    background: np.ndarray

    def by_name(self) -> dict[str, np.ndarray]:
        """{name: its embedding}, of equal names the first one's."""
        return dict(zip(reversed(self.names), self.embeddings[::-1]))

    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the graph besides the pictures."""
        return {"name_rows": self.rows, "log_share": self.log_share, "background": self.background}


class NameSpace:
    """
    What an exported model that reads its names needs for a swap.

    Args:
        folder: of the exported model. description: its export.json.

    Raises:
        ValueError: tensors are missing, damaged or do not fit the description.
    """

    def __init__(self, folder: str | Path, description: Description) -> None:
        tensors = _tensors(Path(folder) / TABLES_FILE)
        m, d, k = description.num_prototypes, description.embedding_dim, len(description.names)
        shapes = {"prototypes": (m, d), "text_mean": (d,), "embeddings": (k, d)}
        _check(Path(folder) / TABLES_FILE, tensors, shapes)
        self.description = description
        self.prototypes, self.text_mean = tensors["prototypes"], tensors["text_mean"]
        self.all = self.tables(description.names, tensors["embeddings"], description.vocabulary_info)

    def stored(self, names: Sequence[str] | None = None, now: NameTables | None = None) -> NameTables:
        """Tables of some of the stored names, in this order. Default: of all.

        Args:
            now ([`NameTables`], *optional*): in which names are looked up before those that are stored.

        Raises:
            ValueError: names that are in neither, with the closest ones that are.
        """
        if names is None:
            return self.all
        names = checked_names(names)
        rows = {name: row for one in (self.all, now or self.all) for name, row in one.by_name().items()}
        if unknown := [name for name in names if name not in rows]:
            close = {name: difflib.get_close_matches(name, list(rows), n=3) for name in unknown[:5]}
            hints = "; ".join(f"{name!r} (close: {', '.join(found) or 'none'})" for name, found in close.items())
            raise ValueError(
                f"{len(unknown)} of {len(names)} names have no stored embedding: {hints}. An exported model embeds no "
                "names: choose from its names, or give a vocabulary that `decodetr vocabulary build` made of these"
            )
        return self.tables(names, np.stack([rows[name] for name in names]), (now or self.all).info)

    def of_folder(self, vocabulary: str | Path, names: Sequence[str] | None = None) -> NameTables:
        """Tables of the vocabulary in a folder, as `decodetr vocabulary build` writes it, or of a Hub or shipped name,
        or of some of its names.

        Raises:
            FileNotFoundError: no vocabulary is there. ValueError: it is damaged, of another width or another encoder,
                or lacks some of the names.
        """
        folder = _vocabulary_folder(vocabulary)
        with reading(folder):
            content = read_json(folder / _VOCABULARY[0], dict)
            tensors = _tensors(folder / _VOCABULARY[1])
        if content.get("format") != "decodetr-vocabulary":
            raise ValueError(f"{folder / 'vocabulary.json'}: expected a vocabulary of decodetr; build it again")
        stored = checked_names(content.get("names") or ())
        _check(folder / "vocabulary.safetensors", tensors, {"embeddings": (len(stored), None)})
        embeddings, width = tensors["embeddings"], self.description.embedding_dim
        if embeddings.shape[1] != width:
            raise ValueError(
                f"{folder}: the embeddings are {embeddings.shape[1]} wide, those of the model {width}: pool, "
                "vocabulary and model must come from the same CLIP model"
            )
        _check_encoder(folder, content, self.description)
        info = {key: value for key, value in content.items() if key not in _OF_FILE}
        if names is not None:
            place = {name: row for row, name in reversed(list(enumerate(stored)))}
            names = checked_names(names)
            if unknown := [name for name in names if name not in place]:
                close = difflib.get_close_matches(unknown[0], stored, n=3)
                raise ValueError(
                    f"{folder} lacks {len(unknown)} of the {len(names)} names, such as {unknown[0]!r} (close: "
                    f"{', '.join(close) or 'none'}); build a vocabulary that has them"
                )
            stored, embeddings = names, embeddings[[place[name] for name in names]]
        return self.tables(stored, embeddings, info)

    def tables(self, names: list[str], embeddings: np.ndarray, info: dict[str, Any]) -> NameTables:
        """Tables of names and their embeddings (K, d), of any length."""
        rows = unit(embeddings)
        share = log_share(rows)
        rows = unit(rows - self.text_mean)
        if self.description.pool_use == "none":
            background = np.zeros(len(self.prototypes), dtype=bool)
        else:
            starts = range(0, len(self.prototypes), _BLOCK)
            closest = [(self.prototypes[start : start + _BLOCK] @ rows.T).max(axis=1) for start in starts]
            background = np.concatenate(closest) < np.float32(self.description.background_threshold)
        return NameTables(list(names), info, embeddings, rows, share, background)


def _vocabulary_folder(name):
    """The folder of a vocabulary, given it, a Hub name or a shipped name."""
    if not is_hub_name(name):
        return Path(resolve(name, "vocabulary"))
    if (folder := downloaded(str(name), _VOCABULARY)) is None:
        reason = "the Hub has no vocabulary of that name, or it may not be read"
        raise cannot_load("vocabulary", name, reason, ask=True)
    return folder


_OF_FILE = ("format", "format_version", "names", "table_digest")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) divided by their lengths. Those that have length 1 stay what they are, to the bit."""
    rows = rows.astype(np.float32, copy=False)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(np.abs(length - 1) < 1e-6, rows, rows / np.maximum(length, 1e-12))


def log_share(embeddings: np.ndarray) -> np.ndarray:
    """(K,) float32: minus the log of how many of the rows (K, d) are equal to this one, to the bit."""
    seen: dict[bytes, int] = {}
    group = [seen.setdefault(row.tobytes(), len(seen)) for row in embeddings + np.float32(0)]  # no negative zeros
    return -np.log(np.bincount(group)[group].astype(np.float32))


def checked_names(names: Sequence[str]) -> list[str]:
    """A list of names.

    Raises:
        ValueError: none, or some that are no texts or are empty.
    """
    if isinstance(names, str):
        raise ValueError(f"names must be a list, got {names!r}; write [{names!r}]")
    found = list(names)
    if not found or not all(isinstance(name, str) and name.strip() for name in found):
        wrong = next((name for name in found if not isinstance(name, str) or not name.strip()), found)
        raise ValueError(f"names must be non-empty texts, at least one, got {wrong!r}")
    return found


def _tensors(file):
    try:
        return load_file(regular_file(file))
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read ({error}); write it again") from error


def _check(file, tensors, shapes):
    """ValueError unless there are finite float32 tensors of these shapes, None for any size."""
    for name, shape in shapes.items():
        values = tensors.get(name)
        fits = values is not None and values.dtype == np.float32 and values.ndim == len(shape)
        if not fits or any(side is not None and side != got for side, got in zip(shape, values.shape)):
            got = "none" if values is None else f"{values.dtype} {values.shape}"
            raise ValueError(f"{file}: {name}: expected float32 {shape}, got {got}; write it again")
        if not np.isfinite(values).all():
            raise ValueError(f"{file}: {name} has values that are not finite; write it again")


def _check_encoder(folder, content, description):
    """ValueError where a vocabulary is known to be of another encoder than the model's tables."""
    for table in (description.pool_info, description.vocabulary_info):
        for key in ("encoder_fingerprint", "encoder"):
            if content.get(key) and table.get(key):
                if content[key] != table[key]:
                    raise ValueError(
                        f"{folder} was made with {key} {content[key]!r}, the tables of the model with "
                        f"{table[key]!r}: build it with the same text model"
                    )
                break
