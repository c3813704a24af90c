"""Read images: the epoch that the order of training images depends on, streams without a length, whole evaluations.

Of a stream, Accelerate would have the first process read for all of them and cut what it sends in slices, of a list of
label dicts too (`dispatch_batches`), or have every process decode everything. Here every process reads its own share
(`StreamedDetectionDataset`), and a resumed run passes over what it has had without decoding it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sized
from typing import TYPE_CHECKING, Any

from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset
    from transformers import TrainerControl, TrainerState

    from decodetr.processing.streamed_dataset import StreamedDetectionDataset
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

DISPATCH = (
    "accelerator_config.dispatch_batches=True would give images the labels of others: label dicts are cut in slices "
    "between processes; leave it out"
)


def check_loading(args: "DeCoDetrTrainingArguments", dataset: "Dataset | None") -> None:
    """Set `args.accelerator_config.dispatch_batches` to False if the training data are iterable.

    Raises:
        ValueError: the arguments do not go with such data, or batches would be cut in slices. No batch is full where
            only full ones are used.
    """
    if args.accelerator_config.dispatch_batches:
        raise ValueError(DISPATCH)
    check_full_batch(args, dataset)
    if not isinstance(dataset, IterableDataset):
        return
    if args.max_steps <= 0 and not has_length(dataset):
        raise ValueError("streamed training data have no length: give the number of steps, --max-steps N")
    if args.cache_features:
        raise ValueError("cache_features keeps features of all images, and streamed data have no end: leave one out")
    args.accelerator_config.dispatch_batches = False


def check_full_batch(args: "DeCoDetrTrainingArguments", dataset: "Dataset | None") -> None:
    """Of data without a full batch `dataloader_drop_last` leaves nothing, and a run without a step would end well.

    Raises:
        ValueError: with the numbers. Of data that are going to be cached those of all views.
    """
    if not args.dataloader_drop_last or isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return
    processes = 1 if args.accelerator_config.split_batches else args.world_size
    views = args.cache_views if args.cache_features and not hasattr(dataset, "coding") else 1
    items, batch = len(dataset) * views, args.train_batch_size * processes
    if items < batch:
        of = f" on {processes} processes" if processes > 1 else ""
        smaller = f", or give --batch-size {items // processes} at most" if items >= processes else ""
        raise ValueError(
            "dataloader_drop_last=True (--dataloader-drop-last true) leaves out a batch that is not full, and "
            f"{items} training images fill none of {batch} (--batch-size {args.train_batch_size}{of}): no step could "
            f"be trained; leave it out{smaller}"
        )


class LoadingTrainer(Trainer):
    """`transformers.Trainer`, whose evaluations have all images: `dataloader_drop_last` is a matter of training."""

    args: "DeCoDetrTrainingArguments"

    def get_eval_dataloader(self, eval_dataset: "str | Dataset | None" = None) -> "DataLoader":
        """The loader of an evaluation, of all images."""
        with self._all_images():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: "Dataset") -> "DataLoader":
        """The loader of [`Trainer.predict`], of all images."""
        with self._all_images():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _all_images(self) -> Iterator[None]:
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = dropped


class StreamedTraining(TrainerCallback):
    """Gives a `StreamedDetectionDataset` the share of its process, and in a resumed run what it has had already."""

    def __init__(self, dataset: "StreamedDetectionDataset") -> None:
        self.dataset = dataset

    def on_train_begin(
        self,
        args: "DeCoDetrTrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        train_dataloader: "DataLoader",
        **kwargs: Any,
    ) -> None:
        """Also keeps Accelerate from dividing that share between the processes once more."""
        dataset, shared_out = self.dataset, train_dataloader.dataset
        dataset.process_index, dataset.num_processes, dataset.endless = args.process_index, args.world_size, True
        had = 0 if args.ignore_data_skip else state.global_step * args.gradient_accumulation_steps
        dataset.skipped = (train_dataloader.batch_size, had)
        if isinstance(shared_out, IterableDatasetShard):
            shared_out.num_processes, shared_out.process_index = 1, 0

    def on_train_end(
        self, args: "DeCoDetrTrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """The data set ends with its epoch again."""
        self.dataset.endless, self.dataset.skipped = False, (1, 0)


def collate_or_skip(collate: Callable[[list], dict[str, Any]], items: list) -> dict[str, Any]:
    """The batch of `items`. An empty one for those that a resumed run passes over (None)."""
    return {} if items[0] is None else collate(items)


def set_epoch(dataloader: "DataLoader", epoch: int) -> None:
    """Tell the data set and all samplers of a prepared loader which epoch begins.

    Accelerate's own `set_epoch` leaves some out: the data set if batches are divided between processes or a resumed
    run skips some of them, and the shuffling sampler if both.
    """
    if hasattr(dataloader.dataset, "set_epoch"):
        dataloader.dataset.set_epoch(epoch)
    sampler = dataloader.batch_sampler
    while sampler is not None:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        inner = getattr(sampler, "batch_sampler", None)
        sampler = inner if inner is not None else getattr(sampler, "sampler", None)
