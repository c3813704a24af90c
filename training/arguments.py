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


@dataclass
class DeCoDetrTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` with the defaults that detection needs, and:

    Args:
        streams (`str`): "joint", "localization" (the semantic stream is frozen) or "semantic" (the detector is
            frozen).
        cache_features (`bool`): with "semantic": run the detector once, then train over its cached features.
        cache_views (`int`): passes over the images when features are cached; those after the first see augmented
            images.
        align_weight_start (`float`), align_weight_end (`float`, default: the config's `align_weight`): end points of
            lambda_align(t) over the run (paper 3.2; the end points are ours).
        align_weight_shape (`str`): "cosine" (half a cosine, the paper's), "linear", or "constant" (the end point).
        semantic_learning_rate, backbone_learning_rate (`float`, default: `learning_rate`): per parameter group.
        freeze_backbone (`bool`): the detector's backbone learns nothing and keeps its batch norm statistics.
        max_grad_norm (`float`): clips the localization stream; 0.1 as in DETR. 0 switches all clipping off.
        semantic_max_grad_norm (`float`): clips the semantic stream, apart from the other.
        ema_decay (`float`): keep a moving average of the trained weights; evaluation and the saved model use it.
        eval_max_detections (`int`): detections kept per image in evaluation; default: 100, and 300 of a file that is
            federated as LVIS is, which is evaluated by LVIS' rules.
        metric_for_best_model (`str`): of names, it is replaced by the class-agnostic AP50 where streams is
            "localization": the names would be those of a stream that does not learn, at first one of random weights.
        overwrite_output_dir (`bool`): a run that begins removes the checkpoints of other runs from `output_dir`;
            otherwise it does not begin beside them.
        eval_pictures (`int`): how many validation images are drawn at each evaluation of a run; 0 for none.
    """

    streams: str = field(default="joint", metadata={"help": "joint, localization or semantic"})
    cache_features: bool = field(default=False, metadata={"help": "semantic: train over cached detector features"})
    cache_views: int = field(default=1, metadata={"help": "cached passes, all but the first augmented"})
    align_weight_start: float = field(default=0.0, metadata={"help": "lambda_align at the first step"})
    align_weight_end: float | None = field(default=None, metadata={"help": "lambda_align at the last step"})
    align_weight_shape: str = field(default="cosine", metadata={"help": "cosine, linear or constant"})
    semantic_learning_rate: float | None = field(default=None, metadata={"help": "of the semantic stream"})
    backbone_learning_rate: float | None = field(default=None, metadata={"help": "of the detector's backbone"})
    freeze_backbone: bool = field(default=False, metadata={"help": "leave the detector's backbone as it is"})
    max_grad_norm: float = field(default=0.1, metadata={"help": "clipping of the localization stream"})
    semantic_max_grad_norm: float = field(default=1.0, metadata={"help": "clipping of the semantic stream"})
    ema_decay: float | None = field(default=None, metadata={"help": "of the average of the weights, such as 0.999"})
    eval_pictures: int = field(default=8, metadata={"help": "validation images drawn at each evaluation"})
    eval_max_detections: int | None = field(default=None, metadata={"help": "kept per image (100; 300 of LVIS)"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "remove the checkpoints of other runs there"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of the localization stream"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW weight decay"})
    # Columns are dropped by signature otherwise, and label dicts of streamed data would be sliced.
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay False for detection"})
    # The pool and the vocabulary are buffers that every process updates alike; broadcasting them costs time.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "DDP's broadcast_buffers"})

    def __post_init__(self):
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
