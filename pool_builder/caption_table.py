"""The distinct captions of a pool with their counts and embeddings, gathered from shards without holding their rows.

Texts are in Arrow, in alphabetical order, so that nothing depends on the number or the size of shards. Embeddings
are in a file, a row for each text, in the precision of the shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from decodetr.pool_builder.embedding_file import EmbeddingFile
from decodetr.pool_builder.shards import StageFolder
from decodetr.processing.embedding_columns import embedding_array, embedding_rows

_WAITING = 1_000_000  # rows of shards that are counted together
_BLOCK = 65_536  # captions that are written together


@dataclass(frozen=True)
class CaptionTable:
    """
    Distinct captions.

    Args:
        captions (pyarrow.LargeStringArray): n texts in alphabetical order. counts (n,) int64: regions of each, and
            images where captions of images joined. embeddings (EmbeddingFile, (n, d)).
    """

    captions: pa.LargeStringArray
    counts: np.ndarray
    embeddings: EmbeddingFile

    @classmethod
    def gather(cls, regions: StageFolder, joined: StageFolder | None, scratch: Path) -> "CaptionTable":
        """The captions of kept regions, and those of images that have an embedding. What is of both counts for both.

        Args:
            regions, joined: finished stages `regions` and `image_texts`; None where images have no captions.
            scratch (Path): folder of the file of embeddings, which is gone with the table.

        Raises:
            OSError: the disk has no room for it.
        """
        found, waiting, place = _EMPTY, [], 0
        for texts, counts, _ in _usable(regions, joined, with_embeds=False):
            places = pa.array(np.arange(place, place + len(texts)))
            waiting.append(_counted([pa.table({"caption": texts, "count": counts, "place": places})]))
            place += len(texts)
            if sum(map(len, waiting)) > max(_WAITING, len(found)):  # so a text is counted a few times at most
                found, waiting = _counted([found, *waiting]), []
        found = _counted([found, *waiting]).sort_by("caption")
        captions, counts = found["caption"].combine_chunks(), found["count"].to_numpy()
        places = found["place"].to_numpy()
        del found
        order, embeddings, start = np.argsort(places), None, 0
        places = places[order]
        for texts, _, embeds in _usable(regions, joined, with_embeds=True):
            if embeddings is None:
                embeddings = EmbeddingFile.scratch(scratch, (len(captions), embeds.shape[1]), embeds.dtype)
            first, last = np.searchsorted(places, [start, start + len(texts)])
            embeddings.put(order[first:last], embeds[places[first:last] - start])
            start += len(texts)
        assert embeddings is not None  # a stage has a shard
        return cls(captions, counts, embeddings)

    @classmethod
    def read(cls, folder: StageFolder, scratch: Path) -> "CaptionTable":
        """The table of a finished stage `clusters`, see `blocks`."""
        table = folder.read(0, ["caption", "count"])
        embeddings, start = None, 0
        for block in folder.read_blocks(0, ["text_embed"]):
            rows = embedding_rows(block["text_embed"])
            if embeddings is None:
                embeddings = EmbeddingFile.scratch(scratch, (len(table), rows.shape[1]), rows.dtype)
            embeddings.put(slice(start, start + len(rows)), rows)
            start += len(rows)
        assert embeddings is not None
        return cls(_large(table["caption"]), table["count"].to_numpy(), embeddings)

    def blocks(self, coarse: np.ndarray, fine: np.ndarray, eps: float | None) -> Iterator[pa.Table]:
        """The rows of the stage `clusters`, some at a time: caption, count, coarse and fine cluster, embedding.

        Args:
            coarse (n,), fine (n,): labels. eps: of DBSCAN, which stands in the metadata.
        """
        for start in range(0, len(self.captions), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(self.captions)))
            columns = {"caption": self.captions[rows].cast(pa.string()), "count": self.counts[rows]}
            columns |= {"coarse": coarse[rows], "fine": fine[rows]}
            columns["text_embed"] = embedding_array(self.embeddings.stored(rows))
            yield pa.table(columns).replace_schema_metadata({"eps": str(eps)})


@dataclass(frozen=True)
class TextTable:
    """
    The texts that were embedded, as the stage `texts` has them.

    Args:
        captions (pyarrow.LargeStringArray): n distinct texts. embeddings (EmbeddingFile, (n, d)).
    """

    captions: pa.LargeStringArray
    embeddings: EmbeddingFile

    @classmethod
    def read(cls, folder: StageFolder, scratch: Path) -> "TextTable":
        """Of a finished stage. See [`CaptionTable.gather`]."""
        captions, embeddings, start = [], None, 0
        for shard in range(folder.count):
            table = folder.read(shard, ["caption", "text_embed"])
            rows = embedding_rows(table["text_embed"])
            if embeddings is None:
                shape = (folder.totals["rows"], rows.shape[1])
                embeddings = EmbeddingFile.scratch(scratch, shape, rows.dtype)
            embeddings.put(slice(start, start + len(rows)), rows)
            captions.append(_large(table["caption"]))
            start += len(rows)
        assert embeddings is not None
        return cls(pa.concat_arrays(captions), embeddings)

    def rows(self, captions: pa.LargeStringArray) -> np.ndarray:
        """(m,) int64 number of each text, -1 where it is not there."""
        return pc.index_in(captions, value_set=self.captions).fill_null(-1).to_numpy().astype(np.int64)

    def rows_of(self, regions: StageFolder) -> np.ndarray:
        """(R,) number of each region's caption."""
        waiting, found, shards = [], [], range(regions.count)
        for shard in shards:
            waiting.append(_large(regions.read(shard, ["caption"])["caption"]))
            if sum(map(len, waiting)) > _WAITING or shard == shards[-1]:  # a look-up begins with a table of texts
                found.append(self.rows(pa.concat_arrays(waiting)))
                waiting = []
        return np.concatenate(found)


def embeddings_of(texts: StageFolder, captions: list[str]) -> np.ndarray:
    """(m, d) float32 embeddings of some texts of a finished stage `texts`, as they are there.

    Raises:
        KeyError: it lacks one of them.
    """
    found = {}
    for shard in range(texts.count):
        table = texts.read(shard, ["caption", "text_embed"])
        rows = np.flatnonzero(pc.is_in(table["caption"], value_set=pa.array(captions)).to_numpy())
        embeds = embedding_rows(table["text_embed"])[rows]
        found.update(zip(table["caption"].take(rows).to_pylist(), embeds))
    return np.stack([found[caption] for caption in captions]).astype(np.float32)


_EMPTY = pa.table({"caption": pa.array([], pa.large_string()), "count": np.zeros(0, int), "place": np.zeros(0, int)})


def _counted(tables):
    """Distinct captions with the sum of their counts and the first of their places."""
    found = pa.concat_tables(tables).group_by("caption").aggregate([("count", "sum"), ("place", "min")])
    return found.rename_columns({"count_sum": "count", "place_min": "place"}).select(["caption", "count", "place"])


def _usable(regions, joined, with_embeds):
    """(captions, counts (m,), embeddings (m, d) or None) of each shard: of kept regions, and of images."""
    columns = ["caption", "kept", *(["text_embed"] if with_embeds else [])]
    for shard in range(regions.count):
        table = regions.read(shard, columns)
        kept = table["kept"].to_numpy()
        embeds = embedding_rows(table["text_embed"])[kept] if with_embeds else None
        yield _large(table["caption"]).filter(pa.array(kept)), np.ones(kept.sum(), dtype=np.int64), embeds
    for shard in range(joined.count if joined is not None else 0):
        table = joined.read(shard, ["caption", "count", "text_embed"])
        embeds = embedding_rows(table["text_embed"])
        lengths = np.linalg.norm(embeds.astype(np.float32), axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        counts = table["count"].to_numpy()[usable]
        yield _large(table["caption"]).filter(pa.array(usable)), counts, embeds[usable] if with_embeds else None


def _large(column):
    """A column of texts as one array. Offsets of 64 bits, as all texts together may have more than 2 GB."""
    return column.cast(pa.large_string()).combine_chunks()
