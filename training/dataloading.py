"""Read training images: the epoch that their order depends on, and streams without a length.

Of a stream, Accelerate would have the first process read for all of them and cut what it sends in slices, of a list of
label dicts too (`dispatch_batches`), or have every process decode everything. Here every process reads its own share
(`StreamedDetectionDataset`), and a resumed run passes over what it has had without decoding it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset
    from transformers import TrainerControl, TrainerState

    from decodetr.processing.streamed_dataset import StreamedDetectionDataset
    from decodetr.training.arguments import DeCoDetrTrainingArguments

DISPATCH = (
    "accelerator_config.dispatch_batches=True would give images the labels of others: label dicts are cut in slices "
    "between processes; leave it out"
)


def check_loading(args: "DeCoDetrTrainingArguments", dataset: "Dataset | None") -> None:
    """Set `args.accelerator_config.dispatch_batches` to False if the training data are iterable.

    Raises:
        ValueError: the arguments do not go with such data, or batches would be cut in slices.
    """
    if args.accelerator_config.dispatch_batches:
        raise ValueError(DISPATCH)
    if not isinstance(dataset, IterableDataset):
        return
    if args.max_steps <= 0 and not has_length(dataset):
        raise ValueError("streamed training data have no length: give the number of steps, --max-steps N")
    if args.cache_features:
        raise ValueError("cache_features keeps features of all images, and streamed data have no end: leave one out")
    args.accelerator_config.dispatch_batches = False


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
