"""Keep libraries from reporting that they are used. OpenVINO's converter and NNCF send it to their makers, from a
process that they fork off a thread, which can end the one that called them.
Ray does from the dashboard of a cluster. OpenVINO's converter also leaves the warnings of the whole process switched
off where it fails."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_OFF = {"CI": "true", "NNCF_CI": "true", "RAY_USAGE_STATS_ENABLED": "0"}  # where they send nothing


@contextmanager
def no_reports() -> Iterator[None]:
    """Inside, they send nothing. Afterwards the root logger is what it was."""
    root = logging.getLogger()
    level, handlers, filters = root.level, list(root.handlers), list(root.filters)
    try:
        with mock.patch.dict(os.environ, _OFF):
            yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters
