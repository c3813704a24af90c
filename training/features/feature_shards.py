"""Cached features on disk: numbered shards, and a manifest that says what they belong to.

    _features/
      manifest.json                        identity (detector, names, settings, data), layout, what a query takes;
                                           sizes of all shards once they are there
      coding.safetensors                   if samples are coded
      features-00003-of-00012.safetensors  the images of one range of the data set in one view

A shard has, for its m images with n supervised queries, the rows of all queries, `starts` (m + 1,) and `index` (m,),
their places in the data set. safetensors maps its files into memory: tensors are views of them, pages are shared by
all processes, and the system takes them back when it needs room. A shard is written whole or not at all, so that a
process may die at any moment. Processes share a folder, and each writes what it is given.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from decodetr.training.results.identity import differences
from decodetr.utils.documents import read_json
from decodetr.utils.files import LOCK, is_unused, replacing, write_json

logger = logging.getLogger(__name__)

MANIFEST, CODING, FORMAT_VERSION = "manifest.json", "coding.safetensors", 2
_EARLIER = "projection.safetensors"  # of version 1


class ShardFolder:
    """
    The shards of one cache.

    Args:
        folder (`str` or `Path`): need not exist.

    Attributes:
        manifest (dict): {} where there is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = {}
        self.read()

    def read(self) -> None:
        """Read the manifest."""
        try:
            found = read_json(self.folder / MANIFEST, dict)
        except FileNotFoundError:
            found = {}
        self.manifest = found if found.get("format_version") == FORMAT_VERSION else {}

    def begin(self, identity: dict[str, Any], own: bool) -> None:
        """Make the folder ready for a cache of this identity.

        Args:
            identity (dict): JSON. own (bool): the cache of other features that is there may be removed.

        Raises:
            ValueError: it has other features, which are not the run's own, or other files.
        """
        if not is_unused(self.folder) and not (self.folder / MANIFEST).is_file():
            raise ValueError(
                f"--cache-folder {self.folder}: expected cached features or an empty folder, got other files; give "
                "another --cache-folder"
            )
        if (self.folder / MANIFEST).is_file():
            if not own:
                lines = differences(self.manifest["identity"], identity) if self.manifest else []
                raise ValueError(
                    f"--cache-folder {self.folder} has features of another model, other data or other settings:\n"
                    + "\n".join(lines or ["  they are of another version of this program"])
                    + "\nGive another --cache-folder, or remove this one."
                )
            self.clear()

    def clear(self) -> None:
        """Remove the cache, the manifest last: what is left of a killed removal is still known for a cache."""
        for pattern in ("features-*.safetensors", _EARLIER, CODING, MANIFEST):
            for file in self.folder.glob(pattern):
                file.unlink()
        self.manifest = {}

    def remove(self) -> None:
        """Remove the cache, and the folder if nothing else is in it."""
        self.clear()
        if self.folder.is_dir() and all(file.name.startswith(LOCK) for file in self.folder.iterdir()):
            shutil.rmtree(self.folder)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Write the manifest."""
        self.manifest = {"format_version": FORMAT_VERSION, **manifest}
        write_json(self.folder / MANIFEST, self.manifest)

    @property
    def finished(self) -> bool:
        """Whether all shards are there, as large as they were written."""
        shards: list[dict[str, int]] = self.manifest.get("shards", [])
        return bool(shards) and all(
            self.file(k).is_file() and self.file(k).stat().st_size == shard["bytes"] for k, shard in enumerate(shards)
        )

    @property
    def count(self) -> int:
        """How many shards there will be."""
        return self.manifest["views"] * self._of_a_view()

    def _of_a_view(self):
        return -(-self.manifest["images"] // self.manifest["shard_images"])

    def file(self, shard: int) -> Path:
        """Path of a shard."""
        return self.folder / f"features-{shard:05d}-of-{self.count:05d}.safetensors"

    def images(self, shard: int, view: int) -> range:
        """Images of a view that a shard has: none, if it is of another view."""
        of_view, part = divmod(shard, self._of_a_view())
        size = self.manifest["shard_images"] if of_view == view else 0
        return range(part * size, min((part + 1) * size, self.manifest["images"]))

    def pending(self) -> list[int]:
        """Numbers of the shards that are not there, ascending. Damaged ones are named in a warning."""
        return [shard for shard in range(self.count) if self._size(shard) is None]

    def finish(self) -> None:
        """Write the sizes of all shards into the manifest.

        Raises:
            OSError: a shard is missing: the processes do not see the same disk.
        """
        shards = [self._size(shard) for shard in range(self.count)]
        if missing := [self.file(shard).name for shard, size in enumerate(shards) if size is None]:
            raise OSError(
                f"{self.folder}: {missing[0]} and {len(missing) - 1} more shards are missing, which other processes "
                "wrote: give --cache-folder on a disk that all of them see"
            )
        self.write_manifest({**self.manifest, "shards": shards})

    def _size(self, shard):
        """{"items", "queries", "bytes"} of a shard, None if it is not there."""
        file = self.file(shard)
        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt") as tensors:
                items = tensors.get_slice("index").get_shape()[0]
                queries = tensors.get_slice("name_index").get_shape()[0]
        except SafetensorError as error:
            logger.warning("%s is cut off or changed (%s); it is made again", file, error)
            return None
        return {"items": items, "queries": queries, "bytes": file.stat().st_size}

    def write(self, shard: int, items: Sequence[dict[str, Any]], places: Sequence[int]) -> None:
        """Finish a shard.

        Args:
            items (list of dict): as of `FeatureCache`. places (list of int): their images in the data set.
        """
        with replacing(self.file(shard)) as partial:
            save_file(_packed(items, places), partial)

    def open(self, shard: int) -> dict[str, torch.Tensor]:
        """The tensors of a shard, mapped into memory.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return load_file(self.file(shard))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.file(shard)}: expected a whole shard of cached features, got {type(error).__name__}: {error}; "
                "start the same command again: the shard will be made again"
            ) from error


def _packed(items, places):
    """The tensors of a shard."""
    tensors = {"index": torch.tensor(places, dtype=torch.int64), "starts": _starts(items, "name_index")}
    if not items:
        return tensors | {"name_index": torch.zeros(0, dtype=torch.int64)}
    for name in ("queries", "name_index", "region_embeds"):
        tensors[name] = torch.cat([item[name] for item in items])
    for level, parts in enumerate(zip(*(item["samples"] for item in items))):
        tensors[f"samples.{level}"] = torch.cat(parts)
    texts = torch.cat([item["region_text_embeds"] for item in items])
    tensors |= {"texts": texts, "text_starts": _starts(items, "region_text_embeds")}
    known = [item["absent"] for item in items if "absent" in item]
    if known:
        tensors["absent"] = torch.cat(known)
        tensors["absent_starts"] = _starts(items, "absent")
    return {name: _halved(tensor) for name, tensor in tensors.items()}


def _starts(items, name):
    """(m + 1,): where the rows of each item begin."""
    counts = [len(item.get(name, ())) for item in items]
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def _halved(tensor):
    """The same in float16 where that loses nothing, as of regions that were stored in it."""
    if tensor.dtype == torch.float32:
        half = tensor.half()
        return half if torch.equal(half.float(), tensor) else tensor
    return tensor


def unpacked(tensors: dict[str, torch.Tensor], place: int) -> dict[str, Any]:
    """One image of a shard: views of its tensors, as of `FeatureCache`."""
    start, end = tensors["starts"][place : place + 2].tolist()
    item: dict[str, Any] = {name: tensors[name][start:end] for name in ("queries", "name_index", "region_embeds")}
    levels = sum(name.startswith("samples.") for name in tensors)
    item["samples"] = [tensors[f"samples.{level}"][start:end] for level in range(levels)]
    item["image"] = torch.zeros_like(item["name_index"])
    first, last = tensors["text_starts"][place : place + 2].tolist()
    item["region_text_embeds"] = tensors["texts"][first:last]
    if "absent" in tensors:
        first, last = tensors["absent_starts"][place : place + 2].tolist()
        if last > first:
            item["absent"] = tensors["absent"][first:last]
    return item
