"""Early stopping: when a run stops, what it keeps, how it goes on, and what is chosen and refused for it."""

import json

import pytest
from helpers.trainings import make_trainer, train_command

from decodetr.cli import main
from decodetr.evaluation.output_evaluator import OutputEvaluator
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.early_stopping import early_stopping_fields

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "eval_pictures": 0}
STOPPING = {**EVERY_STEP, "load_best_model_at_end": True, "metric_for_best_model": "eval_AP50", "max_steps": 9}


@pytest.fixture
def script(monkeypatch):
    """Evaluations give these AP50, one after the other. Returns the list."""
    values, measured = [], OutputEvaluator.compute

    def compute(self):
        return {**measured(self), "AP50": values.pop(0)} if values else measured(self)

    monkeypatch.setattr(OutputEvaluator, "compute", compute)
    return values


def _aps(state):
    return [row["eval_AP50"] for row in state.log_history if "eval_AP50" in row]


@pytest.mark.parametrize(
    ("patience", "threshold", "aps", "last", "best"),
    [
        (2, 0.0, [0.1, 0.3, 0.2, 0.3], 4, 2),  # an equal one is no rise
        (1, 0.0, [0.1, 0.2, 0.15], 3, 2),
        (2, 0.05, [1, 5, 6], 3, 3),  # rises of less than 5 points do not count, but the best is the best
        pytest.param(2, 0.0, [0.3, 0.2, 0.4, 0.1, 0.5, 0.2, 0.1], 7, 5, marks=pytest.mark.slow),
    ],
)
def test_a_run_stops_at_the_evaluation_that_is_expected(
    scenes, tmp_path, script, patience, threshold, aps, last, best
):
    script.extend(aps)
    stopping = {"early_stopping_patience": patience, "early_stopping_threshold": threshold}
    trainer = make_trainer(scenes, tmp_path, **STOPPING, **stopping)
    trainer.train()
    assert trainer.state.global_step == last and _aps(trainer.state) == aps and not script
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")


@pytest.mark.slow
def test_a_run_that_goes_on_counts_on(scenes, tmp_path, script):
    script.extend([0.3, 0.2, 0.1])
    make_trainer(scenes, tmp_path, **STOPPING | {"max_steps": 2}, early_stopping_patience=2).train()
    trainer = make_trainer(scenes, tmp_path, **STOPPING, early_stopping_patience=2)
    trainer.train(resume_from_checkpoint="last")
    assert trainer.state.global_step == 3 and _aps(trainer.state) == [0.3, 0.2, 0.1] and not script
    # And one that has stopped takes no further step.
    again = make_trainer(scenes, tmp_path, **STOPPING, early_stopping_patience=2)
    again.train(resume_from_checkpoint="last")
    assert again.state.global_step == 3


def test_what_it_needs_is_chosen():
    assert early_stopping_fields({"max_steps": 3}) == {}
    found = early_stopping_fields({"early_stopping_patience": 3})
    assert found == {
        **{"eval_strategy": "steps", "eval_steps": 0.05, "save_strategy": "steps", "save_steps": 0.05},
        **{"load_best_model_at_end": True, "save_total_limit": 2},
    }
    of_a_recipe = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 5}
    assert early_stopping_fields({"early_stopping_patience": 3, **of_a_recipe}) == {"load_best_model_at_end": True}
    found = early_stopping_fields({"early_stopping_patience": 3, "eval_steps": 10, "load_best_model_at_end": False})
    assert found == {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 10, "save_total_limit": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stopping_patience": 0}, "early_stopping_patience must be at least 1, got 0"),
        ({"early_stopping_patience": 2}, "early_stopping_patience=2 needs evaluations"),
        ({"early_stopping_threshold": 0.1}, "early_stopping_threshold=0.1 needs early_stopping_patience"),
        ({"early_stopping_patience": 2, "early_stopping_threshold": 3}, "must lie in 0..1, as AP does, got 3"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path), **fields)


def test_the_command_chooses_says_and_stops(scenes, tmp_path, script, capsys, caplog):
    script.extend([0.2, 0.1, 0.1])
    words = train_command(scenes, tmp_path / "run", "--max-steps", "8", "--eval-steps", "1")
    words += ["--early-stopping-patience", "2", "--metric-for-best-model", "eval_AP50"]
    assert main(words) == 0
    assert "eval_strategy steps; load_best_model_at_end true; save_total_limit 2; save_strategy steps" in caplog.text
    state = json.loads((tmp_path / "run/trainer_state.json").read_text())
    assert state["global_step"] == 3 and state["best_global_step"] == 1
    without = [*words, "--val-annotations", "none", "--output", str(tmp_path / "other")]
    del without[without.index("--output_dir") : without.index("--output_dir") + 2]
    assert main(without) == 1
    error = capsys.readouterr().err
    assert "--early-stopping-patience needs validation data: give --val-annotations or --val-share 0.1" in error
    assert "--eval-strategy" not in error and "--load-best-model-at-end" not in error
