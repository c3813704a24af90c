"""Which queries the semantic stream reads in inference: those that can still become a detection.

A score is sigmoid(objectness) times the probability of a name, so no name of a query scores above its objectness. A
detector has hundreds of queries, of which a picture's objects take a few dozen. The others need no meaning.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from .configuration_decodetr import DeCoDetrConfig

# Without a `min_score`: so many are read in any picture, and all whose score may exceed this one. AP is then that of
# all queries to the fourth digit (docs/model.md has the measurement).
LEAST_QUERIES, MIN_SCORE = 32, 0.02
# With a `min_score`: enough to tell the best score of a picture in which nothing reaches it.
BEST_QUERIES = 10


class CertainQueries(NamedTuple):
    """Some queries of each image.

    Attributes:
        index (B, k) int64: places among the N queries of the image.
        kept (B, k) bool: those that belong to their image. The others are there because another image has more.
    """

    index: torch.Tensor
    kept: torch.Tensor

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """(B, k, C) of values (B, N, C)."""
        return values.gather(1, self.index[..., None].expand(-1, -1, values.shape[-1]))

    def put(self, values: torch.Tensor, queries: int, other: float) -> torch.Tensor:
        """(B, N, C) with values (B, k, C) in their places, and `other` everywhere else."""
        # One more row for all others, and each query's row looked up: whole rows are copied, which runtimes do well.
        images, count, width = values.shape
        rows = torch.cat([values, values.new_full((images, 1, width), other)], 1).flatten(0, 1)
        own = torch.where(self.kept, torch.arange(count, device=values.device), count)
        row = self.index.new_full((images, queries), count).scatter(1, self.index, own)
        row = row + torch.arange(images, device=values.device)[:, None] * (count + 1)
        return rows.index_select(0, row.flatten()).unflatten(0, (images, queries))


def certain_queries(
    objectness_logits: torch.Tensor, config: "DeCoDetrConfig", min_score: float | None, count: int | None
) -> CertainQueries | None:
    """The queries that can reach a score, whatever their names are.

    Args:
        objectness_logits (B, N).
        min_score (`float`, *optional*): scores above it must be right. Default: `MIN_SCORE`, and more queries in any
            case.
        count (`int`, *optional*): so many of each image instead, the most certain ones: shapes are then known before.

    Returns:
        None for all of them: where that is what was asked for, and by default where the number of the certain ones
        cannot be known without waiting (accelerators) or at all (a graph that is compiled or exported).

    Raises:
        ValueError: a score outside [0, 1], or fewer than one query.
    """
    if min_score is not None and not 0 <= min_score <= 1:
        raise ValueError(f"min_score must lie in [0, 1], got {min_score}.")
    if count is not None and count < 1:
        raise ValueError(f"semantic_queries must be at least 1, got {count}.")
    queries = objectness_logits.shape[1]
    if count is None:
        if torch.compiler.is_compiling() or (min_score is None and objectness_logits.device.type != "cpu"):
            return None
        bound = config.calibrated(objectness_logits.float())
        score, least = (MIN_SCORE, LEAST_QUERIES) if min_score is None else (min_score, BEST_QUERIES)
        if score <= 0:
            return None
        above = (bound > _logit(score)).sum(1, keepdim=True).clamp(min=least)  # (B, 1)
        count = min(int(above.max()), queries)
    else:
        above = None
    if count >= queries:
        return None
    index = objectness_logits.topk(count, dim=1).indices
    place = torch.arange(count, device=index.device)
    kept = torch.ones_like(index, dtype=torch.bool) if above is None else place < above
    return CertainQueries(index, kept)


def _logit(score):
    return math.log(score) - math.log1p(-score) if score < 1 else math.inf
