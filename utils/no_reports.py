"""Keep libraries from reporting that they are used: OpenVINO's converter and NNCF send it to their makers, from a
process that they fork off a thread, which can end the one that called them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_OFF = {"CI": "true", "NNCF_CI": "true"}  # where both send nothing


@contextmanager
def no_reports() -> Iterator[None]:
    """Inside, they send nothing."""
    with mock.patch.dict(os.environ, _OFF):
        yield
