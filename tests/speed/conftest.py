"""Contestants of tiny sizes, under the names of the real ones."""

import dataclasses

import pytest


@pytest.fixture
def tiny(monkeypatch):
    """The catalog with tiny models; pictures are 64 x 64, or keep their shape between 48 and 80."""
    from helpers.tiny_models import TINY_DETECTORS
    from helpers.tiny_peers import _KEEP, _ZERO_SHOT

    from decodetr.speed import bench, catalog

    fixed = {"height": 64, "width": 64}
    for name, entry in catalog.OURS.items():
        fields = {**TINY_DETECTORS[name], "model_type": name}
        monkeypatch.setitem(catalog.OURS, name, dataclasses.replace(entry, fields=fields, size=fixed))
    for name, entry in catalog.PEERS.items():
        size = _KEEP if "dino" in name else fixed
        fields = _ZERO_SHOT[name]
        monkeypatch.setitem(catalog.PEERS, name, dataclasses.replace(entry, fields=fields, size=size))
    small = {"embedding_dim": 16, "num_coarse_prototypes": 5, "num_fine_prototypes": 7, "region_channels": 16}
    monkeypatch.setattr(catalog, "STREAM", small)
    for name, value in small.items():
        monkeypatch.setitem(catalog.STREAM, name, value)
    monkeypatch.setattr(bench, "PICTURE", (96, 128))
    return catalog
