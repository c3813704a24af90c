"""Exported tiny models, pictures, and whether two programs found the same in them."""

from pathlib import Path

import numpy as np
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings
from decodetr.inference.detection import detect
from decodetr.processing import DeCoDetrImageProcessorPil

SIZE = {"height": 64, "width": 64}


def pictures(seed=0):
    """Smooth pictures of several shapes: resized ones, and one that has the size of the model."""
    rng = np.random.default_rng(seed)
    found = []
    for width, height in ((100, 70), (64, 64), (50, 130)):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        found.append(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return found


def torch_detections(model, images, threshold=0.0, **options):
    """By the model itself, with the backend whose pixels are those of the runtime to the bit: a random model makes a
    difference of 0.1 in a logit of one step of 255 in a few pixels."""
    return detect(model, DeCoDetrImageProcessorPil(size=SIZE), images, threshold, **options)


def assert_same(found, expected, score=1e-5, box=0.01):
    """The same names in the same order, scores and boxes (pixels) within a tolerance."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one["names"] == other["names"]
        np.testing.assert_allclose(one["scores"], other["scores"], atol=score)
        np.testing.assert_allclose(np.reshape(one["boxes"], (-1, 4)), np.reshape(other["boxes"], (-1, 4)), atol=box)


def exported(model, folder, *args, processor=None, **settings):
    """Export a model, and see that its files say nothing of this machine."""
    made = export_model(
        model, processor or DeCoDetrImageProcessor(size=SIZE), folder, ExportSettings(*args, **settings)
    )
    for file in Path(folder).glob("model.*"):  # nothing says where the code of this machine lies
        assert not any(path in file.read_bytes() for path in (b"site-packages", b"modeling_decodetr.py", b"/home/"))
    return made
