"""The names split of the tests of `decodetr eval`."""

import json

import pytest


@pytest.fixture
def split(tmp_path):
    file = tmp_path / "data" / "names.json"
    file.write_text(json.dumps({"base": {"3": "cat"}, "novel": {"13": "dog"}}))
    return file
