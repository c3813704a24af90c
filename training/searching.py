"""A search for hyper-parameters, whose objective is the AP that chooses the best checkpoint."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from decodetr.training.options.metrics import default_metric, full_name

if TYPE_CHECKING:
    from transformers.trainer_utils import BestRun

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

_MADE_ONCE = ("cache_features", "cache_views", "cache_query_bytes", "cache_folder")


class SearchingTrainer(Trainer):
    """`transformers.Trainer`, which knows what a better trial is. There is no loss of evaluation here, and the
    library would minimize the sum of all metrics, of which sizes without an object have none."""

    args: "DeCoDetrTrainingArguments"
    novel_names: list[str] | None

    def hyperparameter_search(
        self,
        hp_space: Callable | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        **kwargs: Any,
    ) -> "BestRun | list[BestRun]":
        """
        As of `transformers.Trainer`, which needs `model_init`.

        Args:
            hp_space, n_trials, kwargs: of `transformers.Trainer.hyperparameter_search`.
            compute_objective: what is made of the metrics of an evaluation. Default: `metric_for_best_model`, AP50 of
                base names without one.
            direction: default: "maximize", or "minimize" where `greater_is_better` is False.
        """
        metric = self.args.metric_for_best_model or default_metric(self.args.streams, bool(self.novel_names))
        key = full_name(metric)
        if direction is None:
            direction = "minimize" if self.args.greater_is_better is False else "maximize"
        objective = compute_objective or (lambda metrics: metrics[key])
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, **kwargs)

    def _hp_search_setup(self, trial):
        made = {name: getattr(self.args, name) for name in _MADE_ONCE}
        super()._hp_search_setup(trial)
        if changed := [name for name, value in made.items() if getattr(self.args, name) != value]:
            vars(self.args).update(made)
            raise ValueError(
                f"{' and '.join(changed)} cannot be searched: features are computed once, when the trainer is made; "
                "make a trainer for each value"
            )
