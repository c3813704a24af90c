"""Callbacks of a training run: dropout of the semantic stream, the momentum step of the pool and its drift, projected
samples, averaged weights."""

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from decodetr.pool_builder.drift import pool_drift
from decodetr.training import ema
from decodetr.training.features.feature_coding import SampleCoding
from decodetr.training.options.early_stopping import EarlyStopping
from decodetr.training.results.time_spent import TimeSpent
from decodetr.utils.files import write_json

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.trainer import DeCoDetrTrainer

logger = logging.getLogger(__name__)


class DropoutSeeds(TrainerCallback):
    """What the semantic stream drops in a step depends on seed, step and process alone, so that a run that goes on
    from a checkpoint drops what it would have dropped."""

    def __init__(self, trainer: "DeCoDetrTrainer") -> None:
        self.trainer = trainer

    def on_step_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        place = np.random.SeedSequence([args.seed, state.global_step, args.process_index])
        self.trainer.model.semantic_stream.dropout_seed = int(place.generate_state(1)[0])


class PoolMomentum(TrainerCallback):
    """The momentum step of the pool, after each optimizer step, over all micro-batches and processes of the step, and
    pool_drift.json at the end: how far it went."""

    def __init__(self, trainer: "DeCoDetrTrainer") -> None:
        self.trainer = trainer
        self.start(trainer.model)

    def start(self, model: "DeCoDetrForObjectDetection") -> None:
        """The pool of a model is what `pool_drift.json` compares with."""
        self.before = copy.deepcopy(model.prototype_pool)

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.forget_sums()

    def on_optimizer_step(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.step_pool()

    def on_train_end(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        model = self.trainer.model
        if not state.is_world_process_zero or model.config.pool_update == "frozen" or args.streams == "localization":
            return
        write_json(Path(args.output_dir) / "pool_drift.json", pool_drift(self.before, model.prototype_pool))


class ProjectedSamples(TrainerCallback):
    """Keeps weights that learn from projected samples in the span of the projection, so that they serve whole maps."""

    def __init__(self, trainer: "DeCoDetrTrainer", bases: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.trainer, self.bases = trainer, bases

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self._restrict()

    def on_optimizer_step(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self._restrict()

    def _restrict(self):
        if (pooling := self.trainer.model.semantic_stream.region_pooling) is not None:  # else no sample is read
            pooling.restrict(self.bases)


class WeightAveraging(TrainerCallback):
    """Keeps `trainer.weight_average`: from the weights a run starts with, or from the checkpoint it goes on from."""

    def __init__(self, trainer: "DeCoDetrTrainer") -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self.trainer.weight_average = None  # of a trial before that did not come to its end
        if args.ema_decay is None:
            return
        average = ema.WeightAverage(self.trainer.model, args.ema_decay)
        folder = self.trainer.resumed_from
        if folder is not None and (Path(folder) / ema.FILE).is_file():
            average.load(folder)
        elif folder is not None:
            logger.warning("%s has no %s: the average starts from the weights of the checkpoint.", folder, ema.FILE)
        self.trainer.weight_average = average

    def on_optimizer_step(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        average, skipped = self.trainer.weight_average, self.trainer.accelerator.optimizer_step_was_skipped
        if average is not None and not skipped:  # float16: the gradient had overflown
            average.update()


def chosen_callbacks(trainer: "DeCoDetrTrainer", coding: SampleCoding | None) -> list[TrainerCallback]:
    """The callbacks of a run. What the arguments do not ask for does nothing: those of a trial may ask for it.

    Args:
        trainer (DeCoDetrTrainer). coding: of cached samples, or None.
    """
    found: list[TrainerCallback] = [DropoutSeeds(trainer)]
    if coding is not None:
        found.append(ProjectedSamples(trainer, coding.bases))
    return [*found, WeightAveraging(trainer), EarlyStopping(), TimeSpent()]  # an average of projected weights
