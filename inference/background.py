"""Work in threads beside the detector: what it needs next is read, and what it has found is written, meanwhile."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from decodetr.utils.excerpts import first_line

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Behind:
    """
    One thing after the other in a thread, while the caller goes on with the next. Used as a context, at whose end all
    is done, also if it ends with an error.

    Args:
        threaded (bool): False does everything at once, in the caller's own thread.
    """

    def __init__(self, threaded: bool = True) -> None:
        self._thread = ThreadPoolExecutor(1) if threaded else None
        self._last: Future[object] | None = None

    def do(self, function: Callable[..., object], *args: Any) -> None:
        """Begin with something, once the thing before it is done, whose error is raised here."""
        self.wait()
        if self._thread is None:
            function(*args)
        else:
            self._last = self._thread.submit(function, *args)

    def wait(self) -> None:
        """Wait until all is done. Raises the error of what failed."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        try:
            self.wait()
        except Exception as last:
            if kind is None:
                raise
            logger.error("what was done meanwhile failed: %s: %s", type(last).__name__, first_line(last))


def read_ahead(items: Iterable[Item], most: int) -> Generator[Item, None, None]:
    """Yield the items of an iterable that a thread reads, at most so many ahead. Its error is raised in its place.

    The thread has ended when the iterator that is returned has, or is closed.
    """
    read: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(most)
    stopped = threading.Event()

    def put(*entry):
        while not stopped.is_set():
            try:
                return read.put(entry, timeout=0.1)
            except queue.Full:
                continue
        return None

    def work():
        try:
            for item in items:
                put(item, None, False)
                if stopped.is_set():
                    return
            put(None, None, True)
        except BaseException as error:
            put(None, error, True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error, is_end = read.get()
            if error is not None:
                raise error
            if is_end:
                return
            yield item  # type: ignore[misc]  # None is of an end alone
    finally:
        stopped.set()
        thread.join()
