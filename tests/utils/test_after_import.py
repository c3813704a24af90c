"""A call that waits for the import of a module."""

import sys

import pytest

from decodetr.utils.after_import import after_import


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "waited_for.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield "waited_for"
    sys.modules.pop("waited_for", None)
    sys.meta_path[:] = before


def test_the_call_comes_right_after_the_import_and_once(module):
    seen = []
    after_import(module, lambda: seen.append(sys.modules[module].value))
    after_import(module, lambda: seen.append("second"))
    assert seen == []
    import waited_for

    assert sorted(map(str, seen)) == ["1", "second"] and waited_for.value == 1
    del sys.modules[module]
    import waited_for  # noqa: F811

    assert len(seen) == 2


def test_what_is_there_already_is_called_for_at_once():
    seen = []
    after_import("sys", lambda: seen.append(1))
    assert seen == [1]
