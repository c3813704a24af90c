"""Exported models as contestants: in their own runtime, without torch in a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from decodetr.runtime import ExportedDetector
from decodetr.runtime.providers import providers_of
from decodetr.speed.contestants import TOP_K, Contestant, random_names, title_of

if TYPE_CHECKING:
    from typing import Any

    import PIL.Image


class Exported(Contestant):
    """A folder that `decodetr export` wrote. It is compiled as it is, so there is one way to run it.

    Args:
        folder: of it. device: of `--device`.
        image_size: side of its pictures, which must be its own. None: its own.

    Raises:
        FileNotFoundError, ImportError, ValueError: as of [`ExportedDetector`].
    """

    ways = ("eager",)
    counts_flops = False

    def __init__(self, folder: str, device: str, image_size: int | None = None) -> None:
        self.detector = ExportedDetector(
            folder, threads=torch.get_num_threads(), providers=providers_of(folder, device)
        )
        own = self.detector.description
        self.title, self.kind, self.over, self.published = f"{title_of(folder)}, {own.runtime}", "ours", None, None
        self.queries, self.device, self.texts = own.queries, torch.device("cpu"), [{}]
        side = self.detector.preprocess.target_size(image_size or 640, image_size or 640)
        if image_size is not None and side != (image_size, image_size):
            raise ValueError(
                f"--image-size {image_size}: {folder} makes pictures of {side[0]} x {side[1]}; leave the option out, "
                "or export the model with this size"
            )

    def parameters(self) -> int:
        """Not known: a graph has folded and cut some of them."""
        return 0

    def set_names(self, count: int, batch_size: int) -> None:
        """Swap the names of a graph that reads them.

        Raises:
            ValueError: the graph has other names, or another batch size, baked in.
        """
        own = self.detector.description
        if own.batch_size not in (None, batch_size):
            raise ValueError(f"the graph takes batches of {own.batch_size}; export it with a dynamic one")
        if own.names_input:
            vocabulary = random_names(count, own.embedding_dim)
            self.detector.set_embeddings(vocabulary.names, vocabulary.embeddings.numpy())
        elif len(own.names) != count:
            raise ValueError(
                f"its {len(own.names)} names are baked into the graph; `decodetr export --names-input` makes one that "
                "takes any"
            )

    def prepare(self, pictures: Sequence[PIL.Image.Image]) -> dict[str, Any]:
        """`pixel_values` (B, 3, H, W), an array."""
        return {"pixel_values": np.stack([self.detector.preprocess(picture) for picture in pictures])}

    def forward(self, batch: dict[str, Any]) -> list[Any]:
        """The graph alone."""
        return [self.detector.session.run({**batch, **self.detector.name_inputs()})]

    def detect(self, pictures: Sequence[PIL.Image.Image]) -> list[dict[str, list]]:
        """As `decodetr predict` does it. "labels" are names."""
        found = self.detector.detect(pictures, top_k=min(TOP_K, self.detector.description.top_k or TOP_K))
        return [{"scores": one["scores"], "labels": one["names"], "boxes": one["boxes"]} for one in found]
