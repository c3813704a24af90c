"""Cached features of which a step reads a part."""

from pathlib import Path
from typing import Any

import torch

from decodetr.training.features.feature_cache import FeatureCache


class SomeQueries(FeatureCache):
    """Cached features of which a step reads a few queries an image, others each time: most queries of a small picture
    lie on the same objects.

    Args:
        folder: of a finished cache. most: queries an image.
    """

    def __init__(self, folder: str | Path, most: int) -> None:
        super().__init__(folder)
        self.most = most

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        rows = torch.randperm(len(item["queries"]))[: self.most]
        chosen: dict[str, Any] = {
            name: item[name][rows] for name in ("queries", "name_index", "region_embeds", "image") if name in item
        }
        return {**item, **chosen, "samples": [part[rows] for part in item["samples"]]}
