"""Regions on the disk: what is read is what the shards hold, by every process, at any size, and memory stays."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from decodetr.processing import RegionTable, region_shards, region_store, write_regions
from decodetr.processing.regions import captioned_regions

NAMES = {"boxes": "box", "image_embeds": "image_embed", "text_embeds": "text_embed", "scores": "clip_score"}


def _columns(n, dim=4, images=12, seed=0):
    rng = np.random.default_rng(seed)
    embeds = rng.normal(size=(2, n, dim))
    embeds /= np.linalg.norm(embeds, axis=-1, keepdims=True)
    corners = rng.random((n, 2)) * 50
    return {
        "image_id": rng.integers(0, images, n), "file_name": ["x.jpg"] * n, "caption": ["a thing"] * n,
        "box": np.concatenate([corners, corners + 1 + rng.random((n, 2))], 1), "proposal_score": rng.random(n),
        "image_embed": embeds[0], "text_embed": embeds[1], "clip_score": rng.random(n), "kept": rng.random(n) < 0.6,
    }  # fmt: skip


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of a few rows, so that images and shards go over their borders."""
    monkeypatch.setattr(region_shards, "_PART", 3)
    monkeypatch.setattr(region_store, "_PART", 5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("unkept", [False, True])
def test_every_image_has_its_rows_whatever_their_order(tmp_path, small_parts, unkept):
    """Against a plain loop: shard after shard, in a shard kept rows first. The digest is that of these rows."""
    columns, shard = _columns(80), 30
    write_regions(tmp_path / "regions", columns, shard, "float32")
    table = RegionTable.load(tmp_path / "regions", unkept=unkept)
    expected = {}
    for start in range(0, 80, shard):
        for kept in (True, False) if unkept else (True,):
            for row in range(start, min(start + shard, 80)):
                if columns["kept"][row] == kept:
                    expected.setdefault(int(columns["image_id"][row]), []).append(row)
    assert table.image_ids == sorted(expected) and len(table) == sum(map(len, expected.values()))
    texts = np.where(columns["kept"][:, None], columns["text_embed"], 0)
    scores = np.where(columns["kept"], columns["clip_score"], 0)
    truth = {**columns, "text_embed": texts, "clip_score": scores}
    for image_id, rows in expected.items():
        found = table.get(image_id)
        for key, name in NAMES.items():
            np.testing.assert_array_equal(found[key], truth[name][rows].astype(np.float32), err_msg=key)
        np.testing.assert_array_equal(table.boxes(image_id), found["boxes"])
        assert table.kept(image_id).tolist() == columns["kept"][rows].tolist() and image_id in table
    order, spans = [], []
    for image_id in sorted(expected):
        spans.append([image_id, [len(order), len(order) + len(expected[image_id])]])
        order += expected[image_id]
    digest = hashlib.sha256(json.dumps(spans).encode())
    for name, step in (
        ("box", 1),
        ("proposal_score", 1),
        ("clip_score", 1),
        ("image_embed", 100),
        ("text_embed", 100),
    ):
        digest.update(truth[name][order][::step].astype(np.float32).tobytes())
    assert table.digest() == digest.hexdigest()[:12]


@pytest.mark.parametrize("most", [1000, 7, 2])
def test_captioned_regions_are_drawn_evenly(tmp_path, small_parts, most):
    """Also where a shard has none of them."""
    columns = {**_columns(80), "caption": [f"caption {i}" for i in range(80)]}
    write_regions(tmp_path, columns, 15, "float32")
    rows = np.flatnonzero(columns["kept"])
    rows = rows[:: -(-len(rows) // most)]
    found = captioned_regions(tmp_path, most)
    assert len(rows) <= most and found["captions"] == [f"caption {row}" for row in rows]
    for name in ("image_embed", "text_embed"):
        np.testing.assert_array_equal(found[f"{name}s"], columns[name][rows].astype(np.float32))


class _Ids(Dataset):
    def __init__(self, table):
        self.table = table

    def __len__(self):
        return len(self.table.image_ids)

    def __getitem__(self, place):
        return self.table.get(self.table.image_ids[place])["image_embeds"]


_SUMS = """
import json, pickle, sys
table = pickle.load(sys.stdin.buffer)
print(json.dumps([float(table.get(image_id)["image_embeds"].sum()) for image_id in table.image_ids]))
"""


def _sums(table):
    return [float(table.get(image_id)["image_embeds"].sum()) for image_id in table.image_ids]


def test_loaders_and_other_processes_get_the_path_and_not_the_rows(tmp_path):
    write_regions(tmp_path, _columns(600, dim=32, images=40))
    table = RegionTable.load(tmp_path)
    assert len(pickle.dumps(table)) < 1000
    expected = _sums(table)
    loader = DataLoader(_Ids(table), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [float(embeds.numpy().sum()) for embeds in loader] == expected
    told = subprocess.run([sys.executable, "-c", _SUMS], input=pickle.dumps(table), capture_output=True, check=True)
    assert json.loads(told.stdout) == expected


def test_the_data_folder_is_not_written_and_the_shards_are_read_once(tmp_path, cache, monkeypatch):
    write_regions(tmp_path / "regions", _columns(40))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "regions").iterdir()}
    digest = RegionTable.load(tmp_path / "regions").digest()
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "regions").iterdir()} == before
    with monkeypatch.context() as patch:
        patch.setattr("decodetr.processing.regions.read_parts", None)
        assert RegionTable.load(tmp_path / "regions").digest() == digest
    write_regions(tmp_path / "regions", _columns(40, seed=1), overwrite=True)
    assert RegionTable.load(tmp_path / "regions").digest() != digest
    for file in cache.rglob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    assert len(RegionTable.load(tmp_path / "regions").get(3)["boxes"]) > 0  # torn, so made again


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process has mapped")
def test_what_was_read_does_not_stay_in_the_memory_of_the_process(tmp_path):
    rows = np.arange(10_000)
    embeds = np.zeros((len(rows), 512), dtype=np.float16)
    embeds[:, 0] = 1
    columns = {
        "image_id": rows // 20, "box": np.tile(np.float32([0, 0, 1, 1]), (len(rows), 1)), "image_embed": embeds,
        "text_embed": embeds, "proposal_score": np.ones(len(rows)), "clip_score": np.ones(len(rows)),
    }  # fmt: skip
    table = RegionTable.of_columns("here", tmp_path / "regions", [columns])

    def mapped():
        text = Path("/proc/self/status").read_text()
        return int(text.split("RssFile:")[1].split()[0]) / 1024

    before = mapped()
    assert sum(len(table.get(image_id)["boxes"]) for image_id in table.image_ids) == len(rows)
    assert mapped() - before < 8  # MB of 20 that were read
