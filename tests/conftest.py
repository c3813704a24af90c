"""Settings of every test run: nothing is looked up on the Hub, so a mistyped folder fails at once. And fixtures of
several rooms. What is made once for a whole session is read, never changed."""

import gc
import os
import re
import tempfile
from types import SimpleNamespace

import pytest

# The process that only deals out the tests reads this file as well, and waits for what it imports: the heavy imports
# are inside.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads that read weights cost tiny models more than they save.
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
# What is made once of a data set belongs to the tests that made it. Processes that tests start find it too.
_cache = tempfile.TemporaryDirectory(prefix="decodetr-tests-")
os.environ["HF_DATASETS_CACHE"] = _cache.name
gc.disable()  # on again where all is imported: pytest_collection_finish
# A copy of this process has none of its threads. Garbage of libraries that wait for theirs would keep it for ever, so
# a copy does not look for what it has inherited.
os.register_at_fork(after_in_child=gc.freeze)


def pytest_configure(config):
    """Markers of the common tests of transformers, because unknown ones are an error."""
    from helpers import common_suite

    for name in common_suite.markers():
        config.addinivalue_line("markers", f"{name}: of transformers")


def pytest_collection_finish():
    """Things that cost every test time, and of which no test is. What all tests have imported is never garbage, and
    Accelerate need not look for any at each start of a training: a quarter of the time of the imports would be the
    search for it. A load of weights compiles more patterns than `re` keeps, by default. Configs are written out as
    JSON for messages that nobody sees. Pictures need not be small on the disk. And no test pulls the plug."""
    from accelerate.utils import memory
    from PIL import Image
    from transformers import PreTrainedConfig

    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # the usual 700 looks for garbage for a fifteenth of all time
    gc.enable()
    memory.gc = SimpleNamespace(collect=lambda: 0)
    re._MAXCACHE = 100_000
    PreTrainedConfig.__repr__ = object.__repr__
    Image.init()
    write_png = Image.SAVE["PNG"]
    Image.register_save("PNG", lambda image, *rest: write_png(_quickly(image), *rest))
    os.fsync = lambda descriptor: None


def _quickly(image):
    """An image that is about to be written as PNG, compressed little unless it says how much."""
    image.encoderinfo.setdefault("compress_level", 1)
    return image


@pytest.fixture(scope="session")
def tiny_detector_folder(tmp_path_factory):
    """A DeCo-DETR of random weights that knows three names."""
    from helpers.tiny_models import tiny_model

    from decodetr import DeCoDetrImageProcessor

    folder = tmp_path_factory.mktemp("detector")
    tiny_model(names=["cat", "dog", "salt, pepper"]).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_detector(tmp_path_factory):
    """(folder of a detector whose names and pool a tiny CLIP made, folder of that CLIP)."""
    from helpers.tiny_models import tiny_model
    from helpers.tiny_teachers import write_byte_clip

    from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary

    folder = tmp_path_factory.mktemp("text")
    clip = write_byte_clip(folder / "clip")
    vocabulary = Vocabulary.from_text_model(["cat", "dog"], clip, ["{}", "one {}"])
    model = tiny_model()
    pool = PrototypePool(
        model.prototype_pool.prototypes, captions=[f"caption {i}" for i in range(12)], info=vocabulary.info
    )
    model.set_pool(pool, vocabulary)
    model.save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    return folder / "detector", clip


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory):
    """`helpers.exports.named_model` as ONNX, with names as input. An export takes as long as a hundred tests, so the
    processes of a run share one."""
    from filelock import FileLock
    from helpers.exports import exported, named_model

    top = tmp_path_factory.getbasetemp()
    top = top.parent if "PYTEST_XDIST_WORKER" in os.environ else top
    folder = top / "shared" / "onnx"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            made = exported(named_model(), folder, "onnx", names_input=True)
            assert made.bytes == sum(file.stat().st_size for file in folder.iterdir()) > 100_000
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub of this test alone, which this process takes for the real one. The account is "me". A test that uses it is
    marked allow_hosts(["127.0.0.1"])."""
    from helpers.hub_server import hub_server, use_hub

    with hub_server() as server:
        use_hub(monkeypatch, server, tmp_path / "home")
        yield server
