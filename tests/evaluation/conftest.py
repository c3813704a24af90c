"""The names split of the tests of `decodetr eval`, and reports without pages."""

import json

import pytest

from decodetr.evaluation import report


@pytest.fixture
def split(tmp_path):
    file = tmp_path / "data" / "names.json"
    file.write_text(json.dumps({"base": {"3": "cat"}, "novel": {"13": "dog"}}))
    return file


@pytest.fixture
def without_pages(monkeypatch):
    """Reports without HTML and figures, which are most of their time, for tests of what report.json says."""
    monkeypatch.setattr(report, "_write_page", lambda *_: None)
