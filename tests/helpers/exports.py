"""Exported tiny models, pictures, and whether two programs found the same in them."""

from pathlib import Path

import numpy as np
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.export.export_run import export_model
from decodetr.export.settings import ExportSettings
from decodetr.inference.detection import detect
from decodetr.processing import DeCoDetrImageProcessorPil
from helpers.tiny_models import tiny_model

SIZE = {"height": 64, "width": 64}
NAMES = ["cat", "dog", "salt, pepper", "cat"]


def named_model():
    """The model that the fixture `onnx_folder` exports: the same weights in every process, and one layer of a decoder,
    because an export takes its time for each operator."""
    fields = {"score_scale": 1.3, "score_bias": 0.2, "name_thresholds": {"dog": 0.9}}
    model = tiny_model("detr", names=NAMES, detector={"decoder_layers": 1}, **fields).eval()
    model.config.name_or_path = model.name_or_path = "/home/me/mine"
    return model


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
