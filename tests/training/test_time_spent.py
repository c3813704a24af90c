"""The time of a run over all calls that it took."""

import json
import types

import pytest
from helpers.trainings import make_trainer

from decodetr.training.results.model_card import _time
from decodetr.training.results.time_spent import Spent, TimeSpent


def _spent(trainer):
    return next(callback.spent for callback in trainer.callback_handler.callbacks if isinstance(callback, TimeSpent))


def test_a_run_that_goes_on_adds_its_time(scenes, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr("decodetr.training.results.time_spent.time.perf_counter", lambda: next(clock))
    saved = {"save_strategy": "steps", "save_steps": 1, "eval_pictures": 0}
    first = make_trainer(scenes, tmp_path, max_steps=2, **saved)
    first.train()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    stored = state["stateful_callbacks"]["TimeSpent"]["attributes"]["spent"]
    assert stored["steps"] == 2 and 0 < stored["seconds"] < _spent(first).seconds and _spent(first).steps == 2

    longer = make_trainer(scenes, tmp_path, max_steps=3, **saved)
    longer.train(resume_from_checkpoint="last")
    assert _spent(longer).steps == 3 and _spent(longer).seconds > stored["seconds"]
    again = make_trainer(scenes, tmp_path, max_steps=3, **saved)
    again.train(resume_from_checkpoint="last")  # no step is left: nothing is added
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert vars(_spent(again)) == state["stateful_callbacks"]["TimeSpent"]["attributes"]["spent"]

    for name in ("TimeSpent", "EarlyStopping"):  # as an earlier version wrote it
        del state["stateful_callbacks"][name]
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text(json.dumps(state))
    last = make_trainer(scenes, tmp_path, max_steps=4, **saved)
    last.train(resume_from_checkpoint="last")
    assert _spent(last).steps == 1 and last.state.global_step == 4


@pytest.mark.parametrize(
    ("spent", "text"),
    [
        (Spent(26, 120.4, 240.8), "26 steps, 120 s on CPU. That is 0.0669 hours of one device"),
        (Spent(6, 12.0, 12.0), "26 steps, 12 s of the last 6, others not recorded, on CPU. That is 0.00333 hours"),
        (Spent(), "26 steps; the time that they took was not recorded."),
    ],
)
def test_a_card_says_of_which_steps_the_time_is(spent, text):
    assert _time(types.SimpleNamespace(steps=26, spent=spent, machine="CPU")).startswith(text)
