"""The catalog of `decodetr bench` with tiny models under the names of the real ones."""

import dataclasses
from functools import cache

import pytest


@pytest.fixture(scope="session")
def builders():
    """(`of_random_weights`, `peers_of`), each call of which is made once: they are what costs time here."""
    from decodetr.speed import contestants, peers

    return cache(contestants.of_random_weights), cache(peers.peers_of)


@pytest.fixture
def tiny(monkeypatch, builders):
    """Tiny models, pictures of 64 x 64 (Grounding DINO's 96 x 128), a quiet machine of 1 GFLOP/s and 1 GB/s."""
    from helpers.tiny_models import TINY_DETECTORS
    from helpers.tiny_peers import ZERO_SHOT

    from decodetr.speed import bench, catalog

    fixed, keep = {"height": 64, "width": 64}, {"shortest_edge": 96, "longest_edge": 160}
    for name, entry in catalog.OURS.items():
        fields = {**TINY_DETECTORS[name], "model_type": name}
        monkeypatch.setitem(catalog.OURS, name, dataclasses.replace(entry, fields=fields, size=fixed))
    for name, entry in catalog.PEERS.items():
        size = keep if "dino" in name else fixed
        monkeypatch.setitem(catalog.PEERS, name, dataclasses.replace(entry, fields=ZERO_SHOT[name], size=size))
    small = {"embedding_dim": 16, "num_coarse_prototypes": 5, "num_fine_prototypes": 7, "region_channels": 16}
    for name, value in small.items():
        monkeypatch.setitem(catalog.STREAM, name, value)
    monkeypatch.setattr(bench, "of_random_weights", builders[0])
    monkeypatch.setattr(bench, "peers_of", builders[1])
    monkeypatch.setattr(bench, "PICTURE", (96, 128))
    monkeypatch.setattr(bench, "used_by_others", lambda: 0.0)
    monkeypatch.setattr(bench, "floor", lambda device, dtype: {"gflops": 1.0, "gbytes": 1.0})
