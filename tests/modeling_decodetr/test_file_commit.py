"""Files of a folder change together or not at all; a reader first finishes what a killed writer had committed."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.tiny_models import tiny_model
from safetensors import SafetensorError

from decodetr import DeCoDetrForObjectDetection, PrototypePool, Vocabulary
from decodetr.modeling_decodetr import file_commit
from decodetr.modeling_decodetr.file_commit import COMMITTED, STAGING, committed, reading


def _write(folder, content, remove=()):
    with committed(folder, remove) as staging:
        (staging / "a.txt").write_text(content)
        (staging / "sub").mkdir(exist_ok=True)
        (staging / "sub" / "b.txt").write_text(content)


def _read(folder):
    with reading(folder):
        return (folder / "a.txt").read_text(), (folder / "sub" / "b.txt").read_text()


def _visible(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_files_change_and_others_stay(tmp_path):
    _write(tmp_path, "old")
    (tmp_path / "mine.txt").write_text("mine")
    _write(tmp_path, "new")
    assert _read(tmp_path) == ("new", "new")
    assert _visible(tmp_path) == ["a.txt", "mine.txt", "sub"]


def test_the_working_directory_may_change_while_files_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with committed("out") as staging:
        (staging / "a.txt").write_text("a")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert _visible(tmp_path / "out") == ["a.txt"]


@pytest.mark.parametrize("way", ["a folder", "a pipe", "a file above"])
def test_a_file_that_has_no_place_is_refused_and_holds_nobody_off(tmp_path, way):
    if way == "a folder":
        (tmp_path / "a.txt").mkdir()
    elif way == "a pipe":
        os.mkfifo(tmp_path / "a.txt")
    else:
        (tmp_path / "sub").write_text("mine")
    before = _visible(tmp_path)
    with pytest.raises(OSError, match="expected a (file|folder) or nothing"):
        _write(tmp_path, "new")
    assert _visible(tmp_path) == before
    with committed(tmp_path) as staging:
        (staging / "c.txt").write_text("c")
    assert _visible(tmp_path) == sorted([*before, "c.txt"])


def test_a_process_forked_while_a_folder_is_read_does_not_hold_writers_off(tmp_path):
    _write(tmp_path, "old")
    with reading(tmp_path):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))  # as a loader's lives on
        worker.start()
    try:
        writer = threading.Thread(target=_write, args=(tmp_path, "new"))
        writer.start()
        writer.join(timeout=5)
        assert not writer.is_alive()
    finally:
        worker.kill()
        worker.join()
    assert _read(tmp_path) == ("new", "new")


def test_a_failure_before_the_end_changes_nothing(tmp_path):
    _write(tmp_path, "old")
    with pytest.raises(RuntimeError), committed(tmp_path) as staging:
        (staging / "a.txt").write_text("new")
        raise RuntimeError
    assert _read(tmp_path) == ("old", "old")
    assert _visible(tmp_path) == ["a.txt", "sub"]


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    _write(tmp_path, "old")
    full = "nothing was written; make room, or write to another disk"

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=f"{full}: '{tmp_path}'"), committed(tmp_path) as staging:
        (staging / "a.txt").write_text("new")
        fails()
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match=f"{full}: '{tmp_path}'"), committed(tmp_path):
        raise SafetensorError(words)
    monkeypatch.setattr(os, "fsync", fails)  # where the disk is of another machine, it is only known here
    with pytest.raises(OSError, match=f"{full}: '{tmp_path}'"):
        _write(tmp_path, "new")
    assert _read(tmp_path) == ("old", "old")
    assert _visible(tmp_path) == ["a.txt", "sub"]


def test_files_to_remove_go_in_the_same_commit_unless_they_are_written(tmp_path):
    _write(tmp_path, "old")
    (tmp_path / "stale.txt").write_text("stale")
    _write(tmp_path, "new", remove=["stale.txt", "a.txt"])
    assert _visible(tmp_path) == ["a.txt", "sub"]


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_an_interrupted_move_is_finished_by_the_next_reader_and_the_next_writer(tmp_path, monkeypatch, moves):
    real, done = os.replace, []

    def replace(old, new):
        if len(done) == moves:
            raise KeyboardInterrupt  # nothing of ours catches it, as nothing survives a SIGKILL
        done.append(new)
        real(old, new)

    for folder, then in ((tmp_path / "read", _read), (tmp_path / "written", None)):
        _write(folder, "old")
        done.clear()
        with monkeypatch.context() as patched:
            patched.setattr(file_commit.os, "replace", replace)
            if moves < 2:
                with pytest.raises(KeyboardInterrupt):
                    _write(folder, "new")
            else:
                _write(folder, "new")
        assert (folder / COMMITTED).is_dir() == (moves < 2)
        if then is None:
            _write(folder, "newest")
        assert _read(folder) == (("new", "new") if then else ("newest", "newest"))
        assert _visible(folder) == ["a.txt", "sub"]


def test_a_reader_that_may_not_write_is_told_what_to_do(tmp_path, monkeypatch):
    ready = tmp_path / COMMITTED
    ready.mkdir()
    (ready / ".manifest.json").write_text(json.dumps({"files": ["a.txt"], "remove": []}))
    (ready / "a.txt").write_text("new")

    def refuse(old, new):
        raise PermissionError(f"no right to write {new}")

    monkeypatch.setattr(file_commit.os, "replace", refuse)
    with pytest.raises(OSError, match="interrupted save is complete .* the right to write"), reading(tmp_path):
        pass


@pytest.mark.parametrize("key", ["files", "remove"])
@pytest.mark.parametrize("name", ["../mine.txt", "{top}/mine.txt", "sub/../../mine.txt", "linked/mine.txt", "."])
def test_a_commit_of_somebody_else_touches_nothing_outside_of_its_folder(tmp_path, name, key):
    """A folder from the Hub or an archive may have one that was made on purpose."""
    folder, ready, mine = tmp_path / "theirs", tmp_path / "theirs" / COMMITTED, tmp_path / "mine.txt"
    (ready / "sub").mkdir(parents=True)
    mine.write_text("mine")
    (folder / "linked").symlink_to(tmp_path)
    (ready / "mine.txt").write_text("theirs")
    (ready / "sub" / "mine.txt").write_text("theirs")
    names = {"files": [], "remove": [], key: [name.format(top=tmp_path)]}
    (ready / ".manifest.json").write_text(json.dumps(names))
    for opens in (reading, committed):
        with pytest.raises(OSError, match="lies outside of the folder or behind a link"), opens(folder):
            pass
    assert mine.read_text() == "mine" and ready.is_dir()


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3, "remove": []}', "[" * 100_000])
def test_a_commit_that_nobody_wrote_is_refused(tmp_path, manifest):
    (tmp_path / COMMITTED).mkdir()
    (tmp_path / COMMITTED / ".manifest.json").write_text(manifest)
    with pytest.raises(OSError, match="expected what a save of decodetr's writes"), reading(tmp_path):
        pass


def test_a_commit_takes_no_file_of_the_reader_into_its_folder(tmp_path):
    folder, secrets = tmp_path / "theirs", tmp_path / "secrets"
    (folder / COMMITTED).mkdir(parents=True)
    secrets.mkdir()
    (secrets / "key").write_text("mine")
    (folder / COMMITTED / "sub").symlink_to(secrets)
    (folder / COMMITTED / ".manifest.json").write_text(json.dumps({"files": ["sub/key"], "remove": []}))
    with pytest.raises(OSError, match="behind a link"), reading(folder):
        pass
    assert (secrets / "key").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / COMMITTED).symlink_to(folder / COMMITTED)  # is no commit
    with reading(other):
        assert (folder / COMMITTED).is_dir()


def test_a_save_behind_the_users_own_link_is_written(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "large")
    _write(tmp_path / "out", "new")
    assert _read(tmp_path / "out") == ("new", "new") and list((tmp_path / "large").iterdir())


def test_what_killed_writers_left_is_swept_away_and_what_living_ones_write_is_not(tmp_path):
    left = tmp_path / f"{STAGING}left"
    left.mkdir(parents=True)
    with committed(tmp_path) as living:
        (living / "c.txt").write_text("c")
        assert not left.exists()
        _write(tmp_path, "new")
        assert living.is_dir()
    assert _visible(tmp_path) == ["a.txt", "c.txt", "sub"]


def test_two_threads_never_mix_their_files(tmp_path):
    def write(content):
        for _ in range(20):
            _write(tmp_path, content)

    _write(tmp_path, "0")
    with ThreadPoolExecutor(3) as pool:
        writers = pool.map(write, "123")
        seen = [_read(tmp_path) for _ in range(40)]
        list(writers)  # raises what they raised
    assert all(first == second for first, second in seen)


def test_files_have_the_mode_that_open_gives(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    Vocabulary(["cat"], torch.eye(1, 4)).save_pretrained(tmp_path / "vocabulary")
    tiny_model().save_pretrained(tmp_path / "model")
    for file in (*(tmp_path / "vocabulary").iterdir(), *(tmp_path / "model").iterdir()):
        assert file.stat().st_mode == plain.stat().st_mode, file


def _save_with_full_disk(save):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, old[1]))
    try:
        with pytest.raises(Exception, match="(?i)too large"):  # OSError, or safetensors' own
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_the_old_vocabulary_pool_and_model(tmp_path):
    eye = torch.eye(4, 8)
    old = Vocabulary(["a", "b", "c", "d"], eye)
    old.save_pretrained(tmp_path / "vocabulary")
    _save_with_full_disk(lambda: Vocabulary(["d" * 4000, "c", "b", "a"], eye).save_pretrained(tmp_path / "vocabulary"))
    loaded = Vocabulary.from_pretrained(tmp_path / "vocabulary")
    assert loaded.names == old.names and torch.equal(loaded.embeddings, eye)

    PrototypePool(eye, captions=list("abcd")).save_pretrained(tmp_path / "pool")
    other = PrototypePool(eye.flip(0), captions=["x" * 4000, "c", "b", "a"])
    _save_with_full_disk(lambda: other.save_pretrained(tmp_path / "pool"))
    assert PrototypePool.from_pretrained(tmp_path / "pool").captions == list("abcd")

    model = tiny_model(names=["a", "b"])
    model.save_pretrained(tmp_path / "model")
    listing = _visible(tmp_path / "model")
    model.set_vocabulary(Vocabulary(["b", "a"], model.vocabulary.embeddings.flip(0)))
    _save_with_full_disk(lambda: model.save_pretrained(tmp_path / "model"))
    assert DeCoDetrForObjectDetection.from_pretrained(tmp_path / "model").vocabulary.names == ["a", "b"]
    assert _visible(tmp_path / "model") == listing


def test_a_name_that_is_no_unicode_text_is_saved_and_read_back(tmp_path):
    Vocabulary(["caf\udce9"], torch.eye(1, 4)).save_pretrained(tmp_path)
    assert Vocabulary.from_pretrained(tmp_path).names == ["caf\udce9"]


@pytest.mark.parametrize("copied", ["vocabulary.json", "vocabulary.safetensors"])
def test_a_vocabulary_of_two_saves_is_refused(tmp_path, copied):
    Vocabulary(["a", "b"], torch.eye(2, 4)).save_pretrained(tmp_path / "one")
    Vocabulary(["b", "a"], torch.eye(2, 4)).save_pretrained(tmp_path / "two")
    Vocabulary(["b", "a"], torch.eye(2, 4).flip(0)).save_pretrained(tmp_path / "two")
    os.replace(tmp_path / "one" / copied, tmp_path / "two" / copied)
    with pytest.raises(ValueError, match="do not belong together"):
        Vocabulary.from_pretrained(tmp_path / "two")


def test_a_pool_whose_captions_were_edited_is_refused(tmp_path):
    PrototypePool(torch.eye(2, 4), captions=["a", "b"]).save_pretrained(tmp_path)
    file = tmp_path / "pool.json"
    file.write_text(file.read_text().replace('"a"', '"other"'))
    with pytest.raises(ValueError, match="do not belong together"):
        PrototypePool.from_pretrained(tmp_path)


def test_a_model_whose_names_were_edited_is_refused(tmp_path):
    tiny_model(names=["cat", "dog"]).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("cat", "forklift"))
    with pytest.raises(ValueError, match="vocabulary and config.json do not belong together.*set_vocabulary"):
        DeCoDetrForObjectDetection.from_pretrained(tmp_path)


def test_folders_without_a_digest_load(tmp_path):
    Vocabulary(["a"], torch.eye(1, 4)).save_pretrained(tmp_path / "vocabulary")
    tiny_model(names=["a"]).save_pretrained(tmp_path / "model")
    for file, key in (("vocabulary/vocabulary.json", "table_digest"), ("model/config.json", "table_digests")):
        content = json.loads((tmp_path / file).read_text())
        del content[key]
        (tmp_path / file).write_text(json.dumps(content))
    assert Vocabulary.from_pretrained(tmp_path / "vocabulary").names == ["a"]
    assert DeCoDetrForObjectDetection.from_pretrained(tmp_path / "model").vocabulary.names == ["a"]


def test_a_model_in_shards_leaves_nothing_of_a_whole_one_and_the_other_way_round(tmp_path):
    first, second = tiny_model(seed=1), tiny_model(seed=2)
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path, max_shard_size="100KB")
    assert not (tmp_path / "model.safetensors").exists()
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
    assert torch.equal(loaded.semantic_stream.predictor.weight, second.semantic_stream.predictor.weight)
    first.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("model*.safetensors*")] == ["model.safetensors"]


def test_an_interrupted_save_in_a_subfolder_is_finished_before_it_is_read(tmp_path, monkeypatch):
    old, new = tiny_model(seed=1), tiny_model(seed=2)
    old.save_pretrained(tmp_path / "sub")
    with monkeypatch.context() as patched:
        patched.setattr(file_commit.os, "replace", lambda old, new: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            new.save_pretrained(tmp_path / "sub")
    loaded = DeCoDetrForObjectDetection.from_pretrained(tmp_path, subfolder="sub")
    assert torch.equal(loaded.semantic_stream.predictor.weight, new.semantic_stream.predictor.weight)


def test_processes_that_are_not_the_main_one_save_nothing(tmp_path):
    tiny_model().save_pretrained(tmp_path, False)  # as the library's second argument
    assert _visible(tmp_path) == []


def test_the_auto_class_finishes_an_interrupted_save_before_it_reads_the_config(tmp_path, monkeypatch):
    from transformers import AutoModelForObjectDetection

    tiny_model(names=["a", "b"]).save_pretrained(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(file_commit.os, "replace", lambda old, new: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tiny_model(names=["x", "y", "z"]).save_pretrained(tmp_path)
    assert AutoModelForObjectDetection.from_pretrained(tmp_path).vocabulary.names == ["x", "y", "z"]


def _two_artifacts(kind):
    """The same 4,000 rows and texts in both orders, and what loads them."""
    rows = torch.nn.functional.normalize(torch.randn(4000, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    texts = [f"n{number}" for number in range(4000)]
    both = []
    for these, those in ((rows, texts), (rows.flip(0).contiguous(), texts[::-1])):
        table = PrototypePool(these, captions=those) if kind == "pool" else Vocabulary(those, these)
        if kind == "model":
            names, table = table, tiny_model(names=["a"])
            table.set_vocabulary(names)
        both.append(table)
    return both, rows[5]


def _save_in_turn(artifacts, folder):
    while True:
        for artifact in artifacts:
            artifact.save_pretrained(folder)


def _kill_and_load(kind, folder, kills):
    """Kill a writer at random moments; after each, what loads must be one of the two artifacts. Returns which."""
    artifacts, row = _two_artifacts(kind)
    moment, found = random.Random(0), []
    start = time.perf_counter()
    artifacts[1].save_pretrained(folder)
    span = 4 * (time.perf_counter() - start)  # in which a writer saves several times
    for _ in range(kills):
        # Forked, because a fresh process would import torch for seconds; it only hashes and writes.
        writer = multiprocessing.get_context("fork").Process(target=_save_in_turn, args=(artifacts, folder))
        writer.start()
        time.sleep(moment.uniform(0, span))
        writer.kill()
        writer.join()
        table = type(artifacts[0]).from_pretrained(folder)
        table = table.vocabulary if kind == "model" else table
        rows = table.prototypes if kind == "pool" else table.embeddings
        assert torch.allclose(rows[table.texts().index("n5")], row, atol=1e-6)
        found.append(table.texts()[0])
        if len(found) % 10 == 0 and len(set(found[-10:])) == 1:
            span *= 2  # the machine has become busy: no writer comes to its second save
    return found


def test_killed_saves_of_a_vocabulary_leave_the_old_or_the_new_one(tmp_path):
    assert len(_kill_and_load("vocabulary", tmp_path, 8)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vocabulary", "pool", "model"])
def test_many_killed_saves_leave_the_old_or_the_new_one(tmp_path, kind):
    found = _kill_and_load(kind, tmp_path, 70)
    assert set(found) == {"n0", "n3999"}
