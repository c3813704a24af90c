"""Fewer channels for cached samples of feature maps: a fixed projection of each level, fitted once by PCA.

The semantic stream projects samples linearly before anything else, by weights W. Samples that lie in the span of an
orthogonal basis P, around a mean, are therefore read by W P alone, which is learned from. W is kept in the span of P
(`RegionPooling.restrict`), so that the same weights give the same on whole maps: the saved model knows nothing of it.

What PCA gives is stored in eight bits: columns of P are as long as a step, an equal share of each channel's standard
deviation. Rounding loses less than a thousandth of a channel's variance.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from decodetr.utils.files import replacing

_REACH, _STEPS = 8, 127  # standard deviations of a channel that its steps reach to, in as many steps


class Projection:
    """
    What samples of each level are projected by.

    Args:
        bases (list of (mean (C_l,), basis (C_l, c_l)) tensors): float32, columns of a basis are orthogonal, and as
            long as the step of their channel.
        kept (list of float): share of each level's variance that its c_l channels hold, in 0..1.
    """

    def __init__(self, bases: list[tuple[torch.Tensor, torch.Tensor]], kept: list[float]) -> None:
        self.bases, self.kept = bases, kept

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return type(self)([(mean.to(device), basis.to(device)) for mean, basis in self.bases], self.kept)

    def project(self, samples: list[torch.Tensor]) -> list[torch.Tensor]:
        """(n, c_l, points) int8 steps for each (n, C_l, points). Of a thumbnail, after the levels, nothing changes."""
        projected = []
        for level, (mean, basis) in zip(samples, self.bases):
            steps = (basis / basis.square().sum(0)).T @ (level.float() - mean[:, None])
            projected.append(steps.round_().clamp_(-_STEPS, _STEPS).to(torch.int8))
        return [*projected, *samples[len(self.bases) :]]

    def __str__(self) -> str:
        before, after = ([str(size) for size in sizes] for sizes in zip(*(basis.shape for _, basis in self.bases)))
        kept = ", ".join(f"{100 * share:.1f}" for share in self.kept)
        return f"{', '.join(before)} channels projected to {', '.join(after)}, which keep {kept} % of their variance"

    def summary(self) -> dict[str, Any]:
        """What it is, as JSON."""
        sizes = [list(basis.shape) for _, basis in self.bases]
        return {"channels of each map, before and after": sizes, "share of the variance that is kept": self.kept}

    def write(self, file: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors = {"kept": torch.tensor(self.kept, dtype=torch.float64)}
        for level, (mean, basis) in enumerate(self.bases):
            tensors |= {f"mean.{level}": mean.cpu().contiguous(), f"basis.{level}": basis.cpu().contiguous()}
        with replacing(file) as partial:
            save_file(tensors, partial)

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read what `write` has written."""
        tensors = load_file(file)
        kept = tensors.pop("kept").tolist()
        # Copies: who trains with them reads them in every step.
        return cls([(tensors[f"mean.{i}"].clone(), tensors[f"basis.{i}"].clone()) for i in range(len(kept))], kept)


class Moments:
    """Mean and covariance of the channels of each level, batch by batch."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[torch.Tensor] = []
        self.products: list[torch.Tensor] = []
        self.shifts: list[torch.Tensor] = []

    def add(self, levels: Iterable[torch.Tensor]) -> None:
        """Count samples, a (n, C_l, points) for each level."""
        points = [level.float().transpose(1, 2).flatten(0, 1) for level in levels]
        if not len(points[0]):
            return
        if not self.count:  # near the mean: squares of what is left lose no digits
            self.shifts = [rows.mean(0) for rows in points]
            self.sums = [torch.zeros(rows.shape[1], dtype=torch.float64) for rows in points]
            self.products = [torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64) for rows in points]
        self.count += len(points[0])
        for level, rows in enumerate(points):
            rows = rows - self.shifts[level]
            self.sums[level] += rows.sum(0).cpu()
            self.products[level] += (rows.T @ rows).cpu()

    def fit(self, channels: int) -> Projection:
        """The projection to so many channels over all levels, those with the largest shares of their level's variance,
        at least one of each.

        Raises:
            ValueError: nothing was added.
        """
        if not self.count:
            raise ValueError(
                "no query lies on an annotated box or region in the images that were looked at: there is nothing to "
                "fit the projection of --cache-query-bytes to"
            )
        spectra = []
        for total, product in zip(self.sums, self.products):
            mean = total / self.count
            values, vectors = torch.linalg.eigh(product / self.count - torch.outer(mean, mean))
            spectra.append((values.flip(0).clamp(min=0), vectors.flip(1)))
        shares = [values / values.sum().clamp(min=1e-30) for values, _ in spectra]
        taken = _most([share.tolist() for share in shares], channels)
        bases, kept = [], []
        for level, count in enumerate(taken):
            mean = self.shifts[level].cpu() + (self.sums[level] / self.count).float()
            values, vectors = spectra[level]
            steps = values[:count].sqrt().clamp(min=1e-6) * _REACH / _STEPS
            bases.append((mean, (vectors[:, :count] * steps).float()))
            kept.append(min(shares[level][:count].sum().item(), 1.0))
        return Projection(bases, kept)


def _most(shares, channels):
    """How many of each falling list to take, so that `channels` are taken, one of each at least, with the largest
    sum."""
    rest = sorted((-share, level) for level, values in enumerate(shares) for share in values[1:])
    taken = [1] * len(shares)
    for _, level in rest[: max(channels - len(shares), 0)]:
        taken[level] += 1
    return taken


def channels_within(query_bytes: int, other_bytes: float, points: int, levels: int) -> int:
    """How many channels of samples a budget leaves.

    Args:
        query_bytes (int): that a query may take. other_bytes (float): that it takes without the samples of maps.
        points (int): of a sample. levels (int): of maps.

    Raises:
        ValueError: not one for each level.
    """
    channels = int((query_bytes - other_bytes) // points)
    if channels < levels:
        least = int(other_bytes) + 1 + levels * points
        raise ValueError(
            f"--cache-query-bytes {query_bytes}: state, thumbnail and region of a query take {other_bytes:.0f} bytes, "
            f"and each channel of its samples {points}; give at least {least}"
        )
    return channels
