"""How far the momentum step (paper 3.5) has moved a pool, and what its prototypes now stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import PrototypePool

_LISTED = 20


@torch.no_grad()
def pool_drift(before: PrototypePool, after: PrototypePool) -> dict[str, Any]:
    """
    Args:
        before, after (PrototypePool): the same pool, earlier and later.

    Returns:
        dict:
            mean_cosine, least_cosine: of a prototype to what it was.
            mean_cosine_between: two prototypes, before and after. Near 1 the pool has collapsed.
            renamed: how many are now closer to another prototype's former place than to their own.
            farthest: up to 20 of {"row", "cosine", "caption", "now"}, the caption that it had and that of the former
                prototype which it is closest to now.
    """
    old, new = (F.normalize(pool.prototypes.double().cpu(), dim=-1) for pool in (before, after))
    captions: Sequence[str | None] = before.captions or [None] * len(before)
    cosine = (old * new).sum(-1)
    nearest = torch.cat([(rows @ old.T).argmax(-1) for rows in new.split(1024)])
    order = cosine.argsort(stable=True)[:_LISTED].tolist()
    return {
        "mean_cosine": cosine.mean().item(),
        "least_cosine": cosine.min().item(),
        "mean_cosine_between": [before.mean_cosine(), after.mean_cosine()],
        "renamed": int((nearest != torch.arange(len(old))).sum()),
        "farthest": [
            {"row": row, "cosine": cosine[row].item(), "caption": captions[row], "now": captions[nearest[row]]}
            for row in order
        ],
    }
