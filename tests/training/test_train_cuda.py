"""A training on a GPU, in float32 and bfloat16. Run by `pytest -m gpu`."""

import pytest
import torch
from helpers.trainings import make_trainer, state_of

from decodetr import DeCoDetrForObjectDetection

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("streams", ["joint", "localization", "semantic"])
def test_a_run_learns_evaluates_and_is_saved(scenes, tmp_path, streams, bf16):
    trainer = make_trainer(
        scenes, tmp_path / "run", streams=streams, bf16=bf16, use_cpu=False, cache_features=streams == "semantic"
    )
    before = state_of(trainer.model)
    trainer.train()
    assert trainer.model.device.type == "cuda"
    assert "eval_class_agnostic_AP50" in trainer.evaluate()
    after = {name: value.cpu() for name, value in state_of(trainer.model).items()}
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name].cpu())}
    assert ("detector" in changed) == (streams != "semantic")
    assert ("semantic_stream" in changed) == (streams != "localization")
    trainer.save_model(tmp_path / "model")
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "model").detector.state_dict()
    assert all(torch.equal(value, after[f"detector.{name}"]) for name, value in loaded.items())
