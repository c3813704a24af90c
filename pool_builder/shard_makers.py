"""What makes the rows of one shard of a heavy stage: regions of pictures, captions and embeddings of their crops,
embeddings of texts (paper 1.1 to 1.3).

A maker holds all that its shards need, and can be pickled: whichever process makes a shard, on whichever machine, the
rows are the same. Nothing that a model computes crosses a group of `batch_size` images.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm.auto import tqdm

from decodetr.annotations.coco import CocoAnnotations, read_annotated
from decodetr.inference.background import read_ahead
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.lazy_model import Model
from decodetr.pool_builder.proposals import annotated_boxes, propose_in
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import StageFolder
from decodetr.processing.embedding_columns import embedding_array
from decodetr.utils.excerpts import first_line
from decodetr.utils.images import in_batches

TEXTS_PER_SHARD = 16384  # a multiple of the batch of encode_texts: shards do not change a batch


class Shard(NamedTuple):
    """Rows (pyarrow.Table), counts (dict of int) and problems (list of dict) of a shard: see [`StageFolder.write`]."""

    table: pa.Table
    counts: dict[str, int]
    problems: Iterable[dict[str, Any]] = ()


class ShardMaker(Protocol):
    """Makes the shards of a stage, one a call.

    Attributes: `model`, [`Model`] or None, which is loaded at the first call.
    """

    @property
    def model(self) -> Model | None: ...

    def __call__(self, shard: int, title: str | None = None) -> Shard:
        """Make a shard.

        Args:
            shard (int): its number. title (str, optional): of the progress bar. Default: no bar.
        """

    def content(self, shard: int) -> str:
        """What a shard is made of, for messages: "images a.jpg to b.jpg"."""


class _OfModel:
    """A maker whose model is loaded with its first shard, and goes with it."""

    model: Model | None

    @cached_property
    def teacher(self) -> Any:
        return self.model.load() if self.model else None


@dataclass(frozen=True)
class RegionMaker(_OfModel):
    """Regions of a shard's images.

    Args:
        coco (CocoAnnotations). settings (PoolSettings). model ([`Model`], optional): as of [`propose_regions`].
    """

    coco: CocoAnnotations
    settings: PoolSettings
    model: Model | None

    def __call__(self, shard: int, title: str | None = None) -> Shard:
        """See [`ShardMaker`]."""
        entries = self._entries(shard)
        problems: list[dict[str, Any]] = []
        counts = {"images": len(entries), "annotated": 0, "unusable_boxes": 0}
        features = {"image_id": "int64", "file_name": "string", "box": ("float32", 4), "proposal_score": "float32"}
        features["name"] = "string"

        def propose(batch):
            chosen = entries[batch["first"][0] : batch["first"][0] + self.settings.batch_size]
            rows = self._propose(chosen, counts, problems)
            return {name: [row[name] for row in rows] for name in features}

        firsts = range(0, len(entries), self.settings.batch_size)
        table = _map(title, firsts, propose, features, len(entries), "image")
        return Shard(table, {**counts, "proposed": table.num_rows - counts["annotated"]}, problems)

    def content(self, shard: int) -> str:
        """See [`ShardMaker`]."""
        return _images([entry["file_name"] for entry in self._entries(shard)])

    def _entries(self, shard):
        size = self.settings.shard_groups * self.settings.batch_size
        return self.coco.images[shard * size : (shard + 1) * size]

    def _propose(self, entries, counts, problems):
        """Rows of a group of images. What was counted and could not be used is added to `counts` and `problems`."""
        read, rows = [], []
        for some in in_batches(entries, self.settings.batch_size, lambda entry: entry["width"] * entry["height"]):
            group, pictures = [], []
            for entry in some:
                try:
                    pictures.append(read_annotated(entry))
                    group.append(entry)
                except (OSError, ValueError) as error:
                    problems.append(_problem(entry, error))
            found = propose_in(self.coco, group, pictures, self.teacher, self.settings)
            rows += [row for rows_of_image in found for row in rows_of_image]
            read += group
        for entry in read:
            usable = len(annotated_boxes(self.coco, entry)[1])
            objects = len(self.coco.annotations_by_image.arrays(entry["image_id"], crowds=False)["id"])
            counts["annotated"] += usable
            counts["unusable_boxes"] += objects - usable
        return rows


class _OfRegions(_OfModel):
    """A maker of columns for the regions of an earlier stage."""

    images: Sequence[dict[str, Any]]
    before: StageFolder

    @cached_property
    def positions(self) -> dict[int, int]:
        """{image id: its place in `images`}."""
        return {entry["image_id"]: i for i, entry in enumerate(self.images)}

    def content(self, shard: int) -> str:
        """See [`ShardMaker`]."""
        return _images(self.before.read(shard, ["file_name"])["file_name"].to_pylist())


@dataclass(frozen=True)
class CaptionMaker(_OfRegions):
    """What the captioner says about every region of a shard.

    Args:
        images (sequence of dict): `CocoAnnotations.images`. before (StageFolder): the regions.
        settings (PoolSettings). model ([`Model`]): of a `Captioner`.
    """

    images: Sequence[dict[str, Any]]
    before: StageFolder
    settings: PoolSettings
    model: Model

    def __call__(self, shard: int, title: str | None = None) -> Shard:
        """See [`ShardMaker`]."""
        model, cut = self.teacher, []

        def caption(crops, prepared):
            captions, whole = model.describe(crops, prepared)
            cut.extend(not finished for finished in whole)
            return {"caption": captions}

        table = _map_crops(self, shard, title, model, caption, {"caption": "string"})
        empty = sum(not text for text in table["caption"].to_pylist())
        return Shard(table, {"empty": empty, "cut": sum(cut)})


@dataclass(frozen=True)
class EmbeddingMaker(_OfRegions):
    """CLIP's embeddings of the crops of a shard, float16. Arguments as of [`CaptionMaker`]; the model is of a
    `ClipEmbedder`."""

    images: Sequence[dict[str, Any]]
    before: StageFolder
    settings: PoolSettings
    model: Model

    def __call__(self, shard: int, title: str | None = None) -> Shard:
        """See [`ShardMaker`]."""
        model, not_finite = self.teacher, []

        def embed(crops, prepared):
            embeddings = model.embed_images(crops, prepared)
            not_finite.extend(row for row in embeddings if not np.isfinite(row).all())
            return {"image_embed": embeddings.astype(np.float16)}

        features = {"image_embed": ("float16", model.dim)}
        table = _map_crops(self, shard, title, model, embed, features)
        return Shard(table, {"not_finite": len(not_finite)})


@dataclass(frozen=True)
class TextMaker(_OfModel):
    """CLIP's embeddings of texts, with further columns of theirs.

    Args:
        captions (pyarrow.Array of strings): of all shards; as an array, processes of a machine share its memory.
        model ([`Model`]): of a `ClipEmbedder`. columns (dict of lists): as long as `captions`.
    """

    captions: pa.Array
    model: Model
    columns: dict[str, list] = field(default_factory=dict)

    def __call__(self, shard: int, title: str | None = None) -> Shard:
        """See [`ShardMaker`]."""
        rows = slice(shard * TEXTS_PER_SHARD, (shard + 1) * TEXTS_PER_SHARD)
        model, captions = self.teacher, self.captions[rows].to_pylist()
        embeddings = model.embed_texts(captions, progress=title is not None)
        counts = {
            "truncated": model.count_truncated(captions),
            "not_finite": int((~np.isfinite(embeddings)).any(1).sum()),
        }
        more = {name: values[rows] for name, values in self.columns.items()}
        embeds = embedding_array(embeddings.astype(np.float16))
        return Shard(pa.table({"caption": captions, **more, "text_embed": embeds}), counts)

    def content(self, shard: int) -> str:
        """See [`ShardMaker`]."""
        return f"captions from {self.captions[shard * TEXTS_PER_SHARD].as_py()!r} on"


def _images(names):
    return f"images {names[0]} to {names[-1]}" if names else "no images"


def _map_crops(maker, shard, title, model, describe, features):
    """The regions of a shard with the columns that `describe(crops, prepared)` gives for batches of crops:
    pyarrow.Table.

    Args:
        model: has `size` of the crops and `prepare(crops)`, which runs ahead in a thread.
    """
    regions, batch_size = maker.before.read(shard), maker.settings.batch_size
    ids = regions["image_id"].to_pylist()
    groups = _spans([maker.positions[image_id] // batch_size for image_id in ids])
    entries = [maker.images[maker.positions[image_id]] for image_id in ids]

    def batches():
        for start, end in groups:
            boxes = regions["box"][start:end].to_pylist()
            crops = list(_crops(entries[start:end], boxes, model.size, maker.settings.context))
            # Crops of like size side by side: less padding where a model takes them as they are.
            order = sorted(range(len(crops)), key=lambda i: crops[i].size)
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
                some = [crops[row] for row in rows]
                yield rows, some, model.prepare(some)

    with contextlib.closing(read_ahead(batches(), 2)) as ahead:

        def make(batch):
            start, end = groups[batch["first"][0]]
            made = {name: [None] * (end - start) for name in features}
            for _ in range(0, end - start, batch_size):
                rows, crops, prepared = next(ahead)
                for name, values in describe(crops, prepared).items():
                    for row, value in zip(rows, values):
                        made[name][row] = value
            return made

        table = _map(title, range(len(groups)), make, features, len(ids), "region")
    for name in table.column_names:
        regions = regions.append_column(name, table[name])
    return regions


def _crops(entries, boxes, size, context) -> Iterator[Image.Image]:
    """The crop of each region. Rows come image by image, and each image is read once."""
    shown, picture = None, None
    for entry, box in zip(entries, boxes):
        if picture is None or entry["image_id"] != shown:
            shown, picture = entry["image_id"], read_annotated(entry)
        yield crop_region(picture, box, size, context)


def _spans(groups):
    """[(first row, end)] of the runs of equal values in `groups`."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    return [span for span in zip(edges, edges[1:]) if span[0] < span[1]]


def _problem(entry, error):
    return {"image_id": entry["image_id"], "file_name": entry["file_name"], "problem": first_line(error)}


def _map(title, firsts, make: Callable[[dict], dict], features, total, unit) -> pa.Table:
    """The rows that `make` gives for each entry of `firsts`, by `datasets`: pyarrow.Table.

    Args:
        title (str or None): of the progress bar.
        total (int), unit (str): what it counts. A call of `make` stands for its share of them.
    """
    import datasets

    columns = {}
    for name, kind in features.items():
        kind, length = kind if isinstance(kind, tuple) else (kind, None)
        columns[name] = datasets.Value(kind)
        if length:
            columns[name] = datasets.List(columns[name], length=length)
    columns = datasets.Features(columns)
    if not len(firsts):  # `map` leaves an empty data set as it is, without the new columns
        return columns.arrow_schema.empty_table().replace_schema_metadata(None)
    done = itertools.count(1)
    with tqdm(total=total, desc=title, unit=unit, disable=title is None) as bar, _without_bars():

        def counted(batch):
            rows = make(batch)
            bar.update(total * next(done) // len(firsts) - bar.n)
            return rows

        made = datasets.Dataset.from_dict({"first": list(firsts)}).map(
            counted,
            batched=True,
            batch_size=1,
            remove_columns=["first"],
            features=columns,
            new_fingerprint="0",  # nothing is looked up by it: `counted` cannot be hashed, and need not
            load_from_cache_file=False,
            keep_in_memory=True,
        )
    return made.data.table.replace_schema_metadata(None).combine_chunks()


@contextlib.contextmanager
def _without_bars():
    """Inside, `datasets` shows no progress bars, which would count groups of images as examples."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()
