"""The tables of a model, pool and names. They are swapped in place, as a whole: a call in another thread has the old
ones or the new ones."""

import copy
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .embedding_space import Tables
from .name_choice import Names, choose_names
from .prototype_pool import PrototypePool
from .semantic_stream import SemanticStream, derive
from .vocabulary import Vocabulary, check_space, same_encoder

# Held for the moment in which tables are swapped or taken. Here, because a lock on a model could not be copied.
_SWAPPING = threading.RLock()


class SwappableTables:
    """What [`DeCoDetrForObjectDetection`] does with its pool and its names."""

    prototype_pool: PrototypePool
    vocabulary: Vocabulary
    semantic_stream: SemanticStream
    if TYPE_CHECKING:  # the library reads an annotation of this name
        config: Any

    def set_vocabulary(self, vocabulary: Vocabulary | list[str]) -> None:
        """Swap the names in place. Kept by `save_pretrained`. A call in another thread has the old names or the new
        ones (docs/model.md, "Threads").

        Args:
            vocabulary ([`Vocabulary`] or `list[str]`): new names with their embeddings, or some of the present names.

        Raises:
            ValueError: the embeddings have another width than the model's embedding space, or come from another
                encoder than the pool. A list has names without a stored embedding.
        """
        if isinstance(vocabulary, str | list | tuple):
            vocabulary = self.vocabulary.select(vocabulary)
        check_space("vocabulary", vocabulary, self.config.embedding_dim, self.config.pool_info)
        self._swap(self.prototype_pool, vocabulary)

    def set_names(self, names: Names | str, text_model: str | Path | None = None) -> None:
        """Look for these names from now on, in this order. Kept by `save_pretrained`, as of [`set_vocabulary`].

        Names that the model has stored cost nothing. Others are embedded by the text model and with the templates that
        the vocabulary records, which is logged. It is looked for on this machine alone.

        Args:
            names (`list[str]`, `dict` or "pool"): a dict has texts that are embedded instead of its names, as in
                [`Vocabulary.from_text_model`]. "pool" takes the captions of the model's own pool, to detect everything
                that it speaks of ([`Vocabulary.from_pool`]).
            text_model: folder, Hub name or shipped name of the text model that made the stored names, if the record
                is not where it is. The Hub may be asked for it.

        Raises:
            ValueError: names that are not stored, with the closest ones that are, while the text model is unknown,
                cannot be loaded, or is another one. The model is then as it was.
        """
        if names == "pool":
            pool, stored = self.prototype_pool, self.vocabulary.info
            vocabulary = Vocabulary.from_pool(pool)
            # Names that are asked for later are embedded as those before.
            kept = {key: stored[key] for key in ("encoder", "templates", "underscores_to_spaces") if key in stored}
            vocabulary.info |= kept if same_encoder(stored, pool.info) else {}
        elif isinstance(names, str):
            raise ValueError(f'names must be a list, a dict or "pool", got {names!r}; write [{names!r}].')
        else:
            vocabulary = choose_names(self.vocabulary, names, text_model)
        self.set_vocabulary(vocabulary)

    def set_pool(self, pool: PrototypePool, vocabulary: Vocabulary | None = None) -> None:
        """Swap the prototype pool in place, and the names with it when both come from a new encoder. Kept by
        `save_pretrained`. The semantic stream should then be trained again.

        Raises:
            ValueError: the prototypes have another width than the model's embedding space, or pool and vocabulary
                come from different encoders. The model is then as it was.
        """
        vocabulary = vocabulary or self.vocabulary
        check_space("pool", pool, self.config.embedding_dim, vocabulary.info)
        check_space("vocabulary", vocabulary, self.config.embedding_dim, pool.info)
        copy = PrototypePool(pool.prototypes, pool.level, pool.parent, pool.count, pool.captions, pool.info)
        self._swap(copy.to(self.prototype_pool.prototypes.device), vocabulary)

    def _swap(self, pool, vocabulary):
        """Put tables that fit the model in, with everything that follows from them."""
        centred = self.config.centred
        derived = derive(pool, vocabulary, centred)
        vocabulary = copy.deepcopy(vocabulary).to(pool.prototypes.device)  # what the caller changes is the caller's
        fine, names = pool.num_fine, vocabulary.names
        with _SWAPPING:
            self.prototype_pool, self.vocabulary = pool, vocabulary
            self.semantic_stream.take(derived, centred)
            self.config.num_coarse_prototypes, self.config.num_fine_prototypes = len(pool) - fine, fine
            self.config.prototype_captions, self.config.pool_info = pool.captions, dict(pool.info) or None
            self.config.id2label = dict(enumerate(names))
            self.config.label2id = {name: i for i, name in reversed(list(enumerate(names)))}
            self.config.vocabulary_info = dict(vocabulary.info) or None

    def tables(self) -> Tables:
        """Return the tables that a call uses from its beginning to its end."""
        if torch.compiler.is_compiling():  # a lock cannot be compiled
            return self.semantic_stream.tables(self.prototype_pool, self.vocabulary)
        with _SWAPPING:
            return self.semantic_stream.tables(self.prototype_pool, self.vocabulary)

    @torch.no_grad()
    def update_prototypes(self, sums: torch.Tensor) -> None:
        """Momentum step of the pool (paper 3.5), see [`PrototypePool.update`]. A frozen one stays."""
        if self.config.pool_update == "frozen":
            return
        self.prototype_pool.update(sums, self.config.pool_momentum)
        self.semantic_stream.refresh(self.prototype_pool, self.vocabulary)
