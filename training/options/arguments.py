"""The arguments of a training run."""

import copy
import logging
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments

from decodetr.training.options.early_stopping import check_early_stopping
from decodetr.training.options.fields import check_fields
from decodetr.training.options.metrics import default_metric, needs_metric
from decodetr.training.options.own_arguments import OwnArguments

logger = logging.getLogger(__name__)

_NAME_METRIC = re.compile(r"(?<![A-Za-z])(AP|AR)\w*$")  # "AP50_base" of "eval_AP50_base"
STREAMS = ("joint", "localization", "semantic")
# How lambda_align(t) goes from start (1) to end (0) over the progress of a run (paper 3.2: cosine).
ALIGN_SHAPES = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 0.0,
}


@dataclass
class DeCoDetrTrainingArguments(OwnArguments, TrainingArguments):
    """
    `transformers.TrainingArguments` with the defaults that detection needs, and with the fields of [`OwnArguments`].

    A `metric_for_best_model` of names is replaced by the class-agnostic AP50 where `streams` is "localization": the
    names would be those of a stream that does not learn, at first one of random weights.
    """

    def __post_init__(self) -> None:
        if self.metric_for_best_model is None and needs_metric(self):  # the library's default, "loss", is not measured
            self.metric_for_best_model: str | None = default_metric(self.streams)
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if (self.bf16 or processes > 1) and not torch.accelerator.is_available():
            # The library wants to be told so. Else each of several processes would be a run of its own.
            self.use_cpu: bool = True
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
        for name in ("cache_folder", "cache_query_bytes"):
            if (value := getattr(self, name)) is not None and not self.cache_features:
                raise ValueError(f"{name}={value} needs cache_features=True: nothing is cached otherwise.")
        if self.cache_query_bytes is not None and self.cache_query_bytes < 1:
            raise ValueError(f"cache_query_bytes must be at least 1, got {self.cache_query_bytes}.")
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
        if self.push_to_hub and self.hub_license in (None, "", "other"):
            raise ValueError(
                f"push_to_hub=True needs hub_license, got {self.hub_license!r}: the card of what is sent states one, "
                "as the Hub spells it (--hub-license apache-2.0), or `unknown`. One that the Hub does not know is "
                "written into the card afterwards: `decodetr card --license other`, then `decodetr push`."
            )
        check_early_stopping(self)
        check_fields(self)
        if self.device.type == "cpu":  # torch would warn in every run that there is nothing to pin memory for
            self.dataloader_pin_memory = False
        if self.n_gpu > 1:
            raise ValueError(
                f"DataParallel over {self.n_gpu} GPUs is not supported: start with `accelerate launch -m "
                "decodetr.train` or `torchrun`, or choose one GPU with CUDA_VISIBLE_DEVICES=0."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the token: pickled arguments lie with each model that a Trainer saves (training_args.bin)."""
        return {**vars(self), "hub_token": None}

    def __copy__(self) -> "DeCoDetrTrainingArguments":
        copied = object.__new__(type(self))
        copied.__dict__.update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeCoDetrTrainingArguments":
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(vars(self), memo))
        return copied

    def _metric_of_boxes(self):
        """The metric that chooses the best checkpoint. Where only boxes are trained, one of names is replaced."""
        metric = self.metric_for_best_model
        if self.streams != "localization" or metric is None or "class_agnostic" in metric:
            return metric
        return _NAME_METRIC.sub("class_agnostic_AP50", metric)
