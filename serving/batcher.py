"""The one thread that runs the model. What waits for it goes through together: pictures that are to be searched for
the same names, as many as a batch takes, the longest waiting first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_FAILING = 3  # batches that failed one after another: it is not the pictures


@dataclass(eq=False)
class _Job(Generic[Item, Answer]):
    item: Item
    key: Hashable
    answer: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Answer]):
    """
    Runs a function on what waits for it.

    Args:
        run (callable): items with one key to their answers, in their order. It is called in one thread alone.
        batch_size (int): items at once. max_wait (float): seconds that the first of them waits for others.
        seen (callable, *optional*): told of each batch that went through: (items, seconds).
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        batch_size: int,
        max_wait: float,
        seen: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run, self._seen = run, seen
        self.batch_size, self.max_wait = batch_size, max_wait
        self._jobs: deque[_Job[Item, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failed = 0
        self.seconds_per_item = 0.0  # of late
        self._thread = threading.Thread(target=self._work, name="decodetr-model", daemon=True)
        self._thread.start()

    def submit(self, item: Item, key: Hashable) -> Future[Answer]:
        """Let an item wait. Those with equal keys may go through together. The answer can be cancelled until its turn.

        Raises:
            RuntimeError: after `close`.
        """
        job = _Job[Item, Answer](item, key)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    @property
    def waiting(self) -> int:
        """Items whose turn has not come."""
        return len(self._jobs)

    @property
    def healthy(self) -> bool:
        """Whether the thread runs, and not every one of the last batches failed."""
        return self._thread.is_alive() and self._failed < _FAILING

    def close(self) -> None:
        """Take nothing more, answer what waits, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self):
        while batch := self._next():
            if batch := [job for job in batch if job.answer.set_running_or_notify_cancel()]:
                self._answer(batch)

    def _next(self):
        """The next batch, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return None
            first = self._jobs[0]
            until = first.since + self.max_wait
            while len(batch := self._like(first)) < self.batch_size and not self._closed:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            for job in batch:
                self._jobs.remove(job)
            return batch

    def _like(self, first):
        """What can go through with a job, the longest waiting first."""
        found = []
        for job in self._jobs:
            if job.key == first.key:
                found.append(job)
                if len(found) == self.batch_size:
                    break
        return found

    def _answer(self, batch, again=False):
        start = time.perf_counter()
        try:
            answers = self._run([job.item for job in batch])
        except Exception as error:  # whatever it is, somebody waits for it
            self._failed += not again  # as long as none that is tried again goes through
            logger.exception("a batch of %d failed", len(batch))
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:  # one of them may be the reason
                for job in batch:
                    self._answer([job], again=True)
            return
        seconds = time.perf_counter() - start
        self._failed = 0
        each = seconds / len(batch)
        self.seconds_per_item = 0.8 * self.seconds_per_item + 0.2 * each if self.seconds_per_item else each
        if self._seen:
            self._seen(len(batch), seconds)
        for job, answer in zip(batch, answers):
            job.answer.set_result(answer)
