"""Captions that do not fit into memory: gathered from shards, clustered from a file, the same whatever the shards."""

import io

import numpy as np
import pyarrow as pa
import pytest

from decodetr.pool_builder import caption_table, clusters, density_tree
from decodetr.pool_builder.caption_table import CaptionTable
from decodetr.pool_builder.clusters import coarse_clusters, fine_clusters
from decodetr.pool_builder.embedding_file import Chosen, EmbeddingFile, unit_rows
from decodetr.pool_builder.selection import cluster, pool_of_clusters
from decodetr.pool_builder.settings import PoolSettings
from decodetr.pool_builder.shards import StageFolder
from decodetr.processing.embedding_columns import embedding_array
from decodetr.utils import preflight

DIM = 12


def _rows(n=2000, texts=700):
    """Captions, which regions are kept, and the embedding of each caption, float16 and not of unit length."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(9, DIM))
    vectors = centres[rng.integers(0, 9, texts)] + 0.4 * rng.normal(size=(texts, DIM))
    said = rng.integers(0, texts, n)
    names = [f"{'äaé zZ'[number % 6]} {number}" for number in range(texts)]
    return [names[number] for number in said], rng.random(n) < 0.8, vectors.astype(np.float16)[said]


def _write(folder, shards, said, kept, embeds):
    stage = StageFolder(folder, "regions", {}, shards)
    for shard, rows in enumerate(np.array_split(np.arange(len(said)), shards)):
        columns = {"caption": [said[row] for row in rows], "kept": kept[rows]}
        stage.write(shard, pa.table({**columns, "text_embed": embedding_array(embeds[rows])}))
    return stage


@pytest.fixture
def small_limits(monkeypatch):
    """What is for millions of captions happens with hundreds."""
    monkeypatch.setattr(caption_table, "_WAITING", 100)
    monkeypatch.setattr(caption_table, "_BLOCK", 64)
    monkeypatch.setattr(clusters, "EXACT", 0)
    monkeypatch.setattr(clusters, "LARGEST", 60)
    monkeypatch.setattr(clusters, "_ROWS", 100)
    monkeypatch.setattr(clusters, "_MIXED", 4)
    monkeypatch.setattr(clusters, "_SEEN", 1500)
    monkeypatch.setattr(density_tree, "EXACT", 0)
    monkeypatch.setattr(density_tree, "_MATRIX", 30)


def test_the_pool_is_the_same_whatever_the_shards(tmp_path, small_limits):
    said, kept, embeds = _rows()
    settings, pools, clustered = PoolSettings(num_coarse=7, num_fine=40), [], []
    for shards in (1, 3, 11):
        table = CaptionTable.gather(_write(tmp_path / f"{shards}", shards, said, kept, embeds), None, tmp_path)
        coarse, fine, eps = cluster(table.embeddings, table.counts, settings)
        pool = pool_of_clusters(table.embeddings, table.captions, table.counts, coarse, fine, {"eps": eps})
        pool.save_pretrained(tmp_path / f"pool-{shards}")
        pools.append([file.read_bytes() for file in sorted((tmp_path / f"pool-{shards}").iterdir())])
        stage = StageFolder(tmp_path / f"clusters-{shards}", "clusters", {}, 1)
        stage.write_blocks(0, table.blocks(coarse, fine, eps), {})
        clustered.append(stage.file(0).read_bytes())
        assert stage.finish()["rows"] == len(table.captions)
        again = CaptionTable.read(stage, tmp_path)
        assert again.captions.equals(table.captions) and np.array_equal(again.counts, table.counts)
        assert np.array_equal(again.embeddings[:], table.embeddings[:])
    assert pools[0] == pools[1] == pools[2] and clustered[0] == clustered[1] == clustered[2]
    assert coarse.max() == 6 and fine.max() == 39


def test_texts_counts_and_embeddings_are_those_of_kept_regions(tmp_path, small_limits):
    said, kept, embeds = _rows()
    expected, first = {}, {}
    for text, good, embed in zip(said, kept, embeds):
        if good:
            expected[text] = expected.get(text, 0) + 1
            first.setdefault(text, embed)
    table = CaptionTable.gather(_write(tmp_path / "regions", 4, said, kept, embeds), None, tmp_path)
    assert table.captions.to_pylist() == sorted(expected)
    assert table.counts.tolist() == [expected[text] for text in sorted(expected)]
    stored = np.stack([first[text] for text in sorted(expected)])
    assert np.array_equal(table.embeddings.stored(slice(None)), stored)
    units = stored.astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.array_equal(table.embeddings[:], units) and np.array_equal(
        table.embeddings[np.array([5, 2])], units[[5, 2]]
    )
    assert not [file for file in tmp_path.iterdir() if file.is_file()]  # the file of embeddings has no name


@pytest.mark.parametrize("algorithm", ["lloyd", "minibatch"])
def test_a_file_gives_what_an_array_gives(tmp_path, algorithm):
    _, _, embeds = _rows()
    file = EmbeddingFile.scratch(tmp_path, embeds.shape, embeds.dtype)
    file.put(slice(None), embeds)
    array, counts = unit_rows(embeds), np.ones(len(embeds), dtype=np.int64)
    coarse = coarse_clusters(array, counts, 8, 0, algorithm)
    assert np.array_equal(coarse, coarse_clusters(file, counts, 8, 0, algorithm))
    (fine, eps), (from_file, same_eps) = (fine_clusters(rows, counts, coarse, 30) for rows in (array, file))
    assert np.array_equal(fine, from_file) and eps == same_eps
    rows = np.array([4, 1, 9])
    assert np.array_equal(Chosen(file, rows)[1:], array[[1, 9]]) and Chosen(file, rows).shape == (3, DIM)


def test_large_coarse_clusters_are_cut_into_parts(small_limits):
    rng = np.random.default_rng(0)
    points = unit_rows(rng.normal(size=(400, DIM)).astype(np.float16))
    coarse = np.sort(rng.integers(0, 3, 400) % 2)  # two thirds in the first
    parts = clusters._parts(points, np.ones(400, dtype=np.int64), coarse, 0)
    sizes = np.bincount(parts)
    assert sizes.max() <= 60 and sizes.min() > 0
    assert parts[coarse == 0].max() < parts[coarse == 1].min()  # in the order of the coarse clusters
    spread = [points[parts == part].mean(0) @ points[parts == part].mean(0) for part in range(len(sizes))]
    assert np.mean(spread) > 1.5 * np.mean([points[i::7].mean(0) @ points[i::7].mean(0) for i in range(7)])
    equal = np.repeat(points[:1], 130, 0)  # no K-Means tells these apart
    assert np.bincount(clusters._parts(equal, np.ones(130, dtype=np.int64), np.zeros(130, int), 0)).tolist() == [
        60,
        60,
        10,
    ]


def test_small_data_are_not_cut(monkeypatch):
    monkeypatch.setattr(clusters, "LARGEST", 10)
    coarse = np.zeros(50, dtype=np.int64)
    assert clusters._parts(np.ones((50, 2), np.float32), np.ones(50, dtype=np.int64), coarse, 0) is coarse


def test_every_caption_is_seen_once_in_a_pass_and_batches_are_mixed():
    batches = list(clusters._batches(300_000, 8000, np.random.default_rng(0)))
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(300_000))
    for rows in batches:
        assert 8000 <= len(rows) < 9000 and np.array_equal(rows, np.sort(rows))
        assert rows.mean() == pytest.approx(150_000, rel=0.06)


def test_a_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**9}))
    with pytest.raises(OSError, match=r"room for 10.2 GB, the embeddings of 10,000,000 captions .* got 1.0 GB"):
        EmbeddingFile.scratch(tmp_path, (10_000_000, 512), np.float16)


def test_a_file_that_was_cut_off_is_no_embeddings(tmp_path):
    file = open(tmp_path / "rows", "w+b", buffering=0)
    np.ones((10, DIM), np.float32).tofile(file)
    embeddings = EmbeddingFile(file, (20, DIM), np.float32)
    assert embeddings.stored(np.array([3, 9])).tolist() == [[1] * DIM] * 2
    for rows in ([3, 15], [9, 10]):
        with pytest.raises(OSError, match="20 embeddings of width .* ends before the rows .* make it again"):
            embeddings.stored(np.array(rows))


def test_rows_are_whole_where_the_system_takes_them_in_parts(tmp_path):
    class Slow(io.FileIO):
        def readinto(self, view):
            return super().readinto(view[:10])

        def write(self, view):
            return super().write(view[:10])

    embeddings = EmbeddingFile(Slow(tmp_path / "rows", "w+"), (6, DIM), np.float32)
    values = np.arange(6 * DIM, dtype=np.float32).reshape(6, DIM)
    embeddings.put(np.array([2, 3, 4, 0, 1, 5]), values)
    assert np.array_equal(embeddings.stored(np.array([2, 3, 4, 0, 1, 5])), values)
