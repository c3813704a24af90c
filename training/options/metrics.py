"""Which metric chooses the best checkpoint of a run: it must be one that an evaluation gives."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from decodetr.evaluation.detection_evaluator import expect_areas
from decodetr.evaluation.output_evaluator import COCO_DETECTIONS, FEDERATED_DETECTIONS, output_metric_names, rules_of
from decodetr.utils.excerpts import some_of

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments


def needs_metric(args: "DeCoDetrTrainingArguments") -> bool:
    """Whether a run reads a metric from its evaluations (DeCoDetrTrainingArguments): to choose a checkpoint, or a
    learning rate, or to stop."""
    reads = args.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") or args.save_strategy == "best"
    return bool(args.load_best_model_at_end or reads or args.early_stopping_patience is not None)


def default_metric(streams: str, novel: bool = False) -> str:
    """The metric of a run that names none: of localization alone where only that learns. With novel names AP50 of base
    names, because novel ones must not choose."""
    if streams == "localization":
        return "eval_class_agnostic_AP50"
    return "eval_AP50_base" if novel else "eval_AP50"


def full_name(metric: str | None) -> str:
    """The name that an evaluation during training gives a metric: with "eval_", which need not be typed."""
    return metric if metric and metric.startswith("eval_") else f"eval_{metric}"


def check_metric(
    args: "DeCoDetrTrainingArguments",
    groups: Sequence[str] = (),
    novel: bool = False,
    empty: Collection[str] = (),
    max_detections: Iterable[int] = (COCO_DETECTIONS, FEDERATED_DETECTIONS),
    prefix: str = "eval",
) -> None:
    """Check `metric_for_best_model` before the first step.

    Args:
        args (DeCoDetrTrainingArguments). groups: names of the groups of names besides novel and base.
        novel (bool): names are split into novel and base. empty: groups whose names have no object.
        max_detections: what may be kept per image, where the arguments do not say it. prefix (str): of the metrics.

    Raises:
        ValueError: an evaluation does not give it, it has no value, or it would choose the worst.
    """
    if not needs_metric(args):
        return
    given = args.metric_for_best_model
    kept = max_detections if args.eval_max_detections is None else (args.eval_max_detections,)
    known = [f"{prefix}_{name}" for most in kept for name in output_metric_names(most, groups, novel)]
    known = list(dict.fromkeys(known))
    if args.streams == "localization":  # the names are those of a stream that does not learn
        known = [name for name in known if name.startswith(f"{prefix}_class_agnostic_")]
    name = full_name(given)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"give one of {', '.join(known)}"
        why = "; there are no novel names to tell apart" if name.endswith(("_novel", "_base")) and not novel else ""
        raise ValueError(
            f"--metric-for-best-model {given}: no metric of an evaluation during training{why}; {hint}"
            if given
            else f"give --metric-for-best-model, one of {', '.join(known)}"
        )
    if (group := name.rpartition("_")[2]) in empty:
        raise ValueError(
            f"--metric-for-best-model {given}: the validation data have no object of {group} names, so it has no "
            f"value; {default_metric(args.streams).replace('eval', prefix, 1)} has one"
        )
    if args.greater_is_better is False:
        raise ValueError(f"--greater-is-better false: {given} is better the higher it is; leave it out")


_MORE_NAMES = (
    "give --deploy-vocabulary with them (decodetr vocabulary build), other --val-annotations, or --val-annotations "
    "none"
)


def check_names(coco: "CocoAnnotations", names: Collection[str], remedy: str = _MORE_NAMES) -> set[str]:
    """Check that a model has every name with objects in its validation data.

    Args:
        coco: annotations of the evaluation. names: of the saved model. remedy: what to do, in the words of a command.

    Returns:
        set[str]: the names with objects.

    Raises:
        ValueError: it has not. Says which, and the remedy.
    """
    index = coco.annotations_by_image
    numbers = set(index.column("category", crowds=False).tolist())
    used = {name for number, name in enumerate(coco.names) if number in numbers}
    if missing := [name for name in coco.names if name in used - set(names)]:
        raise ValueError(
            f"{coco.file}: {len(missing)} names of the validation data are not among the {len(names)} of the saved "
            f"model: {some_of(missing)}; {remedy}"
        )
    return used


def check_evaluation(
    args: "DeCoDetrTrainingArguments",
    coco: "CocoAnnotations",
    names: Collection[str],
    novel_names: Iterable[str] | None = None,
    groups: Mapping[str, Iterable[str]] | None = None,
    prefix: str = "eval",
    reads_metric: bool = True,
) -> None:
    """Check, before the first step, that evaluations of a run can be made and give the metric that it reads.

    Args:
        args (DeCoDetrTrainingArguments). coco: annotations of the evaluation. names (list[str]): of the model then.
        novel_names: of the split, or None. groups: {group: names} besides novel and base, or None.
        prefix (str): of its metrics. reads_metric (bool): the metric that the run reads, if any, is one of them.

    Raises:
        ValueError: names with objects that the model lacks, a federated file without an area, or see
            [`check_metric`].
    """
    if rules_of(coco)["federated"]:
        expect_areas(coco.file, coco.annotations_by_image.column("area"))
    used, novel = check_names(coco, names), set(novel_names or ())
    if not reads_metric:
        return
    members = dict(groups or {}) | ({"novel": novel, "base": set(coco.names) - novel} if novel else {})
    empty = [group for group, some in members.items() if not used & set(some)]
    kept = rules_of(coco, args.eval_max_detections)["max_detections"]
    check_metric(args, list(groups or ()), bool(novel), empty, (kept,), prefix)
