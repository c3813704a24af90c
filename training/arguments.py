"""The arguments of a training run."""

import logging
import math
import re
from dataclasses import dataclass, field

from transformers import TrainingArguments

from decodetr.training.fields import check_fields
from decodetr.training.metrics import default_metric, needs_metric

logger = logging.getLogger(__name__)

_NAME_METRIC = re.compile(r"(?<![A-Za-z])(AP|AR)\w*$")  # "AP50_base" of "eval_AP50_base"
STREAMS = ("joint", "localization", "semantic")
# How lambda_align(t) goes from start (1) to end (0) over the progress of a run (paper 3.2: cosine).
ALIGN_SHAPES = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 0.0,
}


def _field(default, text, shown=None):
    """A field with its help, and the default that a table shows where the value does not say it."""
    return field(default=default, metadata={"help": text} | ({"default": shown} if shown else {}))


@dataclass
class DeCoDetrTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` with the defaults that detection needs, and with the fields below, whose `help`
    docs/training.md has as a table.

    A `metric_for_best_model` of names is replaced by the class-agnostic AP50 where `streams` is "localization": the
    names would be those of a stream that does not learn, at first one of random weights.
    """

    streams: str = _field(
        "joint",
        "joint; localization, which freezes the semantic stream and leaves it out of the forward; or semantic, which "
        "freezes the detector",
    )
    cache_features: bool = _field(
        False, "with --streams semantic: run the detector once, then train over its features"
    )
    cache_views: int = _field(
        1, "passes over the images when features are cached; all but the first are augmented", "chosen: 1 or 2"
    )
    align_weight_start: float = _field(0.0, "lambda_align(t) at the first step", "chosen: 0 or 1")
    align_weight_end: float | None = _field(
        None, "lambda_align(t) at the last step", "the `align_weight` of the config"
    )
    align_weight_shape: str = _field(
        "cosine",
        "how lambda_align(t) goes from start to end: cosine (half a cosine, the paper's), linear, or constant, at the "
        "end point",
    )
    semantic_learning_rate: float | None = _field(
        None, "of the semantic stream", "chosen; `--learning-rate` where that is given"
    )
    backbone_learning_rate: float | None = _field(
        None, "of the detector's backbone", "chosen; `--learning-rate` where that is given"
    )
    freeze_backbone: bool = _field(
        False, "the detector's backbone learns nothing and keeps its batch norm statistics", "chosen"
    )
    max_grad_norm: float = _field(
        0.1, "clips the localization stream, apart from the other; 0 switches all clipping off"
    )
    semantic_max_grad_norm: float = _field(1.0, "clips the semantic stream, apart from the other")
    ema_decay: float | None = _field(
        None, "such as 0.999: evaluation and the saved model use a moving average of the trained weights"
    )
    eval_pictures: int = _field(8, "validation images that are drawn at each evaluation of a run; 0 for none")
    eval_max_detections: int | None = _field(
        None, "detections kept per image in evaluation", "100; 300 of a file that is federated as LVIS is"
    )
    overwrite_output_dir: bool = _field(
        False,
        "a run that begins removes the checkpoints of other runs from the output folder; otherwise it does not begin "
        "where they are",
    )
    learning_rate: float = _field(1e-4, "of the localization stream, and of what has no rate of its own", "chosen")
    weight_decay: float = _field(1e-4, "AdamW's weight decay")
    # Columns are dropped by signature otherwise, and label dicts of streamed data would be sliced.
    remove_unused_columns: bool = _field(False, "must stay false for detection")
    # The pool and the vocabulary are buffers that every process updates alike; broadcasting them costs time.
    ddp_broadcast_buffers: bool | None = _field(False, "DDP's broadcast_buffers")

    def __post_init__(self) -> None:
        if self.metric_for_best_model is None and needs_metric(self):  # the library's default, "loss", is not measured
            self.metric_for_best_model = default_metric(self.streams)
        super().__post_init__()
        if self.streams not in STREAMS:
            raise ValueError(f"streams must be one of {', '.join(STREAMS)}, got {self.streams!r}.")
        if self.align_weight_shape not in ALIGN_SHAPES:
            raise ValueError(
                f"align_weight_shape must be one of {', '.join(ALIGN_SHAPES)}, got {self.align_weight_shape!r}."
            )
        if self.cache_features and self.streams != "semantic":
            raise ValueError("cache_features=True needs streams='semantic': the other streams train the detector.")
        if self.cache_views < 1:
            raise ValueError(f"cache_views must be at least 1, got {self.cache_views}.")
        if self.cache_views > 1 and not self.cache_features:
            raise ValueError(f"cache_views={self.cache_views} needs cache_features=True: nothing is cached otherwise.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, got {self.ema_decay}.")
        self.metric_for_best_model, replaced = self._metric_of_boxes(), self.metric_for_best_model
        if replaced != self.metric_for_best_model:
            self.greater_is_better = True
            logger.warning(
                "metric_for_best_model=%s is of names, which streams=localization does not train: %s chooses the best "
                "checkpoint.",
                replaced,
                self.metric_for_best_model,
            )
        if self.eval_pictures < 0:
            raise ValueError(f"eval_pictures must be at least 0, got {self.eval_pictures}.")
        check_fields(self)
        if self.device.type == "cpu":  # torch would warn in every run that there is nothing to pin memory for
            self.dataloader_pin_memory = False
        if self.n_gpu > 1:
            raise ValueError(
                f"DataParallel over {self.n_gpu} GPUs is not supported: start with `accelerate launch -m "
                "decodetr.train` or `torchrun`, or choose one GPU with CUDA_VISIBLE_DEVICES=0."
            )

    def _metric_of_boxes(self):
        """The metric that chooses the best checkpoint; where only boxes are trained, one of names is replaced."""
        metric = self.metric_for_best_model
        if self.streams != "localization" or metric is None or "class_agnostic" in metric:
            return metric
        return _NAME_METRIC.sub("class_agnostic_AP50", metric)
