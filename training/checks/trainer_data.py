"""What DeCoDetrTrainer asks of its data sets, before the first step."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from decodetr.training.data.dataloading import check_full_batch
from decodetr.training.options.fields import check_weights
from decodetr.training.options.metrics import check_evaluation, full_name

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from decodetr.training.trainer import DeCoDetrTrainer

_MEND = (
    "give a DetectionDataset, which `coco` and an image processor make; of some images of one: "
    "DetectionDataset(dataset.coco.select_images(ids), ...) instead of Subset or random_split"
)


def check_before_training(trainer: "DeCoDetrTrainer") -> None:
    """What cannot work is known before the first step.

    Raises:
        ValueError: labels of other names than the model's, weights in half precision, no full batch where only full
            ones are used, or an evaluation that cannot be made, lacks names or the metric that is asked for.
    """
    check_full_batch(trainer.args, trainer.train_dataset)
    if trainer.model_init is None:  # the model may have been changed since the Trainer was made
        check_names(trainer.train_dataset, trainer.model.vocabulary.names)
        check_weights(trainer.model)
    # Of an evaluation that somebody changed they know what it needs.
    if getattr(trainer.evaluate, "__func__", None) is not Trainer.evaluate or trainer.eval_dataset is None:
        return
    if trainer.args.eval_strategy != "no":
        check_evaluated(trainer.eval_dataset, trainer.processing_class)
    names = (trainer.deployment_vocabulary or trainer.training_vocabulary).names
    data, metric = trainer.eval_dataset, full_name(trainer.args.metric_for_best_model)
    parts = {f"eval_{part}": dataset for part, dataset in data.items()} if isinstance(data, dict) else {"eval": data}
    # The metric is of one of the data sets. Where it names none, the first is asked, so that it says what it has.
    named = [part for part in parts if metric.startswith(f"{part}_")] or list(parts)[:1]
    of_metric = max(named, key=len, default=None)
    for part, dataset in parts.items():
        if (coco := getattr(dataset, "coco", None)) is not None:
            groups = trainer.groups(coco, names) if trainer.groups else None
            check_evaluation(trainer.args, coco, names, trainer.novel_names, groups, part, part == of_metric)


def check_names(dataset: "Dataset | None", names: Sequence[str]) -> None:
    """The labels of a data set count the names of the model, in their order.

    Args:
        dataset: that is trained on. Data sets that it is made of (Subset, ConcatDataset) are looked at, and one that
            says nothing of names is not. names: of the model.

    Raises:
        ValueError: another list, with its first difference.
    """
    for own in _names_of(dataset):
        if own == list(names):
            continue
        place = next((i for i, pair in enumerate(zip(own, names)) if pair[0] != pair[1]), min(len(own), len(names)))
        mine, model = (repr(known[place]) if place < len(known) else "nothing" for known in (own, names))
        raise ValueError(
            f"train_dataset.names: expected the {len(names)} names of the model in their order, got {len(own)}; label "
            f"{place} is {mine} and {model} in the model. Give the data set model.vocabulary.names, or the model the "
            "names of the data set by set_vocabulary before"
        )


def check_evaluated(datasets: Any, processing_class: object) -> None:
    """A data set that is evaluated can be.

    Args:
        datasets: a data set, or a dict of them. processing_class: the image processor of the Trainer.

    Raises:
        ValueError: without annotations of the whole (`coco`), or there is no image processor.
    """
    for dataset in datasets.values() if isinstance(datasets, dict) else [datasets]:
        if getattr(dataset, "coco", None) is None:
            raise ValueError(
                f"evaluation needs a DetectionDataset as eval_dataset, got {type(dataset).__name__}: {_MEND}"
            )
    if processing_class is None:
        raise ValueError("evaluation needs an image processor: DeCoDetrTrainer(..., processing_class=image_processor)")


def _names_of(dataset: Any) -> Iterator[list[str]]:
    if isinstance(own := getattr(dataset, "names", None), list | tuple):
        yield list(own)
        return
    parts = getattr(dataset, "datasets", None)
    for part in parts if isinstance(parts, list | tuple) else [getattr(dataset, "dataset", None)]:
        if part is not None:
            yield from _names_of(part)
