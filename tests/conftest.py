"""Settings of every test run: nothing is looked up on the Hub, so a mistyped folder fails at once. And fixtures of
several rooms. What is made once for a whole session is read, never changed."""

import gc
import os
import re

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if gc.isenabled():  # on again where all is imported: pytest_collection_finish
    gc.disable()

import pytest
from helpers import common_suite
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_byte_clip

from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary


def pytest_configure(config):
    """Markers of the common tests of transformers, because unknown ones are an error."""
    for name in common_suite.markers():
        config.addinivalue_line("markers", f"{name}: of transformers")


def pytest_collection_finish():
    """Two things that cost every test time otherwise. Accelerate collects garbage at each start of a training, and
    what all tests have imported is never any: a quarter of the time of the imports would be the search for it. A load
    of weights compiles more patterns than `re` keeps, by default."""
    gc.collect()
    gc.freeze()
    gc.enable()
    re._MAXCACHE = 100_000


@pytest.fixture(scope="session")
def tiny_detector_folder(tmp_path_factory):
    """A DeCo-DETR of random weights that knows three names."""
    folder = tmp_path_factory.mktemp("detector")
    tiny_model(names=["cat", "dog", "salt, pepper"]).save_pretrained(folder)
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_detector(tmp_path_factory):
    """(folder of a detector whose names and pool a tiny CLIP made, folder of that CLIP)."""
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
