"""The shipped model behind a desk, and a drawn scene whose objects are known."""

from types import SimpleNamespace

import pytest

from decodetr.demo.desk import Desk
from decodetr.inference.loading import load_model
from decodetr.scenes.rendering import draw_scene


@pytest.fixture(scope="session")
def shipped():
    """(model, image processor) of the drawn scenes."""
    return load_model("scenes-decodetr", device="cpu")


@pytest.fixture(scope="session")
def desk(shipped):
    return Desk(*shipped, "scenes-decodetr", vocabularies=["scenes-vocabulary"])


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """The file of a drawn scene, its image and its objects."""
    drawn = draw_scene(0, "demo", 1, 480)
    file = tmp_path_factory.mktemp("scene") / "scene, <b>1.png"
    drawn.image.save(file)
    objects = [
        (one.name.name, [one.box[0], one.box[1], one.box[0] + one.box[2], one.box[1] + one.box[3]])
        for one in drawn.objects
    ]
    return SimpleNamespace(file=str(file), image=drawn.image, objects=objects)
