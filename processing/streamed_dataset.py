"""Training items of a data set of `datasets` that is streamed: read row by row, never held or listed whole.

A stream has no length and no order that one can index. Its shards (files, mostly) are distributed again in every epoch
to all readers, which are the workers of all processes. With fewer shards than readers, every reader reads everything
and keeps every n-th row. Both ways a row is one reader's only. Rows wait in the shuffle buffer undecoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.utils.data import IterableDataset, get_worker_info

from decodetr.processing.detection_dataset import TargetMaker, TargetOptions, check_known

if TYPE_CHECKING:
    from typing import Any

    from decodetr.annotations.stream import AnnotationStream
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

SHUFFLE_BUFFER = 1000  # rows
_ROWS_WITHOUT_REGIONS = 1000  # so many at the start are no accident


class StreamedDetectionDataset(TargetMaker, IterableDataset):
    """
    The items of [`DetectionDataset`], streamed.

    Args:
        stream (AnnotationStream).
        image_processor, names, targets, fields: as of `DetectionDataset`. Names that the stream declares are checked
            at once, others when a row has them.
        shuffle_buffer (int): undecoded rows that each reader holds and draws from. 0 for the stored order.
        seed (int): of the shuffle.

    Attributes:
        process_index, num_processes (int): whose share of the rows it yields. [`DeCoDetrTrainer`] sets these and
        endless (bool): go on with the next epoch at the end of one, as processes do not end theirs together, and
        skipped (int, int): batch size, and number of batches that a resumed run has had: None is yielded for each of
            their items, which are not decoded.

    Raises:
        ValueError: as `DetectionDataset`. Rows that are wrong raise when they are reached.
    """

    def __init__(
        self,
        stream: AnnotationStream,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        names: Collection[str],
        targets: TargetOptions | None = None,
        *,
        shuffle_buffer: int = SHUFFLE_BUFFER,
        seed: int = 0,
        **fields: Any,
    ) -> None:
        super().__init__(image_processor, names, replace(targets or TargetOptions(), **fields))
        if shuffle_buffer < 0:
            raise ValueError(f"shuffle_buffer must be at least 0, got {shuffle_buffer}")
        self.stream = stream
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.process_index, self.num_processes = 0, 1
        self.endless, self.skipped = False, (1, 0)
        # Images so far. None without regions, and once there was an image with some.
        self._without_regions = 0 if len(self.targets.regions or ()) else None
        if not self.targets.skip_unknown_names:
            self._check_names(stream.name, stream.names or [])

    def _check_names(self, where, names):
        check_known(where, [name for name in names if name not in self.label_of_name], self.names)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        reader, readers = self.process_index * workers + number, self.num_processes * workers
        batch_size, batches = self.skipped
        skipped = batch_size * len(range(number, batches, workers))  # a loader takes batches from its workers in turn
        seen = 0
        for epoch in itertools.count(int(self._epoch)):
            before = seen
            for row in self.stream.rows([self.seed, epoch], self.shuffle_buffer, reader, readers):
                seen += 1
                yield self._item(row, epoch) if seen > skipped else None
            if not self.endless:
                return
            if seen == before:
                raise ValueError(
                    f"{self.stream.name}: expected rows for each of {readers} readers (workers of all processes), got "
                    "none for one; use fewer --dataloader-num-workers, or train without streaming"
                )

    def _item(self, row, epoch):
        image, image_id, names, annotations = self.stream.read(row)
        if not self.targets.skip_unknown_names:
            self._check_names(self.stream.place(row), names)
        self._check_regions(image_id, row)
        labels = torch.tensor([self.label_of_name.get(name, -1) for name in names], dtype=torch.int64)
        return self.make_item(image, image_id, labels, annotations, epoch)

    def _check_regions(self, image_id, row):
        """A stream cannot be searched for the images that have regions: the first ones must do."""
        if self.targets.regions is not None:
            self.targets.regions.check_image(image_id, self.stream.file_name(row), self.stream.place(row))
        if self._without_regions is None or image_id in self.targets.regions:
            self._without_regions = None
            return
        self._without_regions += 1
        if self._without_regions == _ROWS_WITHOUT_REGIONS:
            raise ValueError(
                f"{self.targets.regions.source}: expected regions of images of {self.stream.name}, got none for its "
                f"first {_ROWS_WITHOUT_REGIONS} images; build the regions from the same data set"
            )
