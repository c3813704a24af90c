"""The fields that DeCoDetrTrainingArguments adds to transformers.TrainingArguments, or gives another default.

Apart from arguments.py, so that `decodetr train --help` explains them without importing transformers. docs/training.md
has them as a table.
"""

from dataclasses import dataclass, field

# Of metadata["group"]: where --help shows a field.
STREAMS, LEARNING, EVALUATION, RUN = "streams", "rates, weights and clipping", "evaluation", "the run"


def _field(default, text, shown=None, group=RUN, **more):
    """A field with its help, its group, and the default that is shown where the value does not say it."""
    metadata = {"help": text, "group": group, **more} | ({"default": shown} if shown else {})
    return field(default=default, metadata=metadata)


@dataclass
class OwnArguments:
    """Fields of [`DeCoDetrTrainingArguments`], which checks them."""

    streams: str = _field(
        "joint",
        "which streams learn. joint: both. localization: the detector; the semantic stream is frozen and not "
        "computed. semantic: the semantic stream; the detector is frozen",
        group=STREAMS,
    )
    cache_features: bool = _field(
        False, "with `--streams semantic`: compute the features of the detector once, and train on them", group=STREAMS
    )
    cache_views: int = _field(
        1,
        "with `--cache-features`: views of each image to compute; all but the first are augmented",
        "chosen: 1 or 2",
        group=STREAMS,
    )
    align_weight_start: float = _field(0.0, "lambda_align(t) at the first step", "chosen: 0 or 1", group=LEARNING)
    align_weight_end: float | None = _field(
        None, "lambda_align(t) at the last step", "the `align_weight` of the config", group=LEARNING
    )
    align_weight_shape: str = _field(
        "cosine",
        "how lambda_align(t) changes from the start to the end value. cosine: half a cosine, as in the paper. linear: "
        "a straight line. constant: the end value at every step",
        group=LEARNING,
    )
    semantic_learning_rate: float | None = _field(
        None, "learning rate of the semantic stream", "chosen; `--learning-rate` if that is given", group=LEARNING
    )
    backbone_learning_rate: float | None = _field(
        None, "learning rate of the detector's backbone", "chosen; `--learning-rate` if that is given", group=LEARNING
    )
    freeze_backbone: bool = _field(
        False, "freeze the weights and the batch norm statistics of the detector's backbone", "chosen", group=STREAMS
    )
    max_grad_norm: float = _field(
        0.1,
        "clip the gradient of the localization stream to this norm, separately from the semantic stream. 0: clip "
        "neither stream",
        group=LEARNING,
    )
    semantic_max_grad_norm: float = _field(
        1.0,
        "clip the gradient of the semantic stream to this norm, separately from the localization stream",
        group=LEARNING,
    )
    ema_decay: float | None = _field(
        None,
        "keep a moving average of the trained weights with this decay, such as 0.999; evaluate and save the average",
        group=LEARNING,
    )
    eval_pictures: int = _field(
        8, "draw this many validation images with detections at each evaluation; 0: none", group=EVALUATION
    )
    eval_max_detections: int | None = _field(
        None,
        "detections to keep per image in evaluation",
        "100; 300 if the data are federated as LVIS is",
        group=EVALUATION,
    )
    overwrite_output_dir: bool = _field(
        False,
        "remove the checkpoints of other runs from the output folder when a run starts; if false, such checkpoints "
        "are an error",
        flags=("--overwrite",),
    )
    learning_rate: float = _field(
        1e-4,
        "learning rate of the localization stream, and of the parts that have no rate given",
        "chosen",
        group=LEARNING,
    )
    weight_decay: float = _field(1e-4, "weight decay of AdamW", group=LEARNING)
    # Columns are dropped by signature otherwise, and label dicts of streamed data would be sliced.
    remove_unused_columns: bool = _field(False, "must stay false for detection")
    # The pool and the vocabulary are buffers that every process updates alike. Broadcasting them costs time.
    ddp_broadcast_buffers: bool | None = _field(
        False, "broadcast buffers between processes; not needed, because all processes update them alike"
    )
