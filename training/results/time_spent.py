"""How long a run has trained, over all calls that it took: a checkpoint says it, and a run that goes on adds to it."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments


@dataclass(frozen=True)
class Spent:
    """
    Attributes:
        steps (int): that took this time, the last ones of the run. Not all where it went on from a checkpoint that
            does not say its time.
        seconds (float). device_seconds (float): times the processes that there were.
    """

    steps: int = 0
    seconds: float = 0.0
    device_seconds: float = 0.0


class TimeSpent(TrainerCallback, ExportableState):
    """Counts, as `spent`. What a killed call did after its last checkpoint is lost, time and steps; a call that trains
    no step takes no time."""

    def __init__(self) -> None:
        self.spent = self._before = Spent()
        self._begun: float | None = None
        self._first = self._step = 0
        self._processes = 1

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__, {}) if state.global_step else {}
        self.spent = self._before = Spent(**stored.get("attributes", {}).get("spent", {}))
        self._begun, self._processes = time.perf_counter(), args.world_size
        self._first = self._step = state.global_step
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # which the library wants of all

    def on_step_end(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self._step = state.global_step

    def on_train_end(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self._count()
        self._begun = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        self._count()
        return {"args": {}, "attributes": {"spent": vars(self.spent)}}

    def _count(self):
        if self._begun is None or self._step == self._first:
            return
        seconds, before = time.perf_counter() - self._begun, self._before
        self.spent = Spent(
            before.steps + self._step - self._first,
            before.seconds + seconds,
            before.device_seconds + seconds * self._processes,
        )
