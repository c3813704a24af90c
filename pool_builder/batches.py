"""Batches that become smaller when memory runs out, instead of a build that dies after days."""

import logging

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)


class ShrinkingBatches:
    """
    Calls a function with batches of at most `limit` items, which is halved whenever memory runs out.

    Args:
        function: from a list of items to a list of results, one each.

    Attributes: `limit`, None as long as everything has fitted.
    """

    def __init__(self, function):
        self.function, self.limit = function, None

    def __call__(self, items):
        """The results of n items: a list.

        Raises:
            RuntimeError: a single item does not fit.
        """
        results = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + (self.limit or len(items))]
            try:
                results += self.function(batch)
                continue
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
            # Out of the handler, where the traceback no longer holds the tensors of the failed call.
            self.limit = len(batch) // 2
            clear_device_cache(garbage_collection=True)
            logger.warning("out of memory with %d crops at once; going on with %d", len(batch), self.limit)
        return results
