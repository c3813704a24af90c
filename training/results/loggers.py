"""What goes to the loggers of --report-to besides numbers: pictures of detections and maps of the pool.

Numbers are the library's business. Of its loggers these take pictures: TensorBoard, Weights & Biases, Trackio, MLflow.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback

from decodetr.pool_builder.pool_map import draw_pool_map
from decodetr.utils.images import open_image

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.trainer import DeCoDetrTrainer

STEP = "train/global_step"  # what the library's logs are drawn over


def _to_tensorboard(callback, tag, picture, step):
    if callback.tb_writer is not None:
        callback.tb_writer.add_image(tag, np.asarray(picture), step, dataformats="HWC")


def _to_wandb(callback, tag, picture, step):
    if callback._wandb.run is not None:
        callback._wandb.log({tag: callback._wandb.Image(picture), STEP: step})


def _to_trackio(callback, tag, picture, step):
    if callback._initialized:
        callback._trackio.log({tag: callback._trackio.Image(picture), STEP: step})


def _to_mlflow(callback, tag, picture, step):
    if callback._ml_flow.active_run() is not None:
        callback._ml_flow.log_image(picture, key=tag, step=step, synchronous=True)


# Every logger of the library that takes a picture, and how.
TAKE_PICTURES = {
    TensorBoardCallback: _to_tensorboard,
    WandbCallback: _to_wandb,
    TrackioCallback: _to_trackio,
    MLflowCallback: _to_mlflow,
}


def log_picture(callbacks: Iterable[TrainerCallback], tag: str, picture: Image.Image, step: int) -> None:
    """Send a picture to every logger among the callbacks that takes one and has a run open.

    Args:
        callbacks: of a Trainer. tag (str): such as "eval/detections". picture: 8-bit RGB. step (int): of the run.
    """
    for callback in callbacks:
        for kind, send in TAKE_PICTURES.items():
            if isinstance(callback, kind):
                send(callback, tag, picture, step)


def take_pictures(callbacks: Iterable[TrainerCallback]) -> bool:
    """Whether a logger among the callbacks takes pictures."""
    return any(isinstance(callback, tuple(TAKE_PICTURES)) for callback in callbacks)


@contextmanager
def kept_open(callbacks: Iterable[TrainerCallback]) -> Iterator[None]:
    """Inside, the end of training closes no logger that takes pictures: the evaluation after it belongs to the same
    run, where some loggers would begin another. They are closed on leaving, as the library would have done."""
    ends: list[tuple[TrainerCallback, list[tuple[tuple, dict[str, Any]]]]] = []
    for callback in callbacks:
        if isinstance(callback, tuple(TAKE_PICTURES)):
            calls: list[tuple[tuple, dict[str, Any]]] = []
            callback.__dict__["on_train_end"] = lambda *args, calls=calls, **kwargs: calls.append((args, kwargs))
            ends.append((callback, calls))
    try:
        yield
    finally:
        for callback, calls in ends:
            del callback.__dict__["on_train_end"]
            for args, kwargs in calls[-1:]:
                callback.on_train_end(*args, **kwargs)


class TensorBoardFolder(TrainerCallback):
    """OUTPUT/runs for what TensorBoard gets before training too, such as an evaluation of the starting point: the
    library knows its folder from the beginning of training on, and writes into the current one before. It must be
    called before the loggers."""

    def __init__(self, trainer: "DeCoDetrTrainer") -> None:
        self.trainer = trainer

    def on_log(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                name = f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"  # as the library's
                callback.logging_dir = str(Path(args.output_dir, "runs", name))


class PoolMaps(TrainerCallback):
    """OUTPUT/pictures/pool-step-N.png, and the same to the loggers that take pictures: the pool that training starts
    with, and, where it moves, the one that it ends with. Nothing is drawn without such a logger. It must be called
    before the loggers, which close their run when training ends."""

    def __init__(self, trainer: "DeCoDetrTrainer") -> None:
        self.trainer = trainer
        self._begun = False

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        self._begun = False

    def on_step_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        if not self._begun:  # not in on_train_begin, where the loggers have no run yet
            self._begun = True
            self._draw(args, state)

    def on_train_end(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        if self._begun and self.trainer.model.config.pool_update != "frozen":
            self._draw(args, state)

    def _draw(self, args, state):
        callbacks, model = self.trainer.callback_handler.callbacks, self.trainer.model
        used = args.streams != "localization" and model.config.pool_use != "none"
        if not used or not state.is_world_process_zero or not take_pictures(callbacks):
            return
        file = Path(args.output_dir) / "pictures" / f"pool-step-{state.global_step}.png"
        draw_pool_map(model.prototype_pool, file)
        log_picture(callbacks, "pool/map", open_image(file), state.global_step)
