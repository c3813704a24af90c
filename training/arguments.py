"""The arguments of a training run."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

STREAMS = ("joint", "localization", "semantic")


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
            lambda_align(t), which rises as half a cosine over the run (PAPER.md 3.2; the end points are ours).
        semantic_learning_rate, backbone_learning_rate (`float`, default: `learning_rate`): per parameter group.
        max_grad_norm (`float`): clips the localization stream; 0.1 as in DETR. 0 switches all clipping off.
        semantic_max_grad_norm (`float`): clips the semantic stream, apart from the other.
        eval_max_detections (`int`): detections kept per image in evaluation.
    """

    streams: str = field(default="joint", metadata={"help": "joint, localization or semantic"})
    cache_features: bool = field(default=False, metadata={"help": "semantic: train over cached detector features"})
    cache_views: int = field(default=1, metadata={"help": "cached passes, all but the first augmented"})
    align_weight_start: float = field(default=0.0, metadata={"help": "lambda_align at the first step"})
    align_weight_end: float | None = field(default=None, metadata={"help": "lambda_align at the last step"})
    semantic_learning_rate: float | None = field(default=None, metadata={"help": "of the semantic stream"})
    backbone_learning_rate: float | None = field(default=None, metadata={"help": "of the detector's backbone"})
    max_grad_norm: float = field(default=0.1, metadata={"help": "clipping of the localization stream"})
    semantic_max_grad_norm: float = field(default=1.0, metadata={"help": "clipping of the semantic stream"})
    eval_max_detections: int = field(default=100, metadata={"help": "detections kept per image in evaluation"})
    learning_rate: float = field(default=1e-4, metadata={"help": "of the localization stream"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW weight decay"})
    # Columns are dropped by signature otherwise, and label dicts of streamed data would be sliced.
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay False for detection"})
    # The pool and the vocabulary are buffers that every process updates alike; broadcasting them costs time.
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "DDP's broadcast_buffers"})

    def __post_init__(self):
        super().__post_init__()
        if self.streams not in STREAMS:
            raise ValueError(f"streams must be one of {', '.join(STREAMS)}, got {self.streams!r}.")
        if self.cache_features and self.streams != "semantic":
            raise ValueError("cache_features=True needs streams='semantic': the other streams train the detector.")
        if self.cache_views < 1:
            raise ValueError(f"cache_views must be at least 1, got {self.cache_views}.")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: it would drop the labels.")
        if self.n_gpu > 1:
            raise ValueError(
                f"DataParallel over {self.n_gpu} GPUs is not supported: start with `accelerate launch -m "
                "decodetr.train` or `torchrun`, or choose one GPU with CUDA_VISIBLE_DEVICES=0."
            )
