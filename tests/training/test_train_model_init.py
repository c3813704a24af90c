"""A Trainer that makes its model: `model_init`, as a search for hyper-parameters needs it."""

import types

import pytest
import torch
from helpers.trainings import make_parts, make_trainer, same_state, state_of

from decodetr import DeCoDetrTrainer
from decodetr.evaluation.output_evaluator import OutputEvaluator
from decodetr.training import ema


def _made(scenes, output, made, **args):
    """A Trainer with `model_init`, otherwise that of `_trainer`."""
    plain = make_trainer(scenes, output, augment=False, **args)
    parts = make_parts(scenes, augment=False)

    def init():
        made.append(make_parts(scenes, augment=False)[0])
        return made[-1]

    return plain, DeCoDetrTrainer(
        model_init=init, args=plain.args, train_dataset=parts[1], eval_dataset=parts[2], processing_class=parts[3],
        deployment_vocabulary=parts[4], novel_names=plain.novel_names,
    )  # fmt: skip


@pytest.mark.parametrize("args", [{}, {"streams": "semantic", "cache_features": True}, {"freeze_backbone": True}])
def test_each_training_begins_with_a_new_model(scenes, tmp_path, args):
    made = []
    _, trainer = _made(scenes, tmp_path, made, max_steps=2, **args)
    ends, names = [], trainer.model.vocabulary.names
    assert len(made) == 1
    for count in (2, 3):
        trainer.train()
        assert len(made) == count and trainer.model is made[-1] and trainer.state.global_step == 2
        ends.append(state_of(trainer.model))
    assert same_state(*ends) and not same_state(ends[0], state_of(made[0]))
    assert "eval_AP50" in trainer.evaluate() and trainer.model.vocabulary.names == names


def test_frozen_parts_of_a_new_model_stay(scenes, tmp_path):
    made = []
    _, trainer = _made(scenes, tmp_path, made, streams="localization", max_steps=1)
    trainer.train()
    assert same_state(state_of(made[0].semantic_stream), state_of(made[-1].semantic_stream))
    assert not same_state(state_of(made[0].detector), state_of(made[-1].detector))


@pytest.mark.parametrize("same", [False, True], ids=["new models", "one model"])
def test_a_new_model_learns_again_after_its_training(scenes, tmp_path, same):
    made = []
    _, trainer = _made(scenes, tmp_path, made, streams="localization", freeze_backbone=True, max_steps=1)
    if same:
        trainer.model_init = lambda: made[0]
    whole = {name for name, p in make_parts(scenes)[0].named_parameters() if p.requires_grad}
    for _ in range(2):
        before = state_of(trainer.model.semantic_stream)
        trainer.train()
        assert same_state(before, state_of(trainer.model.semantic_stream))
        assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == whole


def _searching(scenes, output, monkeypatch, made, **args):
    """What `hyperparameter_search` makes of a Trainer, without the library that makes trials."""
    from transformers.trainer_utils import HPSearchBackend

    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    _, trainer = _made(scenes, output, made, **args)
    trainer.hp_search_backend = HPSearchBackend.OPTUNA
    trainer.hp_space, trainer.hp_name, trainer.compute_objective = (lambda trial: trial.params), None, sum
    return trainer


def test_a_search_tries_averages_and_patience(scenes, tmp_path, monkeypatch):
    decays, aps = [], []
    average, measured = ema.WeightAverage, OutputEvaluator.compute
    monkeypatch.setattr(ema, "WeightAverage", lambda model, decay: decays.append(decay) or average(model, decay))
    monkeypatch.setattr(OutputEvaluator, "compute", lambda self: {**measured(self), "AP50": aps.pop(0)})
    every = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_AP50", "eval_pictures": 0}
    trainer = _searching(scenes, tmp_path, monkeypatch, [], max_steps=4, **every)
    trainer._report_to_hp_search = lambda *args: None
    ends = []
    for number, params in enumerate(
        ({"ema_decay": 0.9}, {"early_stopping_patience": 1}, {"ema_decay": 0.5, "early_stopping_patience": 2})
    ):
        aps[:] = [0.4, 0.3, 0.2, 0.1]
        trainer.args.ema_decay = None
        trainer.train(trial=types.SimpleNamespace(number=number, params=params))
        ends.append(trainer.state.global_step)
    assert decays == [0.9, 0.5] and ends == [4, 2, 3]
    trainer.args.metric_for_best_model = trainer.args.early_stopping_patience = None
    with pytest.raises(ValueError, match="early_stopping_patience=2 needs metric_for_best_model"):
        trainer.train(trial=types.SimpleNamespace(number=3, params={"early_stopping_patience": 2}))
    trainer.args.early_stopping_patience = None
    with pytest.raises(ValueError, match="cache_views cannot be searched: .* make a trainer for each value"):
        trainer.train(trial=types.SimpleNamespace(number=4, params={"cache_views": 2}))


def test_a_search_tries_its_rates(scenes, tmp_path, monkeypatch):
    made = []
    trainer = _searching(scenes, tmp_path, monkeypatch, made, max_steps=1)
    for number, rate in enumerate((1e-3, 0.0)):
        trial = types.SimpleNamespace(number=number, params={"learning_rate": rate})
        before = state_of(make_parts(scenes)[0].detector)
        trainer.train(trial=trial)
        assert trainer.args.learning_rate == rate and trainer.identity()["settings"]["learning_rate"] == rate
        changed = state_of(made[-1].detector)
        moved = any(
            not torch.equal(changed[n], v) for n, v in before.items() if "num_batches" not in n and "running" not in n
        )
        assert moved == bool(rate)


@pytest.mark.parametrize("count", [0, 2])
def test_one_of_model_and_model_init(scenes, tmp_path, count):
    model = make_parts(scenes)[0]
    given = {"model": model, "model_init": lambda: model} if count else {}
    with pytest.raises(ValueError, match="either model or model_init, got"):
        DeCoDetrTrainer(args=make_trainer(scenes, tmp_path).args, **given)


def test_nothing_is_pinned_where_there_is_no_accelerator(scenes, tmp_path, recwarn):
    trainer = make_trainer(scenes, tmp_path, dataloader_pin_memory=True, max_steps=1)
    trainer.train()
    assert trainer.args.dataloader_pin_memory is False
    assert not [warning for warning in recwarn if "pin" in str(warning.message)]


@pytest.mark.parametrize("given", [{}, {"direction": "minimize", "compute_objective": lambda metrics: 3.0}])
def test_a_search_maximizes_ap_if_nobody_says_otherwise(scenes, tmp_path, monkeypatch, given):
    seen = {}

    def search(self, hp_space, compute_objective, n_trials, direction, **kwargs):
        metrics = {"eval_AP50_base": 12.0, "eval_AP50": 13.0, "eval_AP_large": float("nan")}
        seen.update(value=compute_objective(metrics), direction=direction, n_trials=n_trials, **kwargs)

    monkeypatch.setattr("transformers.Trainer.hyperparameter_search", search)
    _, trainer = _made(scenes, tmp_path, [])
    trainer.hyperparameter_search(n_trials=2, backend="optuna", **given)
    value, direction = (3.0, "minimize") if given else (12.0, "maximize")
    assert seen == {"value": value, "direction": direction, "n_trials": 2, "backend": "optuna"}
