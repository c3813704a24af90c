"""Names that captions say: without those that say that there is nothing to be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from decodetr.building.clip_detector import NOTHING
from decodetr.modeling_decodetr import PrototypePool, Vocabulary
from decodetr.pool_builder.build import clip_model
from decodetr.utils.devices import pick_device
from decodetr.utils.shipped import loading

if TYPE_CHECKING:
    from pathlib import Path


def caption_names(folder: Path, clip: str, device: str) -> tuple[Vocabulary, list[str]]:
    """The names of a pool as [`Vocabulary.from_pool`] has them, without captions that say nothing, and these.

    Args:
        folder (Path): of the pool. clip (str): that made it. device (str): where it runs.

    Raises:
        ValueError: no caption says what there is.
    """
    with loading("CLIP", clip) as place:
        nothing = torch.from_numpy(clip_model(place, pick_device(device)).load().embed_texts(list(NOTHING)))
    found = Vocabulary.from_pool(PrototypePool.from_pretrained(folder))
    empty = say_nothing(found.embeddings, nothing).tolist()
    names = [name for name, no_thing in zip(found.names, empty) if not no_thing]
    if not names:
        raise ValueError(
            f"{folder}: expected captions that say what there is, got {', '.join(map(repr, found.names[:5]))}; give "
            "--names, or another --captioner or --prompt"
        )
    return found.select(names), [name for name, no_thing in zip(found.names, empty) if no_thing]


def say_nothing(rows: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """(K,) bool: which captions are nearer to a text for nothing than to a caption of a thing.

    Captions in the farther half, from the farthest caption to where these texts lie to one another, are of things. The
    others are looked at from the farthest on, so that a paraphrase of a thing finds that thing.

    Args:
        rows (K, d): of the captions. nothing (n, d): of the texts. Unit rows.
    """
    same = (nothing @ nothing.T).fill_diagonal_(-1).amax(1).median()
    near = (rows @ nothing.T).amax(1)
    things = near < (same + near.min()) / 2
    for row in near.argsort(stable=True).tolist():
        if not things[row] and things.any():
            things[row] = (rows[things] @ rows[row]).max() > near[row]
    return ~things
