"""Means of the loss terms between two logs."""

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch


class LossTerms:
    """Sums the terms of each batch where they are computed, so that no step waits for numbers on the CPU."""

    def __init__(self) -> None:
        self._sums, self._counts = defaultdict(float), defaultdict(int)

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add a batch: {term: scalar}."""
        for name, term in terms.items():
            self._sums[name] += term.detach().float()
            self._counts[name] += 1

    def clear(self) -> None:
        """Forget all batches."""
        self._sums.clear()
        self._counts.clear()

    def means(self, gather: Callable[[list], list] = list) -> dict[str, float]:
        """
        Means over the batches of all processes, each over those that have the term: RT-DETR's family gives no
        denoising terms for a batch without boxes, so that processes may have different ones.

        Args:
            gather: joins a list over processes (accelerate's gather_object).

        Returns:
            dict: {term: mean}, sorted by term.
        """
        own = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        sums, counts = defaultdict(float), defaultdict(int)
        for name, value, count in gather([*zip(self._sums, own, self._counts.values())]):
            sums[name] += value
            counts[name] += count
        return {name: sums[name] / counts[name] for name in sorted(sums)}
