"""Candidate labels: names of one call, which leave the model's own as they are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from decodetr.inference.names import choose_names
from decodetr.modeling_decodetr.prompts import name_of
from decodetr.modeling_decodetr.vocabulary import Vocabulary

logger = logging.getLogger(__name__)


class CandidateLabels:
    """Vocabularies of labels that callers give, as texts. What has been embedded of late is kept.

    Args:
        text_model: folder, Hub name or shipped name of the text model of names that the model lacks. Default: the one
            that the model records.
        kept (int): so many names at most, the oldest go.
    """

    def __init__(self, text_model: str | Path | None = None, kept: int = 20_000) -> None:
        self.text_model, self.kept = text_model, kept
        self._rows: dict[tuple[str, str], torch.Tensor] = {}
        self._embedding = threading.Lock()

    def vocabulary(self, stored: Vocabulary, labels: Sequence[str]) -> tuple[Vocabulary, list[str]]:
        """The vocabulary of some labels, each once, in their order.

        Args:
            stored ([`Vocabulary`]): of the model. labels (list[str]): see [`name_of`].

        Returns:
            ([`Vocabulary`] whose names are the labels as they were given, list[str] of the names that they stand for).

        Raises:
            ValueError: no labels, or names without embedding that cannot get one.
        """
        labels = labels if isinstance(labels, str) else list(labels)
        if isinstance(labels, str) or not labels or not all(isinstance(one, str) and one.strip() for one in labels):
            raise ValueError(f"labels must be a list of names, at least one, got {labels!r}")
        labels = list(dict.fromkeys(labels))  # one that is there twice would find everything twice
        place = {name: row for row, name in reversed(list(enumerate(stored.names)))}
        names = [name_of(label, place) for label in labels]
        space = repr(sorted(stored.info.items(), key=lambda item: item[0]))
        new = dict.fromkeys(name for name in names if name not in place)
        made = self._embedded(stored, space, list(new)) if new else {}  # who needs none waits for nobody
        embeddings = stored.embeddings
        rows = [embeddings[place[name]] if name in place else made[name].to(embeddings.device) for name in names]
        return Vocabulary(labels, torch.stack(rows), stored.info), names

    def _embedded(self, stored, space, names):
        """{name: its row} of names that are not stored."""
        with self._embedding:
            if missing := [name for name in names if (space, name) not in self._rows]:
                fresh = choose_names(stored, missing, self.text_model)
                self._rows |= {(space, name): row for name, row in zip(missing, fresh.embeddings.cpu())}
            found = {name: self._rows[space, name] for name in names}
            while len(self._rows) > self.kept:
                del self._rows[next(iter(self._rows))]
        return found
