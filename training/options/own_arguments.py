"""The fields that DeCoDetrTrainingArguments adds to transformers.TrainingArguments, or gives another default.

Apart from arguments.py, so that `decodetr train --help` explains them without importing transformers.
docs/training_options.md has them as a table.
"""

from dataclasses import dataclass, field

# Which of them belong together. HfArgumentParser hands metadata on to argparse, so this has no place there.
GROUPS = {
    "streams": "streams cache_features cache_views cache_folder cache_query_bytes freeze_backbone",
    "rates, weights and clipping": "learning_rate semantic_learning_rate backbone_learning_rate align_weight_start "
    "align_weight_end align_weight_shape weight_decay max_grad_norm semantic_max_grad_norm ema_decay",
    "evaluation": "eval_pictures eval_max_detections early_stopping_patience early_stopping_threshold",
    "the run": "overwrite_output_dir hub_license remove_unused_columns ddp_broadcast_buffers",
}


def _field(default, text, shown=None):
    """A field with its help, and the default that is shown where the value does not say it."""
    return field(default=default, metadata={"help": text} | ({"default": shown} if shown else {}))


def option_of(name: str) -> str:
    """The option of a field: `--overwrite` for overwrite_output_dir, else its name with dashes."""
    return "--overwrite" if name == "overwrite_output_dir" else "--" + name.replace("_", "-")


@dataclass
class OwnArguments:
    """Fields of [`DeCoDetrTrainingArguments`], which checks them."""

    streams: str = _field(
        "joint",
        "which streams learn. joint: both. localization: the detector; the semantic stream is frozen and not "
        "computed. semantic: the semantic stream; the detector is frozen",
    )
    cache_features: bool = _field(
        False, "with `--streams semantic`: compute the features of the detector once, and train on them"
    )
    cache_views: int = _field(
        1,
        "with `--cache-features`: views of each image to compute; all but the first are augmented",
        "chosen: 1 or 2",
    )
    cache_folder: str | None = _field(
        None,
        "with `--cache-features`: folder of the features, which stays, and serves every run of the same detector, "
        "names, data and settings",
        "`_features` in the output, until the run is done",
    )
    cache_query_bytes: int | None = _field(
        None,
        "with `--cache-features`: bytes that a query may take on the disk; samples of the feature maps are coded in "
        "as few bits as fit",
        "10,000 if all would take more than 8 GB as they are",
    )
    align_weight_start: float = _field(0.0, "lambda_align(t) at the first step", "chosen: 0 or 1")
    align_weight_end: float | None = _field(
        None, "lambda_align(t) at the last step", "the `align_weight` of the config"
    )
    align_weight_shape: str = _field(
        "cosine",
        "how lambda_align(t) changes from the start to the end value. cosine: half a cosine, as in the paper. linear: "
        "a straight line. constant: the end value at every step",
    )
    semantic_learning_rate: float | None = _field(
        None, "learning rate of the semantic stream", "chosen; `--learning-rate` if that is given"
    )
    backbone_learning_rate: float | None = _field(
        None, "learning rate of the detector's backbone", "chosen; `--learning-rate` if that is given"
    )
    freeze_backbone: bool = _field(
        False, "freeze the weights and the batch norm statistics of the detector's backbone", "chosen"
    )
    max_grad_norm: float = _field(
        0.1,
        "clip the gradient of the localization stream to this norm, separately from the semantic stream. 0: clip "
        "neither stream",
    )
    semantic_max_grad_norm: float = _field(
        1.0,
        "clip the gradient of the semantic stream to this norm, separately from the localization stream",
    )
    ema_decay: float | None = _field(
        None,
        "keep a moving average of the trained weights with this decay, such as 0.999; evaluate and save the average",
    )
    eval_pictures: int = _field(8, "draw this many validation images with detections at each evaluation; 0: none")
    eval_max_detections: int | None = _field(
        None,
        "detections to keep per image in evaluation",
        "100; 300 if the data are federated as LVIS is",
    )
    early_stopping_patience: int | None = _field(
        None,
        "end the run when so many evaluations in a row have not raised `metric_for_best_model`, and keep the best "
        "model; evaluations at twentieths of the run and checkpoints after them, unless given",
    )
    early_stopping_threshold: float = _field(
        0.0,
        "with `--early-stopping-patience`: a rise counts if it is more than this, such as 0.001 (0.1 points of AP)",
    )
    overwrite_output_dir: bool = _field(
        False,
        "replace what an earlier run wrote into the output folder, and remove its checkpoints. If false, an "
        "unfinished run goes on, and a finished one or another is an error",
    )
    hub_license: str | None = _field(
        None,
        "with `--push-to-hub true`, which needs it: license of the weights for their card, as the Hub spells it, such "
        "as apache-2.0; `unknown` states none",
    )
    learning_rate: float = _field(
        1e-4,
        "learning rate of the localization stream, and of the parts that have no rate given",
        "chosen",
    )
    weight_decay: float = _field(1e-4, "weight decay of AdamW")
    # Columns are dropped by signature otherwise, and label dicts of streamed data would be sliced.
    remove_unused_columns: bool = _field(False, "must stay false for detection")
    # The pool and the vocabulary are buffers that every process updates alike. Broadcasting them costs time. Running
    # statistics are not alike, and are shared where it matters (running_statistics.py).
    ddp_broadcast_buffers: bool | None = _field(
        False,
        "broadcast the first process's buffers before each forward; not needed: pool and names are updated alike, and "
        "evaluations and checkpoints share the statistics of batch norms",
    )
