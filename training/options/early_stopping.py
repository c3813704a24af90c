"""`--early-stopping-patience`: a run ends when its metric no longer rises, by transformers' EarlyStoppingCallback."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import EarlyStoppingCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

SHARE = 0.05  # of the steps: evaluations of a run that does not say when


def early_stopping_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that stops early needs besides, where it is not given: evaluations, checkpoints after them, and the
    best model at the end.

    Args:
        given: fields of DeCoDetrTrainingArguments that the user gives.

    Returns:
        {field: value}. Empty where nothing stops early.
    """
    if given.get("early_stopping_patience") is None:
        return {}
    when = {name: given[name] for name in ("eval_strategy", "eval_steps") if name in given}
    if not when or (when.get("eval_strategy") == "steps" and "eval_steps" not in when):
        when["eval_steps"] = SHARE
    when.setdefault("eval_strategy", "steps")
    needed = {**when, "load_best_model_at_end": True, "save_total_limit": 2}
    if not {"save_strategy", "save_steps"} & given.keys():
        needed["save_strategy"] = when["eval_strategy"]
        if "eval_steps" in when:
            needed["save_steps"] = when["eval_steps"]
    return {name: value for name, value in needed.items() if name not in given}


def check_early_stopping(args: "DeCoDetrTrainingArguments") -> None:
    """Raise ValueError where the fields of early stopping cannot be obeyed."""
    patience, threshold = args.early_stopping_patience, args.early_stopping_threshold
    if patience is None:
        if threshold:
            raise ValueError(f"early_stopping_threshold={threshold:g} needs early_stopping_patience.")
        return
    if patience < 1:
        raise ValueError(f"early_stopping_patience must be at least 1, got {patience}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"early_stopping_threshold must lie in 0..1, as AP does, got {threshold:g}.")
    if args.eval_strategy == "no":
        raise ValueError(f"early_stopping_patience={patience} needs evaluations: give eval_strategy=steps or epoch.")
    if args.metric_for_best_model is None:  # of a trial: else there is a default
        raise ValueError(f"early_stopping_patience={patience} needs metric_for_best_model, such as AP50.")


class EarlyStopping(EarlyStoppingCallback):
    """As the library's, with the patience and the threshold of the arguments, which a trial may change. Without a
    patience it does nothing. A run that goes on from a checkpoint counts on from what that had counted, and one that
    had stopped stays as it is."""

    def on_train_begin(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # which the library wants of all
        if args.early_stopping_patience is None:
            return
        check_early_stopping(args)
        self.early_stopping_patience = args.early_stopping_patience
        self.early_stopping_threshold = 100 * args.early_stopping_threshold
        super().on_train_begin(args, state, control, **kwargs)
        # What the state of a run that begins has is left of the run before, such as another trial.
        stored = state.stateful_callbacks[type(self).__name__] if state.global_step else {}
        self.early_stopping_patience_counter = stored.get("attributes", {}).get("early_stopping_patience_counter", 0)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: "DeCoDetrTrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if args.early_stopping_patience is not None:
            super().on_evaluate(args, state, control, metrics, **kwargs)
