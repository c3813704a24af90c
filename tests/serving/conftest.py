"""A server of a tiny model, without sockets: the client calls the application."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.servers import client_of
from PIL import Image

from decodetr.inference.loading import load_model
from decodetr.serving.model_engine import ModelEngine


@pytest.fixture(scope="session")
def picture():
    """A picture, and the bytes of a PNG file of it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return SimpleNamespace(image=image, bytes=stream.getvalue())


@pytest.fixture(scope="session")
def loaded(tiny_detector_folder):
    """(model, image processor): it knows "cat", "dog" and "salt, pepper"."""
    return load_model(tiny_detector_folder, device="cpu")


@pytest.fixture
def engine(loaded):
    return ModelEngine(*loaded, "tiny")


@pytest.fixture(scope="module")
def client(loaded):
    """Of a server with the settings that there are by default."""
    with client_of(ModelEngine(*loaded, "tiny")) as client:
        yield client
