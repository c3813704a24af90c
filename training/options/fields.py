"""What each field of the training arguments is to a run: it decides the result, its length, or only how the run is
done; or it means nothing in detection and is refused.

Every field has one place here, so that none is accepted and ignored (words for users: docs/training_options.md).
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

# Another value makes another run: a checkpoint of one is not a checkpoint of the other.
DECIDES = frozenset(
    """
    learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1
    adam_beta2 adam_epsilon max_grad_norm auto_find_batch_size load_best_model_at_end metric_for_best_model
    greater_is_better seed data_seed accelerator_config dataloader_drop_last train_sampling_strategy
    streams cache_features cache_views cache_query_bytes align_weight_start align_weight_end align_weight_shape
    semantic_learning_rate backbone_learning_rate freeze_backbone semantic_max_grad_norm ema_decay eval_max_detections
    early_stopping_patience early_stopping_threshold
    """.split()
)
# How long it goes: a run may be made longer. The batch is compared as a whole, over accumulation and processes.
LENGTH = frozenset("max_steps num_train_epochs".split())
BATCH = frozenset("per_device_train_batch_size gradient_accumulation_steps".split())
# Where and how it is computed, watched and kept. Precision and compilation are here: the same run, rounded otherwise.
RUNNING = frozenset(
    """
    output_dir cache_folder overwrite_output_dir resume_from_checkpoint bf16 fp16 tf32 activation_checkpointing
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile
    torch_compile_backend torch_compile_mode torch_empty_cache_steps full_determinism use_cpu
    logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level
    log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
    trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start eval_pictures
    save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision hub_license
    ignore_data_skip restore_callback_states_from_checkpoint debug skip_memory_metrics
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order
    local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
    ddp_timeout fsdp fsdp_config deepspeed
    """.split()
)
# A run of `decodetr train` always trains, evaluates where there are validation data, and predicts nothing.
# transformers sets do_eval itself. What is averaged over devices are counts of text tokens.
WITHOUT_EFFECT = frozenset("do_train do_eval do_predict average_tokens_across_devices length_column_name".split())
_METRICS = "evaluation is streamed and computes its metrics itself (decodetr.evaluation)"
_TEXT = "it is for models of texts"
# Any value but the library's default is an error, with this reason.
REFUSED = {
    "remove_unused_columns": "it would drop the labels; leave it False",
    "label_names": "the labels of detection are called labels",
    "label_smoothing_factor": "names are learned by embeddings and boxes by matching: there are no classes to smooth",
    "prediction_loss_only": _METRICS,
    "eval_do_concat_batches": _METRICS,
    "eval_use_gather_object": _METRICS,
    "eval_accumulation_steps": _METRICS,
    "include_for_metrics": _METRICS,
    "batch_eval_metrics": _METRICS,
    "bf16_full_eval": "evaluation runs in the precision of training; give --bf16 true",
    "fp16_full_eval": "evaluation runs in the precision of training; give --fp16 true",
    "optim_target_modules": "the parameter groups are those of the two streams (semantic_learning_rate, "
    "backbone_learning_rate)",
    "use_liger_kernel": _TEXT,
    "liger_kernel_config": _TEXT,
    "use_cache": _TEXT,
    "neftune_noise_alpha": _TEXT,
    "include_num_input_tokens_seen": _TEXT,
    "parallelism_config": "the model cannot be divided between devices; use several processes (DDP), or --fsdp true",
}
_OTHER_GROUPS = ("galore", "apollo", "lomo")
_LISTED = DECIDES | LENGTH | BATCH | RUNNING | WITHOUT_EFFECT | REFUSED.keys()


def check_fields(args: "DeCoDetrTrainingArguments") -> None:
    """
    Args:
        args (DeCoDetrTrainingArguments).

    Raises:
        ValueError: a field that means nothing here has another value than its default. The message says why.
    """
    for field in dataclasses.fields(args):
        if field.name not in REFUSED:
            continue
        value = getattr(args, field.name)
        if value != default_of(field):
            raise ValueError(f"{field.name}={value!r} has no meaning here: {REFUSED[field.name]}; leave it out.")
    if (optimizer := getattr(args.optim, "value", args.optim)) and any(word in optimizer for word in _OTHER_GROUPS):
        raise ValueError(
            f"optim={optimizer} makes new parameter groups, but training needs those of the two streams; "
            "expected another, such as adamw_torch_fused, sgd or adafactor."
        )
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy={args.train_sampling_strategy!r} has no meaning here: images have no length; "
            "expected random or sequential."
        )


# Arguments of transformers' Trainer that would change nothing: the model has its loss and the evaluation its metrics.
_NO_CALLABLES = {
    "compute_loss_func": "the losses are those of the model; weigh them by its config (distill_weight, align_weight), "
    "or override DeCoDetrTrainer.compute_loss",
    "compute_metrics": "evaluation is streamed and computes its metrics itself (decodetr.evaluation); compute others "
    "from what trainer.predict(dataset).predictions holds",
    "preprocess_logits_for_metrics": "evaluation is streamed; trainer.predict(dataset).predictions holds detections",
}


def check_arguments(
    args: object, model: "nn.Module | None", model_init: "Callable[..., nn.Module] | None", kwargs: dict[str, Any]
) -> None:
    """ValueError for arguments of `transformers.Trainer` that contradict each other, or that DeCoDetrTrainer could
    only ignore, and TypeError for training arguments of another class. kwargs: those that it hands on."""
    if not hasattr(args, "streams"):
        raise TypeError(
            "args: expected DeCoDetrTrainingArguments, which have all fields of TrainingArguments, got "
            f"{type(args).__name__}"
        )
    if (model is None) == (model_init is None):
        raise ValueError("give either model or model_init, got " + ("neither" if model is None else "both"))
    if model_init is not None and any(part is not None for part in kwargs.get("optimizers") or ()):
        raise ValueError("model_init makes new models, and optimizers belong to one: leave out optimizers")
    for name, why in _NO_CALLABLES.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"DeCoDetrTrainer has no {name}: {why}.")
    accepted(model)


def accepted(model: Any) -> Any:
    """The model itself. ValueError for a `PeftModel` around one: it names weights in another way, so that the streams
    cannot be told apart, and its folder holds an adapter alone, without names, from which no run goes on."""
    if any(kind.__module__.partition(".")[0] == "peft" for kind in type(model).__mro__):
        raise ValueError(
            f"expected a DeCoDetrForObjectDetection, got a {type(model).__name__} of PEFT around one: DeCoDetrTrainer "
            "trains and saves whole models. Give it model.merge_and_unload().requires_grad_(True), the model with "
            "what the adapters have learned; streams='semantic' or freeze_backbone=True train fewer weights. Adapters "
            "are trained in a loop of your own, with the model's loss."
        )
    return model


def check_weights(model: "nn.Module") -> None:
    """ValueError for a model that shall be trained whose weights are in half precision: most steps are smaller than
    what these can hold, and an average of them hardly moves."""
    half = {str(weight.dtype).removeprefix("torch.") for weight in model.parameters()} & {"bfloat16", "float16"}
    if half:
        raise ValueError(
            f"expected a model with weights in float32 to train, got some in {' and '.join(sorted(half))}, which lose "
            "the small steps of training: give model.float(), and bf16=True (--bf16 true) to compute in half precision"
        )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass field."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def deciding(args: "DeCoDetrTrainingArguments") -> dict[str, Any]:
    """{field: value} of the arguments that decide the result, as JSON has them, and "images a step". A field that a
    newer transformers adds counts as one that decides, once it has another value than its default."""
    stored, found = args.to_dict(), {}
    for field in dataclasses.fields(args):
        if field.name in DECIDES or (field.name not in _LISTED and getattr(args, field.name) != default_of(field)):
            found[field.name] = stored.get(field.name)
    images = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return found | {"images a step": images}


def length(args: "DeCoDetrTrainingArguments") -> dict[str, float]:
    """{field: value} of the arguments that say how long a run is."""
    return {name: getattr(args, name) for name in sorted(LENGTH)}
