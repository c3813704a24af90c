"""The teachers of the tests of `decodetr pool`."""

import pytest
from helpers.pool_data import BASE, NOVEL
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip, write_tiny_llava

from decodetr import DeCoDetrImageProcessor


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_clip(folder / "clip")
    write_tiny_llava(folder / "llava")
    model = tiny_model(names=BASE + NOVEL, embedding_dim=8)
    model.config.training_info = {"training_names": BASE, "pretrained_detector": "/somewhere/else/detector"}
    model.save_pretrained(folder / "detector")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "detector")
    return folder
