"""Libraries that would report that they are used, or change how much all others say."""

import logging
import os

import pytest

from decodetr.utils.no_reports import no_reports


def test_the_root_logger_is_what_it_was(monkeypatch):
    """OpenVINO's converter sets the level and a filter of the root logger, and leaves them where it fails."""
    monkeypatch.delenv("CI", raising=False)
    root, handler = logging.getLogger(), logging.NullHandler()
    before = root.level, list(root.handlers), list(root.filters)
    with pytest.raises(ValueError, match="cannot convert"), no_reports():
        assert os.environ["CI"] == "true"
        root.setLevel(logging.ERROR)
        root.addHandler(handler)
        root.addFilter(lambda record: False)
        raise ValueError("cannot convert")
    assert (root.level, list(root.handlers), list(root.filters)) == before and "CI" not in os.environ
