"""Memory runs out: the advice; gradient checkpointing: the same gradients, or a clear refusal."""

import pytest
import torch
from helpers.half_batches import deterministic_model
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model
from helpers.trainings import make_trainer, train_command

from decodetr import DeCoDetrForObjectDetection
from decodetr.cli import main
from decodetr.training.planning.memory import OutOfMemory, can_checkpoint, check_checkpointing

ABLE = ("detr", "conditional_detr", "deformable_detr", "dab-detr", "lw_detr", "rf_detr")
CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 4 GiB"


@pytest.fixture
def little_memory(monkeypatch):
    """Images of more than `limit[training]` in a batch are too many; a list of the batch sizes that were tried."""
    forward, tried = DeCoDetrForObjectDetection.forward, []
    limit = {True: 0, False: 100}

    def limited(self, pixel_values=None, **kwargs):
        tried.append(len(pixel_values))
        if len(pixel_values) > limit[self.training]:
            raise torch.OutOfMemoryError(CUDA)
        return forward(self, pixel_values, **kwargs)

    monkeypatch.setattr(DeCoDetrForObjectDetection, "forward", limited)
    return limit, tried


def test_training_advice_has_the_knobs_in_order(scenes, tmp_path, little_memory):
    trainer = make_trainer(scenes, tmp_path, gradient_accumulation_steps=3)
    with pytest.raises(OutOfMemory) as caught:
        trainer.train()
    lines = str(caught.value).split("\n")
    assert lines[0].startswith("memory ran out in training. Tried to allocate 20.00 MiB")
    starts = (
        "1. --per-device-train-batch-size 2 --gradient-accumulation-steps 6 (now 4 and 3)",
        "2. --bf16 true (now float32)",  # RT-DETR v2 has no gradient checkpointing
        "3. a smaller --image-size (now 64 x 64)",
        "4. --streams semantic --cache-features true",
    )
    assert all(line.startswith(start) for line, start in zip(lines[2:], starts, strict=True))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_advice_leaves_out_what_is_done_already(scenes, tmp_path, little_memory):
    trainer = make_trainer(scenes, tmp_path, per_device_train_batch_size=1, bf16=True)
    with pytest.raises(ValueError, match="memory ran out in training") as caught:
        trainer.train()
    assert "per_device_train_batch_size" not in str(caught.value) and "--bf16" not in str(caught.value)


def test_evaluation_has_knobs_of_its_own(scenes, tmp_path, little_memory):
    limit, _ = little_memory
    limit.update({True: 100, False: 0})
    trainer = make_trainer(scenes, tmp_path, eval_strategy="steps", eval_steps=1, auto_find_batch_size=True)
    with pytest.raises(OutOfMemory) as caught:
        trainer.train()
    assert "memory ran out in evaluation" in str(caught.value)
    assert "1. --per-device-eval-batch-size 2 (now 4)" in str(caught.value)
    assert "2. --eval-max-detections 50 (now 100)" in str(caught.value)
    assert "train_batch_size" not in str(caught.value)


def test_other_errors_are_left_alone(scenes, tmp_path, monkeypatch):
    def broken(self, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(DeCoDetrForObjectDetection, "forward", broken)
    with pytest.raises(RuntimeError, match="^something else$"):
        make_trainer(scenes, tmp_path).train()


def test_the_command_prints_the_advice_without_a_traceback(scenes, tmp_path, capsys, little_memory):
    command = train_command(scenes, tmp_path / "run", "--max_steps", "1", "--val-annotations", "none")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "decodetr train: error: memory ran out in training" in error and "Traceback" not in error


def test_auto_find_batch_size_starts_again_from_nothing(scenes, tmp_path):
    """What a step that ran out of memory in its backward had collected for the pool does not count."""
    args = {"augment": False, "max_steps": 2, "ema_decay": 0.5}
    found = make_trainer(scenes, tmp_path / "found", auto_find_batch_size=True, **args)
    backward, calls = found.accelerator.backward, []

    def limited(loss, **kwargs):
        calls.append(loss)
        if len(calls) == 1:
            raise torch.OutOfMemoryError(CUDA)
        backward(loss, **kwargs)

    found.accelerator.backward = limited
    found.train()
    size = found._train_batch_size
    assert len(calls) == 3 and size < 4
    chosen = make_trainer(scenes, tmp_path / "chosen", per_device_train_batch_size=size, **args)
    chosen.train()
    assert torch.equal(found.model.prototype_pool.prototypes, chosen.model.prototype_pool.prototypes)


@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_gradient_checkpointing_is_known_or_refused(family):
    detector = tiny_model(family).detector
    assert can_checkpoint(detector) == (family in ABLE)
    if family in ABLE:
        check_checkpointing(detector)
    else:
        with pytest.raises(ValueError, match=f"{family} has no gradient checkpointing.*{', '.join(ABLE)} have it"):
            check_checkpointing(detector)


def test_it_is_refused_before_training(scenes, tmp_path):
    with pytest.raises(ValueError, match="rt_detr_v2 has no gradient checkpointing"):
        make_trainer(scenes, tmp_path, gradient_checkpointing=True)


@pytest.mark.parametrize("family", ABLE)
def test_gradients_with_checkpointing_are_those_without(family):
    batch, gradients, forwards = tiny_batch(regions=True), [], []

    def spy(module, args):
        forwards.append(module)

    for checkpointing in (False, True):
        model = deterministic_model(family)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            layers = [m for m in model.detector.modules() if getattr(m, "gradient_checkpointing", False)]
            next(layers[-1].children()).register_forward_pre_hook(spy)  # the library computes `forward` again
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert len(forwards) == 2  # once more in the backward
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, atol=1e-6), name
