"""Cached samples of feature maps in few bits: a fixed transform, fitted once, and as many bits for each coefficient as
its variance deserves.

The channels of a level are projected by PCA, and the points of a box by a cosine transform: what is alike at all
points comes together in one coefficient, as in the small boxes of coarse maps. Coefficients have 0, 1, 2, 4 or 8 bits
(`quantization.py`), those that lower the error most for a bit first (reverse water-filling), errors being shares of
their level's variance.

The semantic stream projects samples linearly before anything else, by weights W. It reads the coefficients of the
channels, brought back to points, by W P with the basis P of the PCA. Channels with no bit at all are left out of P,
and W is kept in the span of P (`RegionPooling.restrict`), so that the same weights serve whole maps: the saved model
knows nothing of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from decodetr.training.features.quantization import WIDTHS, codes_of, lost, pack, packed_size, unpack
from decodetr.utils.files import replacing

_HELD = 2048  # queries that variances of coefficients are taken from: 235 MB of RT-DETRv2-R50
_STEPS = 255  # of a thumbnail's values


@dataclass
class LevelCoding:
    """
    How samples of one map are coded.

    Args:
        mean (C,), basis (C, c): of the channels, float32; columns are orthonormal.
        offset, scale (c, points): mean and standard deviation of each coefficient, float32.
        width (c, points): its bits, uint8.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    offset: torch.Tensor
    scale: torch.Tensor
    width: torch.Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return type(self)(*(tensor.to(device) for tensor in vars(self).values()))

    def coefficients(self, samples: torch.Tensor) -> torch.Tensor:
        """(n, c, points) of samples (n, C, points)."""
        return (self.basis.T @ (samples.float() - self.mean[:, None])) @ _cosines(samples.shape[2], self.mean.device)


class SampleCoding:
    """
    How samples are coded.

    Args:
        levels (list of [`LevelCoding`]): of the maps.
        kept (list of float): share of each level's variance that is kept, in 0..1, of the samples it was fitted to.
        pixels (tensor (2, 3), *optional*): least and greatest value of each channel of thumbnails, which are kept in
            8 bits.
    """

    def __init__(self, levels: list[LevelCoding], kept: list[float], pixels: torch.Tensor | None = None) -> None:
        self.levels, self.kept, self.pixels = levels, kept, pixels
        widths = torch.cat([level.width.flatten() for level in levels])
        self._places = {width: (widths == width).nonzero()[:, 0] for width in (*WIDTHS, 0)}
        self._back = torch.cat(list(self._places.values())).argsort()
        self._scale, self._offset = (
            torch.cat([getattr(level, name).flatten() for level in levels]) for name in ("scale", "offset")
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        pixels = None if self.pixels is None else self.pixels.to(device)
        return type(self)([level.to(device) for level in self.levels], self.kept, pixels)

    @property
    def bases(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(mean, basis) of each level, which [`RegionPooling.project_samples`] needs with decoded samples."""
        return [(level.mean, level.basis) for level in self.levels]

    @property
    def size(self) -> int:
        """Bytes of a query, without its thumbnail."""
        return sum(packed_size(len(self._places[width]), width) for width in WIDTHS)

    def encode(self, samples: list[torch.Tensor]) -> list[torch.Tensor]:
        """uint8: (n, size) of the maps' (n, C_l, points), and a thumbnail (n, 3, pixels) in as many bytes."""
        parts = [level.coefficients(part).flatten(1) for level, part in zip(self.levels, samples)]
        numbers = (torch.cat(parts, 1) - self._offset) / self._scale
        coded = [pack(codes_of(numbers.index_select(1, self._places[width]), width), width) for width in WIDTHS]
        found = [torch.cat(coded, 1)]
        if self.pixels is not None:
            low, step = self._pixel_steps()
            found.append(((samples[-1].float() - low) / step).round_().clamp_(0, _STEPS).to(torch.uint8))
        return found

    def decode(self, coded: list[torch.Tensor]) -> list[torch.Tensor]:
        """float32 (n, c_l, points) for each map, in the coordinates of its basis, and thumbnails (n, 3, pixels)."""
        counts = [len(self._places[width]) for width in WIDTHS]
        packed = coded[0].split([packed_size(count, width) for count, width in zip(counts, WIDTHS)], 1)
        parts = [unpack(part, width, count) for part, width, count in zip(packed, WIDTHS, counts)]
        numbers = torch.cat([*parts, parts[0].new_zeros(len(parts[0]), len(self._places[0]))], 1)
        numbers = torch.addcmul(self._offset, numbers.index_select(1, self._back), self._scale)
        found = []
        for level, part in zip(self.levels, numbers.split([level.width.numel() for level in self.levels], 1)):
            coefficients = part.unflatten(1, level.width.shape)
            found.append(coefficients @ _cosines(coefficients.shape[2], part.device).T)
        if self.pixels is not None:
            low, step = self._pixel_steps()
            found.append(low + step * coded[1])
        return found

    def read(self, features: dict[str, Any]) -> dict[str, Any]:
        """`semantic_features` as `forward` takes them, of a batch with coded samples, on the device of this coding."""
        with torch.autocast(features["queries"].device.type, enabled=False):
            return {**features, "samples": self.decode(features["samples"]), "bases": self.bases}

    def _pixel_steps(self):
        low, high = self.pixels[..., None]
        return low, ((high - low) / _STEPS).clamp(min=1e-6)

    def __str__(self) -> str:
        channels = [f"{basis.shape[1]} of {basis.shape[0]}" for _, basis in self.bases]
        bits = 8 * self.size / sum(len(level.mean) * level.width.shape[1] for level in self.levels)
        kept = ", ".join(f"{100 * share:.1f}" for share in self.kept)
        return f"{', '.join(channels)} channels in {bits:.2f} bits a number, which keep {kept} % of their variance"

    def summary(self) -> dict[str, Any]:
        """What it is, as JSON."""
        return {
            "channels of each map, before and after": [list(basis.shape) for _, basis in self.bases],
            "coefficients of a query by their bits": {str(w): len(places) for w, places in self._places.items()},
            "share of the variance that is kept": self.kept,
        }

    def write(self, file: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors = {"kept": torch.tensor(self.kept, dtype=torch.float64)}
        if self.pixels is not None:
            tensors["pixels"] = self.pixels.cpu().contiguous()
        for number, level in enumerate(self.levels):
            tensors |= {f"{name}.{number}": value.cpu().contiguous() for name, value in vars(level).items()}
        with replacing(file) as partial:
            save_file(tensors, partial)

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Read what `write` has written."""
        # Copies: who trains with them reads them in every step.
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        kept, names = tensors.pop("kept").tolist(), LevelCoding.__dataclass_fields__
        levels = [LevelCoding(**{name: tensors[f"{name}.{i}"] for name in names}) for i in range(len(kept))]
        return cls(levels, kept, tensors.get("pixels"))


@cache
def _cosines(points, device):
    """(points, points) orthonormal: the cosine transform of a square grid, row by row. Kept on each device."""
    side = math.isqrt(points)
    places = torch.arange(side, dtype=torch.float64)
    columns = F.normalize(torch.cos(math.pi / side * (places[:, None] + 0.5) * places), dim=0)
    return torch.kron(columns, columns).float().to(device)


class Moments:
    """
    What samples of each level are like, batch by batch: mean and covariance of the channels, and some of the samples.

    Args:
        batches (int): how many there will be.
    """

    def __init__(self, batches: int = 1) -> None:
        self.count = 0
        self.sums: list[torch.Tensor] = []
        self.products: list[torch.Tensor] = []
        self.shifts: list[torch.Tensor] = []
        self.pixels: torch.Tensor | None = None
        self._held: list[list[torch.Tensor]] = []
        self._of_a_batch = max(_HELD // batches, 1)

    def add(self, levels: Sequence[torch.Tensor], thumbnails: torch.Tensor | None = None) -> None:
        """Count samples, a (n, C_l, points) for each level, and thumbnails (n, 3, pixels)."""
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
        some = slice(None, None, -(-len(levels[0]) // self._of_a_batch))
        self._held.append([level[some].half().cpu() for level in levels])
        if thumbnails is not None:
            values = thumbnails.float().cpu().transpose(0, 1).flatten(1)
            seen = values if self.pixels is None else torch.cat([values, self.pixels.T], 1)
            self.pixels = torch.stack([seen.amin(1), seen.amax(1)])

    def components(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(mean (C_l,), orthonormal columns (C_l, C_l) of falling variance) of each level, float32.

        Raises:
            ValueError: nothing was added.
        """
        if not self.count:
            raise ValueError(
                "no query lies on an annotated box or region in the images that were looked at: there is nothing to "
                "fit the coding of --cache-query-bytes to"
            )
        found = []
        for shift, total, product in zip(self.shifts, self.sums, self.products):
            mean = total / self.count
            vectors = torch.linalg.eigh(product / self.count - torch.outer(mean, mean))[1]
            found.append((shift.cpu() + mean.float(), vectors.flip(1).float().contiguous()))
        return found

    def fit(self, size: int) -> SampleCoding:
        """The coding of samples into at most `size` bytes a query.

        Raises:
            ValueError: nothing was added.
        """
        levels = []
        for (mean, basis), parts in zip(self.components(), zip(*self._held)):
            held = torch.cat(parts)
            total, squares = torch.zeros(2, len(mean), held.shape[2], dtype=torch.float64)
            level = LevelCoding(mean, basis, total.float(), total.float(), total.to(torch.uint8))
            for part in held.split(256):
                found = level.coefficients(part).double()
                total += found.sum(0)
                squares += found.square().sum(0)
            level.offset = (total / len(held)).float()
            level.scale = (squares / len(held) - (total / len(held)).square()).clamp(min=0).sqrt().float()
            levels.append(level)
        shares = [level.scale.square() / level.scale.square().sum().clamp(min=1e-30) for level in levels]
        for share in shares:
            share[1:][-1:] = 0  # the least channel stays out, so that samples without their `bases` are recognised
        widths = allot([share.flatten() for share in shares], size)
        for level, width in zip(levels, widths):
            level.width = width.view(level.scale.shape)
            used = (level.width > 0).any(1)
            level.basis = level.basis[:, used].contiguous()
            level.offset, level.scale, level.width = (t[used] for t in (level.offset, level.scale, level.width))
            level.scale = level.scale.clamp(min=1e-6)
        coding = SampleCoding(levels, [], self.pixels)
        coding.kept = self._kept(coding)
        return coding

    def _kept(self, coding):
        """Share of each level's variance that a coding keeps of what is held."""
        errors, sums = ([0.0] * len(coding.levels) for _ in range(2))
        bare = SampleCoding(coding.levels, [])
        for parts in self._held:
            decoded = bare.decode(bare.encode(parts))
            for number, (level, part, found) in enumerate(zip(coding.levels, parts, decoded)):
                centred = part.float() - level.mean[:, None]
                errors[number] += (centred - level.basis @ found).square().sum().item()
                sums[number] += centred.square().sum().item()
        return [max(1 - error / max(total, 1e-30), 0.0) for error, total in zip(errors, sums)]


def allot(variances: Sequence[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Bits of each coefficient, so that their sum of errors is small: greedily, the step to a larger width that gains
    most for a bit first. The largest of each level has one bit at least.

    Args:
        variances: of the coefficients of each level, flat. size (int): bytes that they may take, at least one for each
            level.

    Returns:
        uint8 tensors of the same shapes.
    """
    flat = torch.cat(list(variances)).double()
    steps = list(zip((0, *WIDTHS), WIDTHS))
    gains = torch.cat([flat * (lost(before) - lost(after)) / (after - before) for before, after in steps])
    firsts, start = [], 0
    for part in variances:
        firsts.append(start + int(part.argmax()))
        start += len(part)
    gains[firsts] = torch.inf
    order = gains.argsort(descending=True, stable=True)
    order = order[gains[order] > 0]
    costs = torch.cat([torch.full((len(flat),), after - before) for before, after in steps])
    count = int((costs[order].cumsum(0) <= 8 * size).sum())
    while True:
        taken = order[:count]
        width = torch.zeros(len(flat), dtype=torch.int64).index_add_(0, taken % len(flat), costs[taken])
        if sum(packed_size(int((width == each).sum()), each) for each in WIDTHS) <= size:
            return list(width.to(torch.uint8).split([len(part) for part in variances]))
        count -= 1  # codes of one width begin with a byte


def bytes_within(query_bytes: int, other_bytes: float, levels: int) -> int:
    """How many bytes of samples a budget leaves.

    Args:
        query_bytes (int): that a query may take. other_bytes (float): that it takes without the samples of maps.
        levels (int): of maps.

    Raises:
        ValueError: not one for each level.
    """
    size = int(query_bytes - other_bytes)
    if size < levels:
        least = math.ceil(other_bytes) + levels
        raise ValueError(
            f"--cache-query-bytes {query_bytes}: state, thumbnail and region of a query take {other_bytes:.0f} bytes; "
            f"give at least {least}"
        )
    return size
