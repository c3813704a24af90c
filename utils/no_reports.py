"""Keep libraries from reporting that they are used. OpenVINO's converter and NNCF send it to their makers, from a
process that they fork off a thread, which can end the one that called them.
Ray does from the dashboard of a cluster."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_OFF = {"CI": "true", "NNCF_CI": "true", "RAY_USAGE_STATS_ENABLED": "0"}  # where they send nothing


@contextmanager
def no_reports() -> Iterator[None]:
    """Inside, they send nothing."""
    with mock.patch.dict(os.environ, _OFF):
        yield
