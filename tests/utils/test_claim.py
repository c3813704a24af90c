"""One run a folder: a second one is refused at once; what ended, in whatever way, holds nobody off."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from decodetr.cli import main
from decodetr.utils.files import LOCK, claim, clear, is_unused, named_when_full, output_folder

_HOLD = """
import sys, time
from decodetr.utils.files import claim
with claim(sys.argv[1], "decodetr train", sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A function: another process that holds a folder until the test ends."""
    started = []

    def hold(folder=tmp_path, part=""):
        process = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder), part], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(holder, tmp_path):
    process = holder()
    with pytest.raises(ValueError, match=rf"another run \(decodetr train, process {process.pid}\) writes here"):
        with claim(tmp_path, "decodetr train"):
            raise AssertionError("two runs")


def test_another_thread_is_another_run(tmp_path):
    order = []

    def work(wait):
        try:
            with claim(tmp_path, "decodetr export", wait=wait):
                order.append("waited for")
        except ValueError as error:
            order.append(str(error))

    refused, waiting = (threading.Thread(target=work, args=(wait,)) for wait in (False, True))
    with claim(tmp_path, "decodetr.optimize"):
        refused.start(), waiting.start()
        refused.join()
        time.sleep(0.3)
        order.append("done")
    waiting.join()
    assert "another run (decodetr.optimize, process" in order[0] and order[1:] == ["done", "waited for"]


def test_a_killed_run_holds_nobody_off(holder, tmp_path):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with claim(tmp_path, "decodetr train"):
        assert str(os.getpid()) in (tmp_path / f"{LOCK}.holder").read_text()


def test_a_run_leaves_no_file_behind_and_may_hold_its_folder_twice(tmp_path):
    folder = tmp_path / "new"
    with claim(folder, "one"):
        with claim(folder, "the same process"):
            assert is_unused(folder)
        assert (folder / LOCK).is_file()
    assert not folder.exists()
    folder.mkdir()
    with claim(folder, "one"):
        (folder / "result").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["result"]
    with claim(None, "nothing is written"):
        assert Path(folder).is_dir()


def test_parts_of_a_folder_are_held_apart(holder, tmp_path):
    holder(part="rank-1")
    with claim(tmp_path, "rank 0"), claim(tmp_path, "rank 2", "rank-2"):
        with pytest.raises(ValueError, match="another run"), claim(tmp_path, "rank 1", "rank-1"):
            raise AssertionError("two runs")


def test_emptying_a_folder_keeps_its_lock(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("x")
    with claim(tmp_path, "one"):
        assert not is_unused(tmp_path)
        clear(tmp_path)
        assert is_unused(tmp_path) and (tmp_path / LOCK).is_file()


def test_an_output_must_be_a_folder_that_can_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "below"):
        with pytest.raises(ValueError, match="--output .*expected a folder, got a file"):
            output_folder(place, "--output")
    assert output_folder(tmp_path / "a/b", "--output") == tmp_path / "a/b" and not (tmp_path / "a").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="nothing can be written into"):
        output_folder(tmp_path / "a", "--output")


_COMMANDS = {
    "train": ["train", "--data", "DATA", "--detector", "D", "--output_dir", "OUT"],
    "pool build": ["pool", "build", "--data", "DATA", "--clip", "C", "--captioner", "C", "--output", "OUT"],
    "pool filter": ["pool", "filter", "--output", "OUT"],
    "eval": ["eval", "--data", "DATA", "--model", "scenes-decodetr", "--output", "OUT"],
    "predict": ["predict", "DATA/train", "--output", "OUT"],
    "vocabulary build": ["vocabulary", "build", "--names", "cat", "--text-model", "scenes-clip", "--output", "OUT"],
    "quickstart": ["quickstart", "--output", "OUT"],
    "scenes write": ["scenes", "write", "OUT"],
    "scenes teachers": ["scenes", "teachers", "OUT"],
    "scenes reshape": ["scenes", "reshape", "scenes-clip", "OUT"],
    "scenes models": ["scenes", "models", "OUT"],
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_that_writes_a_folder_holds_it(holder, tmp_path, monkeypatch, capsys, command):
    """Whatever the command checks before is left out here."""
    from decodetr.pool_builder import preflight as pool_preflight
    from decodetr.training.checks import preflight

    data, out = tmp_path / "data", tmp_path / "out"
    (data / "annotations").mkdir(parents=True), (data / "train").mkdir()
    (data / "annotations/val.json").write_text("{}")
    (data / "train/picture.png").write_bytes(b"")
    holder(out)
    monkeypatch.setattr(preflight, "check", lambda options, *_: SimpleNamespace(output_dir=options.output_dir))
    monkeypatch.setattr(pool_preflight, "check", lambda *_: None)
    places = {"DATA": str(data), "OUT": str(out), "DATA/train": str(data / "train")}
    started = time.perf_counter()
    assert main([places.get(word, word) for word in _COMMANDS[command]]) == 1
    error = capsys.readouterr().err
    assert f"{out}: another run (decodetr train, process" in error and "choose another output" in error
    assert time.perf_counter() - started < 10
    assert sorted(path.name for path in out.iterdir()) == [LOCK, f"{LOCK}.holder"]


def test_who_holds_a_folder_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{LOCK}.holder").symlink_to(tmp_path / "mine.txt")
    with claim(tmp_path / "out", "decodetr predict"):
        assert "decodetr predict" in (tmp_path / "out" / f"{LOCK}.holder").read_text()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_full_disk_names_the_folder_and_the_remedy(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=f"make room, or write to another disk: '{tmp_path}'"):
        with claim(tmp_path, "decodetr train"):
            raise AssertionError("held")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_full_disk_does_not_open_is_named_with_the_remedy(tmp_path):
    with pytest.raises(OSError, match="nothing was written; make room, or write to another disk: 'lock'"):
        with named_when_full(tmp_path), named_when_full(tmp_path / "inner"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "lock")
