"""Batches of a long build, smaller when memory runs out."""

import logging
from collections.abc import Callable
from typing import Any

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)


class ShrinkingBatches:
    """
    Calls a function with batches of at most `limit` items, which is halved whenever memory runs out.

    Args:
        prepare: from a list of items to what the function takes.
        function: from that to a list of results, one for each item.

    Attributes: `limit`, None as long as everything has fitted.
    """

    def __init__(self, prepare: Callable[[list], Any], function: Callable[[Any], list]) -> None:
        self.prepare, self.function = prepare, function
        self.limit: int | None = None

    def __call__(self, items: list, prepared: Any = None) -> list:
        """The results of n items: a list.

        Args:
            prepared: what `prepare` made of all the items, if that has been done already.

        Raises:
            RuntimeError: a single item does not fit.
        """
        results = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + (self.limit or len(items))]
            whole = prepared is not None and len(batch) == len(items)
            try:
                results += self.function(prepared if whole else self.prepare(batch))
                continue
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
            # Out of the handler, where the traceback no longer holds the tensors of the failed call.
            self.limit, prepared = len(batch) // 2, None
            clear_device_cache(garbage_collection=True)
            logger.warning("out of memory with %d crops at once; going on with %d", len(batch), self.limit)
        return results
