"""The Dynamic Hierarchical Concept Pool at run time: a table of prototypes (paper 1.7) and its momentum update
(paper 3.4, 3.5). How a pool is filled is `pool_builder/`. How it is looked up, `semantic_stream.py`.

Deviation: the paper's momentum rule collapses a pool of real CLIP's texts within an epoch (docs/model.md), so a pool
is frozen by default.
"""

from typing import Self

import torch
from torch.nn import functional as F

from .embedding_artifact import EmbeddingArtifact, check_embeddings, random_rows
from .embedding_space import check_space, log_assignment, mean_cosine


class PrototypePool(EmbeddingArtifact):
    """M = M1 + M2 prototypes in the embedding space of the teacher.

    Args:
        prototypes (`torch.Tensor` of shape (M, d)): A of paper 1.7. Unit rows.
        level (`torch.Tensor` of shape (M,), *optional*): 0 coarse, 1 fine. Default: all coarse.
        parent (`torch.Tensor` of shape (M,), *optional*): row of the coarse parent of a fine prototype, -1 for a
            coarse one.
        count (`torch.Tensor` of shape (M,), *optional*): captions that the prototype stands for. Default: 1.
        captions (`list[str]` of length M, *optional*): the representative caption of each prototype.
        info (`dict`, *optional*): provenance (encoder, captioner, prompt, delta, seed, cluster settings, fingerprint),
            and in "space" the teacher's embedding space, see `embedding_space.py`.

    Raises:
        ValueError: shapes that do not fit, NaN, rows far from unit length, a parent that is no coarse prototype.
    """

    stem = "pool"

    def __init__(
        self,
        prototypes: torch.Tensor,
        level: torch.Tensor | None = None,
        parent: torch.Tensor | None = None,
        count: torch.Tensor | None = None,
        captions: list[str] | None = None,
        info: dict | None = None,
    ) -> None:
        super().__init__()
        prototypes = check_embeddings(prototypes, "prototypes")
        m, device = prototypes.shape[0], prototypes.device
        level = torch.zeros(m, dtype=torch.int64, device=device) if level is None else level
        parent = torch.full((m,), -1, dtype=torch.int64, device=device) if parent is None else parent
        count = torch.ones(m, dtype=torch.int64, device=device) if count is None else count
        for name, tensor in (("level", level), ("parent", parent), ("count", count)):
            if tensor.shape != (m,) or tensor.dtype != torch.int64:
                raise ValueError(f"{name} must be int64 of shape ({m},), got {tensor.dtype} {tuple(tensor.shape)}.")
        if captions is not None and not isinstance(captions, list | tuple):
            raise ValueError(f"captions must be a list of {m} strings, got {captions!r}.")
        if captions is not None and len(captions) != m:
            raise ValueError(f"captions must have one entry per prototype ({m}), got {len(captions)}.")
        if device.type != "meta":
            _check_lengths(prototypes)
            if (count < 0).any():
                raise ValueError(f"count must not be negative, got {int(count.min())}.")
            fine = level == 1
            if not ((level == 0) | fine).all() or not (parent[~fine] == -1).all():
                raise ValueError("level must be 0 (coarse, parent -1) or 1 (fine).")
            if fine.any() and not (
                ((parent[fine] >= 0) & (parent[fine] < m)).all() and (level[parent[fine]] == 0).all()
            ):
                raise ValueError("parent of a fine prototype must be the row of a coarse one.")
        self.captions = list(captions) if captions is not None else None
        self.info = dict(info or {})
        if self.info.get("space") is not None:
            check_space(self.info["space"], prototypes.shape[1])
        self.register_buffer("prototypes", prototypes.clone())
        self.register_buffer("level", level.clone())
        self.register_buffer("parent", parent.clone())
        self.register_buffer("count", count.clone())

    def __len__(self) -> int:
        return self.prototypes.shape[0]

    @property
    def embedding_dim(self) -> int:
        """d."""
        return self.prototypes.shape[1]

    @torch.no_grad()
    def assignment_sums(self, embeddings: torch.Tensor, temperature: float) -> torch.Tensor:
        """The sums of paper 3.4 for embeddings e (R, d): sum_i D_ij e_i of shape (M, d).

        Those of several micro-batches or processes may be added before [`PrototypePool.update`].
        """
        weights = log_assignment(embeddings, F.normalize(self.prototypes, dim=-1), temperature).exp()
        with torch.autocast(embeddings.device.type, enabled=False):
            return weights.T @ embeddings.float()

    @torch.no_grad()
    def update(self, sums: torch.Tensor, momentum: float) -> None:
        """Momentum step (paper 3.5), in place: A_j <- gamma A_j + (1 - gamma) LayerNorm(sum_i D_ij e_i).

        Args:
            sums (`torch.Tensor` (M, d)): from [`PrototypePool.assignment_sums`].
            momentum (`float`): gamma in [0, 1].
        """
        normed = F.layer_norm(sums, sums.shape[-1:])
        self.prototypes.copy_(momentum * self.prototypes + (1 - momentum) * normed)

    @torch.no_grad()
    def mean_cosine(self) -> float:
        """Mean cosine between two different prototypes in [-1, 1]. Near 1 the pool has collapsed. NaN when M = 1."""
        return mean_cosine(F.normalize(self.prototypes, dim=-1).cpu()) if len(self) > 1 else float("nan")

    @classmethod
    def random(
        cls, num_coarse: int, num_fine: int, embedding_dim: int, generator: torch.Generator | None = None
    ) -> Self:
        """A pool of random unit prototypes, as a model made from a config alone has it. Without a generator the same
        ones every time."""
        m = num_coarse + num_fine
        level = torch.arange(m) >= num_coarse
        parent = torch.where(level, (torch.arange(m) - num_coarse) % max(num_coarse, 1), -1)
        if num_coarse == 0:  # fine prototypes without parents cannot be told from coarse ones
            level, parent = torch.zeros(m, dtype=torch.bool), torch.full((m,), -1)
        return cls(random_rows(m, embedding_dim, generator), level.long(), parent.long())

    @property
    def num_fine(self) -> int:
        """M2, the number of fine prototypes. The others are coarse."""
        return int((self.level == 1).sum())

    def texts(self) -> list[str] | None:
        return self.captions

    def extra_repr(self) -> str:
        counts = "? coarse and ? fine"
        if self.level.device.type != "meta":
            counts = f"{len(self) - self.num_fine} coarse and {self.num_fine} fine"
        encoder = self.info.get("encoder") or "unknown"
        return f"{counts} prototypes of width {self.embedding_dim}, encoder {encoder}"

    def _metadata(self):
        return {**self.info, "captions": self.captions}

    @classmethod
    def _from_parts(cls, tensors, metadata):
        info = {key: value for key, value in metadata.items() if key not in ("format", "format_version", "captions")}
        names = ("prototypes", "level", "parent", "count")
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ValueError(f"tensors {', '.join(missing)} are missing; build the pool again.")
        return cls(*(tensors[name] for name in names), metadata.get("captions"), info)


def _check_lengths(prototypes):
    """ValueError for rows (M, d) that cannot be normalised in float32, or that would drown all others in a lookup."""
    length = prototypes.double().norm(dim=-1)
    wrong = (length < 1e-6) | (length > 1e6)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(
            f"prototypes should be rows of length 1, got length {length[row].item():.3g} in row {row}; normalise them."
        )
