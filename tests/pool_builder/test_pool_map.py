"""`decodetr pool map`: picture and layout of large, small and bare pools, and its errors."""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from decodetr import PrototypePool
from decodetr.cli import main
from decodetr.pool_builder.pool_map import MOST_LABELS, SIZE, draw_pool_map, layout


def _pool(coarse, fine, dim=16, captions=True):
    """Families: each fine prototype is near its parent; counts fall with the row."""
    generator = torch.Generator().manual_seed(0)
    heads = F.normalize(torch.randn(coarse, dim, generator=generator), dim=-1)
    parent = torch.arange(fine) % coarse
    tails = F.normalize(heads[parent] + 0.1 * torch.randn(fine, dim, generator=generator), dim=-1)
    m = coarse + fine
    return PrototypePool(
        torch.cat([heads, tails]),
        level=(torch.arange(m) >= coarse).long(),
        parent=torch.cat([torch.full((coarse,), -1), parent]),
        count=torch.arange(m, 0, -1),
        captions=[f"a thing with $number$ {i}" for i in range(m)] if captions else None,
    )


def _ink(file):
    """Share of the picture that is not white."""
    with Image.open(file) as picture:
        assert picture.size == SIZE
        return float((np.asarray(picture.convert("L")) < 250).mean())


def test_map_labels_the_largest_and_repeats(tmp_path):
    pool = _pool(60, 120)
    labelled = draw_pool_map(pool, tmp_path / "new" / "map.png")
    assert list(labelled) == sorted(labelled) and 0 in labelled and 25 <= len(labelled) <= MOST_LABELS
    assert max(labelled) < 60
    assert _ink(tmp_path / "new" / "map.png") > 0.02
    assert draw_pool_map(pool, tmp_path / "again.png") == labelled
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new" / "map.png").read_bytes()


def test_labels_do_not_cover_each_other(tmp_path):
    """All prototypes in one place, with captions that are too long; the largest is the last."""
    captions = [f"{i} of these captions that go on for ever, and then some" for i in range(400)]
    pool = PrototypePool(torch.ones(400, 4), count=torch.arange(400) + 1, captions=captions)
    labels = draw_pool_map(pool, tmp_path / "map.png")
    boxes = np.array(list(labels.values()))
    assert 10 <= len(labels) <= MOST_LABELS and next(iter(labels)) == 399
    apart = (boxes[:, None, :2] >= boxes[None, :, 2:]).any(-1)
    assert (apart | apart.T | np.eye(len(boxes), dtype=bool)).all()
    assert (boxes[:, 0] >= 0).all() and (boxes[:, 2] <= SIZE[0]).all()


def test_layout_keeps_families_together():
    pool = _pool(30, 90)
    places = layout(pool.prototypes.numpy(), pool.level.numpy(), pool.parent.numpy())
    assert places.shape == (120, 2) and np.isfinite(places).all()
    distance = np.linalg.norm(places[30:, None] - places[None, :30], axis=-1)
    assert (distance.argmin(1) == pool.parent[30:].numpy()).all()
    angle = torch.arccos((pool.prototypes[30:] * pool.prototypes[pool.parent[30:]]).sum(-1)).numpy()
    first = np.flatnonzero(pool.parent[30:].numpy() == 0)
    assert (distance[first, 0].argsort() == angle[first].argsort()).all()


def test_tsne_puts_like_beside_like():
    """Three bundles of directions: every coarse prototype's nearest neighbours are of its bundle."""
    generator = torch.Generator().manual_seed(1)
    heads = F.normalize(torch.eye(8)[torch.arange(30) % 3] + 0.1 * torch.randn(30, 8, generator=generator), dim=-1)
    places = layout(heads.numpy(), np.zeros(30, dtype=int), np.full(30, -1))
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(30)
    assert (distance.argmin(1) % 3 == np.arange(30) % 3).all()


@pytest.mark.parametrize(
    ("coarse", "fine", "dim", "captions"),
    [(1, 0, 4, True), (1, 3, 4, False), (2, 0, 1, True), (5, 0, 16, False), (9, 4, 16, True), (40, 0, 16, False)],
)
def test_small_and_bare_pools(tmp_path, coarse, fine, dim, captions):
    labelled = draw_pool_map(_pool(coarse, fine, dim, captions), tmp_path / "map.png")
    assert list(labelled) == (list(range(coarse)) if captions else []) and _ink(tmp_path / "map.png") > 0.001


@pytest.mark.parametrize(("coarse", "fine"), [pytest.param(1203, 4797, marks=pytest.mark.slow), (6000, 0)])
def test_six_thousand_prototypes(tmp_path, coarse, fine):
    start = time.process_time()
    labelled = draw_pool_map(_pool(coarse, fine, 32), tmp_path / "map.png")
    assert time.process_time() - start < 20
    assert len(labelled) == MOST_LABELS and _ink(tmp_path / "map.png") > 0.05


def test_command(tmp_path, capsys):
    _pool(12, 6).save_pretrained(tmp_path / "pool")
    assert main(["pool", "map", str(tmp_path / "pool"), "--output", str(tmp_path / "map.svg")]) == 0
    assert "18 prototypes, 12 of them labelled" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "map.svg").read_text()[:600]
    assert main(["pool", "map", str(tmp_path / "pool"), "--output", str(tmp_path / "map.xyz")]) == 1
    error = capsys.readouterr().err
    assert "decodetr pool: error:" in error and "map.xyz: expected a file with ." in error and "'.xyz'" in error
    assert main(["pool", "map", str(tmp_path / "none"), "--output", str(tmp_path / "map.png")]) == 1
    assert "cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "map.png").exists()
