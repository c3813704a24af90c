"""Files that are made once: found again, made again when they are torn, by one of several processes, never half."""

import gc
import json
import threading
from collections import namedtuple

import pytest

from decodetr.utils import made_once as module
from decodetr.utils.files import file_state
from decodetr.utils.made_once import NotKept, made_once, passing_folder, remove_with


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decodetr"


@pytest.fixture
def make():
    def make(staging):
        make.calls += 1
        (staging / "a.txt").write_text("made")

    make.calls = 0
    return make


def _made(identity, make, source="data"):
    return made_once("things", source, identity, lambda: 100, make)


def test_what_was_made_is_found_and_what_changed_is_made_anew(tmp_path, cache, make):
    file = tmp_path / "data"
    file.write_text("1")
    folder = _made([file_state(file)], make, file)
    assert (folder / "a.txt").read_text() == "made" and folder.parent == cache / "things"
    assert _made([file_state(file)], make, file) == folder and make.calls == 1
    file.write_text("22")
    assert _made([file_state(file)], make, file) != folder and make.calls == 2
    assert (folder / "a.txt").exists()  # a run may still read it


@pytest.mark.parametrize("harm", ["cut", "gone", "no list", "half a list"])
def test_what_is_torn_is_made_again(make, harm):
    folder = _made(1, make)
    if harm == "cut":
        (folder / "a.txt").write_text("ma")
    elif harm == "gone":
        (folder / "a.txt").unlink()
    elif harm == "no list":
        (folder / "complete.json").unlink()
    else:
        (folder / "complete.json").write_text('{"a.txt"')
    assert _made(1, make) == folder and make.calls == 2
    assert (folder / "a.txt").read_text() == "made" and json.loads((folder / "complete.json").read_text())


def test_one_of_many_that_start_at_once_makes_it():
    start, made, found = threading.Barrier(4), [], []

    def make(staging):
        made.append(staging)
        (staging / "a.txt").write_text("made")

    def run():
        start.wait()
        found.append((_made(1, make) / "a.txt").read_text())

    threads = [threading.Thread(target=run) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert len(made) == 1 and found == ["made"] * 4


def test_an_error_leaves_nothing(cache):
    def fail(staging):
        (staging / "a.txt").write_text("half")
        raise ValueError("row 7")

    with pytest.raises(ValueError, match="row 7"):
        _made(1, fail)
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock" and path.name != "things"]


def test_a_full_disk_is_refused_with_numbers(make, monkeypatch):
    first = _made(1, make)
    disk = namedtuple("disk", "total used free")(10**12, 10**12, 5 * 10**8)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(
        NotKept, match=r"made once of data needs 3.0 GB, and 500.0 MB are free; .*HF_DATASETS"
    ) as error:
        made_once("things", "data", 2, lambda: 3 * 10**9, make)
    assert "older data of the same place holds" in str(error.value) and first.name in str(error.value)
    assert make.calls == 1


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, make):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(NotKept, match="set HF_DATASETS_CACHE to a folder that can be written"):
        _made(1, make)


def test_how_much_is_written_where_is_said_once(make, caplog):
    caplog.set_level("INFO", "decodetr")
    folder = _made(1, make)
    assert len(caplog.messages) == 2 and all(
        f"data: {word}" in text for word, text in zip(("up", "wrote"), caplog.messages)
    )
    assert str(folder) in caplog.messages[1]
    _made(1, make)
    assert len(caplog.messages) == 2


def test_a_passing_folder_goes_with_its_owner_and_those_of_killed_runs_with_the_next(cache):
    class Owner:
        pass

    killed = cache / "own" / "0123"
    killed.mkdir(parents=True)
    (killed / "rows").touch()
    (cache / "own" / "0123.lock").touch()
    owner = Owner()
    folder = passing_folder("own", "data", 100)
    assert not killed.exists() and folder.is_dir()
    remove_with(owner, folder)
    second = passing_folder("own", "data", 100)
    assert folder.is_dir()  # its run lives
    del owner
    gc.collect()
    assert not folder.exists() and second.is_dir()
    remove_with(other := Owner(), second)
    del other
