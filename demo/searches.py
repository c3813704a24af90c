"""What can be looked for. All who have the page open share the model: names are of a call, and never its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from decodetr.inference.candidates import CandidateLabels
from decodetr.modeling_decodetr.image_encoder import load_image_model
from decodetr.modeling_decodetr.vocabulary import Vocabulary, check_space
from decodetr.serving.engine import KeptSearches, Search
from decodetr.utils.excerpts import first_line
from decodetr.utils.shipped import load_vocabulary, loading

if TYPE_CHECKING:
    import PIL.Image

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

TYPED = "typed"  # the choice of the names that somebody types
OWN, POOL = "own", "pool"


class Searches:
    """
    What one can look for with a model.

    Args:
        model: in evaluation mode. vocabularies: folders, Hub names or shipped names of others that can be chosen.
        clip (*optional*): of names that the model lacks, and of boxes. Default: the one that the model records.
        kept_names (int): typed names that are kept.

    Attributes:
        choices ({str: str}): label of each choice by its key, `TYPED` first.

    Raises:
        FileNotFoundError: no such vocabulary. ValueError: one that does not fit the model.
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        vocabularies: Sequence[str | Path] = (),
        clip: str | Path | None = None,
        kept_names: int = 20_000,
    ) -> None:
        self.model, self.given_clip = model, clip
        self.tables = model.tables()
        self._candidates = CandidateLabels(clip, kept_names)
        self._typed = KeptSearches(self._of_names, kept_names)
        self._made: dict[str, Search] = {OWN: _search_of(self.tables)}
        self._known = self.tables.vocabulary
        self.choices = {TYPED: "the names that I type", OWN: _counted("names of the model", self.tables.vocabulary)}
        for name in vocabularies:
            vocabulary = load_vocabulary(name).to(self.tables.prototypes.device)
            check_space(f"vocabulary {str(name)!r}", vocabulary, model.config.embedding_dim, model.config.pool_info)
            key = f"vocabulary {len(self._made)}"
            self._made[key] = self._search(vocabulary)
            self.choices[key] = _counted(f"names of {name}", vocabulary)
            if more := [one for one in vocabulary.names if one not in self._known]:
                self._known = self._known.joined(vocabulary.select(list(dict.fromkeys(more))))
        if self.tables.pool.captions:
            self.choices[POOL] = "everything that the pool speaks of"
        self._one = threading.Lock()
        self._image_model: tuple | None = None

    @property
    def clip(self) -> str | None:
        """The CLIP that names from boxes need. None where nothing says which one it is."""
        return str(self.given_clip or self.tables.vocabulary.info.get("encoder") or "") or None

    def chosen(self, choice: str, names: Sequence[str] = (), drawn: Vocabulary | None = None) -> Search:
        """The search of a choice.

        Args:
            choice (str): a key of `choices`. names: of `TYPED`. drawn ([`Vocabulary`], *optional*): names from boxes,
                which typed ones may be.

        Raises:
            ValueError: no such choice, or names without an embedding that cannot get one.
        """
        if choice == TYPED:
            mine = [name for name in names if drawn is not None and name in drawn]
            if drawn is None or not mine:
                return self._typed.get(names)
            vocabulary = drawn.select(mine)
            if others := tuple(name for name in names if name not in mine):
                vocabulary = self._typed.get(others).tables.vocabulary.joined(vocabulary)
            return self._search(vocabulary.select(names))
        if choice not in self.choices:
            raise ValueError(f"Choose what to look for; there is no {choice!r}.")
        with self._one:
            if choice not in self._made:  # that of the pool, which a large one takes its time for
                self._made[choice] = self._search(Vocabulary.from_pool(self.tables.pool))
            return self._made[choice]

    def from_box(self, name: str, image: PIL.Image.Image, box: Sequence[float]) -> Vocabulary:
        """The [`Vocabulary`] of a name that stands for what is in a box (x0, y0, x1, y1 in pixels) of a picture.

        Raises:
            ValueError: the CLIP is unknown, not here, or another one; a box without pixels.
        """
        clip = self.clip
        if clip is None:
            raise ValueError(
                "A name from a box needs the CLIP that made the names of the model, which the model does not record; "
                "start the demo with --clip NAME."
            )
        with self._one:
            if self._image_model is None:
                self._image_model = self._load(clip)
            clip_model, processor = self._image_model
            examples = {name: [(image, box)]}
            return Vocabulary.from_images(examples, clip_model, self.tables.pool, image_processor=processor)

    def _load(self, clip):
        asked_by = None if self.given_clip else f"the model says that it made its names; --clip {clip} fetches it"
        try:
            with loading("CLIP", clip, asked_by) as source:
                return load_image_model(source)
        except (ImportError, OSError, ValueError) as error:
            reason = first_line(error).rstrip(".")
            raise ValueError(
                f"A name from a box needs the CLIP that made the names of the model, {clip}: {reason}. "
                f"Start the demo with --clip NAME, where NAME is that CLIP."
            ) from error

    def _of_names(self, names):
        vocabulary, stands_for = self._candidates.vocabulary(self._known, names)
        return Search(list(names), stands_for, self.model.semantic_stream.tables_with(self.tables, vocabulary))

    def _search(self, vocabulary):
        return _search_of(self.model.semantic_stream.tables_with(self.tables, vocabulary))


def _search_of(tables):
    names = list(tables.vocabulary.names)
    return Search(names, names, tables)


def _counted(words, vocabulary):
    return f"the {len(vocabulary):,} {words}" if len(vocabulary) != 1 else f"the one of the {words}"
