"""The average of the weights: its values, who sees it, what is saved, and a resume to the bit."""

import logging

import pytest
import torch
from helpers.trainings import make_trainer, same_state, state_of
from safetensors.torch import load_file

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainingArguments
from decodetr.training.ema import FILE, WeightAverage

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    average = WeightAverage(model, 0.9)
    assert list(average.averages) == ["weight"]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 0.0]]))
    average.update()
    assert torch.allclose(average.averages["weight"], torch.tensor([[1.1, 1.8]]))
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        assert torch.allclose(model.weight, torch.tensor([[1.1, 1.8]]))
        raise RuntimeError
    assert torch.equal(model.weight, own)
    average.update()
    assert torch.allclose(average.averages["weight"], torch.tensor([[1.19, 1.62]]))


@pytest.mark.slow
def test_evaluation_and_the_saved_model_see_the_average(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, ema_decay=0.5, eval_strategy="steps", eval_steps=2, **SAVING)
    weights = {}  # by step: what the average should be, and what evaluation saw
    expected = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    step_pool, results = trainer.step_pool, trainer._prepare_inputs

    def spy_step():
        step_pool()
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                expected[name] = 0.5 * expected[name] + 0.5 * parameter.detach()

    def spy_inputs(batch):
        if not trainer.model.training:
            weights[trainer.state.global_step] = state_of(trainer.model)
        return results(batch)

    trainer.step_pool, trainer._prepare_inputs = spy_step, spy_inputs
    trainer.train()
    assert sorted(weights) == [2, 4]
    final = dict(trainer.model.named_parameters())
    for name, average in expected.items():
        assert torch.allclose(weights[4][name], average, atol=1e-6), name
        assert torch.equal(final[name], weights[4][name])  # the trained model is the averaged one
    trainer.save_model()
    saved, own = (DeCoDetrForObjectDetection.from_pretrained(tmp_path / f) for f in (".", "checkpoint-4"))
    assert same_state(state_of(saved.detector), state_of(trainer.model.detector))
    averages = load_file(tmp_path / "checkpoint-4" / FILE)
    own = dict(own.named_parameters())
    assert averages.keys() == expected.keys()
    for name, average in averages.items():
        assert torch.equal(average, final[name]), name
    assert any(not torch.equal(average, own[name]) for name, average in averages.items())


def test_a_resume_is_exact_and_warns_without_an_average(scenes, tmp_path, caplog):
    whole = make_trainer(scenes, tmp_path / "whole", ema_decay=0.9, **SAVING)
    whole.train()
    resumed = make_trainer(scenes, tmp_path / "other", ema_decay=0.9, **SAVING)
    resumed.train(str(tmp_path / "whole/checkpoint-2"))
    assert same_state(state_of(whole.model), state_of(resumed.model))
    one, other = (load_file(tmp_path / run / "checkpoint-4" / FILE) for run in ("whole", "other"))
    assert same_state(one, other)
    with caplog.at_level(logging.WARNING):
        (tmp_path / "whole/checkpoint-2/complete.json").write_text("{}")
        (tmp_path / "whole/checkpoint-2" / FILE).unlink()
        make_trainer(scenes, tmp_path / "third", ema_decay=0.9, **SAVING).train(str(tmp_path / "whole/checkpoint-2"))
    assert f"has no {FILE}: the average starts from the weights" in caplog.text
    average = WeightAverage(whole.model.semantic_stream, 0.9)
    with pytest.raises(ValueError, match="expected averages of the .* parameters that this run trains"):
        average.load(tmp_path / "other/checkpoint-4")


def test_the_best_checkpoint_brings_its_average(scenes, tmp_path):
    args = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "ema_decay": 0.5}
    trainer = make_trainer(scenes, tmp_path, **SAVING, **args, metric_for_best_model="eval_score")
    evaluate, scores = trainer.evaluate, iter((0.9, 0.1))
    trainer.evaluate = lambda **kwargs: {**evaluate(**kwargs), "eval_score": next(scores)}
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best, last = (load_file(tmp_path / f / FILE) for f in ("checkpoint-2", "checkpoint-4"))
    final = dict(trainer.model.named_parameters())
    assert all(torch.equal(final[name], average) for name, average in best.items())
    assert any(not torch.equal(final[name], average) for name, average in last.items())
    pool = load_file(tmp_path / "checkpoint-2/model.safetensors")["prototype_pool.prototypes"]
    assert torch.equal(trainer.model.prototype_pool.prototypes, pool)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_decay_is_checked(tmp_path, decay):
    with pytest.raises(ValueError, match="ema_decay must be between 0 and 1"):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path), ema_decay=decay)
