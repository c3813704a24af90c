"""A training on a GPU, in float32 and bfloat16. Run by `pytest -m gpu`."""

import pytest
import torch
from helpers.trainings import make_trainer, state_of

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.scenes.world import SceneSettings
from decodetr.scenes.write import write_scenes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("streams", ["joint", "localization", "semantic"])
def test_a_run_learns_evaluates_and_is_saved(scenes, tmp_path, streams, bf16):
    settings = {"streams": streams, "bf16": bf16, "use_cpu": False, "cache_features": streams == "semantic"}
    trainer = make_trainer(scenes, tmp_path / "run", config={"semantic_dropout": 0.3}, **settings)
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


@pytest.mark.parametrize("cached", ["true", "false"])
def test_the_commands_from_a_detector_to_a_report(tmp_path, cached):
    data, built, model = tmp_path / "data", tmp_path / "built", tmp_path / "model"
    write_scenes(data, SceneSettings(train=100, val=4, test=1, seed=1))
    start = ["--data", data, "--model", "scenes-decodetr"]
    teachers = ["--clip", "scenes-clip", "--captioner", "scenes-llava"]
    tables = ["--vocabulary", "scenes-vocabulary", "--pool", built / "pool", "--regions", built / "regions"]
    short = ["--max-steps", 4, "--report-to", "none", "--calibration-share", 0.4]
    semantic = ["--streams", "semantic", "--reset-semantics", "--cache-features", cached, *tables, *short]
    for command in (
        ["pool", "build", "--data", data, "--detector", "scenes-decodetr", *teachers, "--output", built],
        ["train", *start, "--streams", "localization", "--output-dir", tmp_path / "boxes", *short],
        ["train", *start, *semantic, "--output-dir", model],
        ["calibrate", "--model", "scenes-decodetr", "--data", data, "--output", tmp_path / "calibrated"],
        ["eval", "--model", model, "--data", data, "--output", tmp_path / "report"],
        ["eval", "--model", model, "--data", data, "--oracle", "teacher", "--clip", "scenes-clip"]
        + ["--output", tmp_path / "ceiling"],
        ["predict", data / "val", "--model", model, "--output", tmp_path / "found"],
    ):
        assert main([str(word) for word in command]) == 0, command
