"""The tables of a model, pool and names. They are swapped in place, as a whole: a call in another thread has the old
ones or the new ones."""

import copy
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .embedding_artifact import random_rows
from .embedding_space import Tables
from .excerpts import some_of
from .name_choice import Names, choose_names
from .prototype_pool import PrototypePool
from .semantic_stream import SemanticStream, derive
from .vocabulary import Vocabulary, check_space, same_encoder

logger = logging.getLogger(__name__)

# Held for the moment in which tables are swapped or taken. Here, because a lock on a model could not be copied.
_SWAPPING = threading.RLock()


class SwappableTables:
    """What [`DeCoDetrForObjectDetection`] does with its pool and its names."""

    prototype_pool: PrototypePool
    vocabulary: Vocabulary
    semantic_stream: SemanticStream
    if TYPE_CHECKING:  # the library reads an annotation of this name
        config: Any

    @torch.inference_mode(False)  # what is made here is trained with later
    def set_vocabulary(self, vocabulary: Vocabulary | list[str]) -> None:
        """Swap the names in place. Kept by `save_pretrained`. A call in another thread has the old names or the new
        ones (docs/model.md, "Threads").

        Args:
            vocabulary ([`Vocabulary`] or `list[str]`): new names with their embeddings, or some of the present names.

        Raises:
            ValueError: the embeddings have another width than the model's embedding space, or come from another
                encoder than the pool. A list has names without a stored embedding. It is something else.
        """
        if isinstance(vocabulary, str | list | tuple):
            vocabulary = self.vocabulary.select(vocabulary)
        _check_kind(
            vocabulary, "names", "vocabulary must be a Vocabulary(names, embeddings) or a list of stored names"
        )
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

    @torch.inference_mode(False)
    def set_pool(self, pool: PrototypePool, vocabulary: Vocabulary | None = None) -> None:
        """Swap the prototype pool in place, and the names with it when both come from a new encoder. Kept by
        `save_pretrained`. The semantic stream should then be trained again.

        Raises:
            ValueError: the prototypes have another width than the model's embedding space, or pool and vocabulary
                come from different encoders, or they are something else. The model is then as it was.
        """
        vocabulary = self.vocabulary if vocabulary is None else vocabulary
        _check_kind(pool, "prototypes", "pool must be a PrototypePool(prototypes, ..., captions)")
        _check_kind(vocabulary, "names", "vocabulary must be a Vocabulary(names, embeddings)")
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


def _check_kind(artifact, part, expected):
    """ValueError for what is no table with this part. The class is not asked: that of code from the Hub is another."""
    if not isinstance(artifact, nn.Module) or not hasattr(artifact, part):
        raise ValueError(f"{expected}, got {type(artifact).__name__}.")


def follow_loaded_tables(model: nn.Module) -> None:
    """Let `load_state_dict` say where it puts other rows under the names or captions of a model, and compute again
    what follows from the tables. The hooks are plain functions, so that models can be copied and pickled."""
    model.register_load_state_dict_pre_hook(_warn_of_other_rows)
    model.register_load_state_dict_post_hook(_refresh)


def _warn_of_other_rows(model, state_dict, prefix, *_):
    pool, names = model.prototype_pool, model.vocabulary
    tables = [("vocabulary.embeddings", names.embeddings, 1, f"names ({some_of(names)})", "set_vocabulary")]
    if model.config.pool_update == "frozen":  # else the prototypes of one model move
        tables.append(("prototype_pool.prototypes", pool.prototypes, 0, "prototypes' captions", "set_pool"))
    for key, rows, seed, texts, method in tables:
        # Random rows, as of a model from a config, are there to be replaced.
        if _differ(state_dict.get(prefix + key), rows) and _differ(random_rows(*rows.shape, seed=seed), rows):
            logger.warning(
                "load_state_dict changes %s, and the model's %s stay: a state dict has none. If it is of a model with "
                "others, or in another order, all that is said of them is wrong from now on. Give the model the other "
                "one's with model.%s, or load that model with from_pretrained",
                *(key, texts, method),
            )


def _differ(rows, own):
    """Whether rows (n, d) are others than a model's own, of as many, but for what half precision rounds."""
    if rows is None or rows.shape != own.shape or rows.is_meta or own.is_meta:
        return False
    return not torch.allclose(rows.to(own), own, rtol=1e-2, atol=1e-3)


def _refresh(model, incompatible_keys):
    model.semantic_stream.refresh(model.prototype_pool, model.vocabulary)
