"""How far a pool moved in training, by hand and as the trainer writes it."""

import json

import pytest
import torch

from decodetr import DeCoDetrForObjectDetection, PrototypePool
from decodetr.cli import main
from decodetr.pool_builder.drift import pool_drift


def _pool(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return PrototypePool(torch.stack([radians.cos(), radians.sin()], 1).float(), captions=["cat", "dog", "cup"])


def test_by_hand():
    drift = pool_drift(_pool(0, 60, 180), _pool(0, 20, 190))
    cosines = torch.deg2rad(torch.tensor([0.0, 40, 10])).cos()
    assert drift["mean_cosine"] == pytest.approx(cosines.mean().item(), abs=1e-6)
    assert drift["least_cosine"] == pytest.approx(cosines[1].item(), abs=1e-6)
    assert drift["renamed"] == 1
    assert [(e["row"], e["caption"], e["now"]) for e in drift["farthest"]] == [
        (1, "dog", "cat"), (2, "cup", "cup"), (0, "cat", "cat")
    ]  # fmt: skip
    assert drift["mean_cosine_between"] == [_pool(0, 60, 180).mean_cosine(), _pool(0, 20, 190).mean_cosine()]


@pytest.mark.slow
def test_the_trainer_writes_it_where_the_pool_moves(one_step, tmp_path):
    config = ["--config", one_step[one_step.index("--data") + 1] + "/config.yaml", "--streams", "semantic"]
    moves = ["--set", "pool_momentum=0.5", "pool_update=literal", "--output_dir", str(tmp_path / "moved")]
    assert main([*one_step, *config, *moves]) == 0
    drift = json.loads((tmp_path / "moved" / "pool_drift.json").read_text())
    before = PrototypePool.from_pretrained(one_step[one_step.index("--pool") + 1])
    after = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "moved").prototype_pool
    assert drift == pool_drift(before, after) and 0 < drift["mean_cosine"] < 1 - 1e-6
    frozen = [*config, "--output_dir", str(tmp_path / "frozen")]
    assert main([*one_step, *frozen]) == 0 and not (tmp_path / "frozen" / "pool_drift.json").exists()
