"""Numbers in 1, 2, 4 or 8 bits, packed into bytes.

Each width has the values that lose least of a Laplace distribution of mean 0 and variance 1 (Lloyd and Max): a value
is the mean of the numbers that are closest to it. A byte is unpacked by a table of what each of the 256 stands for.
"""

from functools import cache

import torch
from torch.nn import functional as F

WIDTHS = (1, 2, 4, 8)  # in bits
_PLACES, _ROUNDS = 2**17, 200


@cache
def values(width: int) -> torch.Tensor:
    """(2^width,) float32, ascending: what the codes of a width stand for."""
    chances = (torch.arange(_PLACES, dtype=torch.float64) + 0.5) / _PLACES
    numbers = _quantiles(chances)
    sums = F.pad(numbers.cumsum(0), (1, 0))
    # Near the best at once: with many values their density is the cube root of that of the numbers (Panter and Dite).
    found = 3 * _quantiles((torch.arange(2**width, dtype=torch.float64) + 0.5) / 2**width)
    for _ in range(_ROUNDS):
        inner = torch.searchsorted(numbers, (found[1:] + found[:-1]) / 2)
        ends = torch.cat([inner.new_zeros(1), inner, inner.new_tensor([_PLACES])])
        counts = ends.diff()
        found = torch.where(counts > 0, sums[ends].diff() / counts.clamp(min=1), found)
    return found.float()


def _quantiles(chances):
    """Of a Laplace distribution of mean 0 and variance 1."""
    centred = chances - 0.5
    return -centred.sign() * torch.log1p(-2 * centred.abs()) / 2**0.5


@cache
def lost(width: int) -> float:
    """Share of the variance that a width loses, of numbers that are distributed so. All of it with no bit."""
    if not width:
        return 1.0
    numbers = _quantiles((torch.arange(_PLACES, dtype=torch.float64) + 0.5) / _PLACES)
    nearest = values(width).double()[codes_of(numbers, width).long()]
    return ((numbers - nearest).square().sum() / numbers.square().sum()).item()


def codes_of(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """The uint8 codes of the values that are closest to numbers of variance 1."""
    levels = values(width).to(numbers)
    return torch.bucketize(numbers.contiguous(), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)


def packed_size(count: int, width: int) -> int:
    """Bytes of so many codes."""
    return -(-count * width // 8)


def pack(codes: torch.Tensor, width: int) -> torch.Tensor:
    """(n, bytes) uint8 of codes (n, count): the first one of a byte in its lowest bits."""
    parts = 8 // width
    codes = F.pad(codes, (0, -codes.shape[1] % parts)).unflatten(1, (-1, parts))
    return (codes << _shifts(width).to(codes.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """(n, count) float32: what the codes of (n, bytes) stand for."""
    return F.embedding(packed.int(), _table(width, packed.device)).flatten(1)[:, :count]


@cache
def _table(width, device):
    """(256, 8 / width): what the codes of each byte stand for. Kept on each device."""
    codes = (torch.arange(256)[:, None] >> _shifts(width)) % 2**width
    return values(width)[codes].to(device)


def _shifts(width):
    return torch.arange(0, 8, width, dtype=torch.uint8)
