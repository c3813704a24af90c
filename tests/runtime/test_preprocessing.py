"""Pixel values of the runtime are those of the image processor."""

import numpy as np
import pytest
from helpers.exports import pictures
from PIL import Image

from decodetr import DeCoDetrImageProcessor
from decodetr.export.settings import ExportSettings, preprocessing_of
from decodetr.processing import DeCoDetrImageProcessorPil
from decodetr.runtime.preprocessing import Preprocessing

RULES = [
    {"size": {"height": 64, "width": 96}},
    {"size": {"shortest_edge": 48, "longest_edge": 80}},
    {"size": {"max_height": 50, "max_width": 70}},
    {"do_resize": False},
    {"size": {"height": 64, "width": 64}, "do_normalize": False},
    {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3},
]


def _step(processor):
    """What one of the 255 steps of a channel is in pixel values, at most."""
    return (1 / 255) / min(processor.image_std) if processor.do_normalize else 1 / 255


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("backend", [DeCoDetrImageProcessor, DeCoDetrImageProcessorPil])
def test_pixel_values_are_those_of_the_image_processor(rule, backend):
    processor = backend(**rule)
    preprocess = Preprocessing(preprocessing_of(processor, ExportSettings("onnx", dynamic_size=True)))
    for image in [*pictures(), pictures()[0].convert("L"), pictures()[1].convert("RGBA")]:
        expected = processor(images=[image], return_tensors="pt")["pixel_values"][0].numpy()
        found = preprocess(image)
        assert found.shape == expected.shape and found.dtype == np.float32
        off = np.abs(found - expected)
        assert off.max() <= 1.01 * _step(processor) + 1e-5, "more than one step of 255"
        assert (off > 1e-5).mean() <= (0.1 if backend is DeCoDetrImageProcessor else 0)


@pytest.mark.parametrize("size", [(37, 91), (91, 37), (48, 80), (200, 40), (64, 64), (48, 49)])
def test_the_short_side_rule_is_that_of_the_library(size):
    processor = DeCoDetrImageProcessor(size={"shortest_edge": 48, "longest_edge": 80})
    preprocess = Preprocessing(preprocessing_of(processor, ExportSettings("onnx", dynamic_size=True)))
    image = Image.new("RGB", (size[1], size[0]))
    expected = processor(images=[image], return_tensors="pt")["pixel_values"].shape[2:]
    assert preprocess.target_size(*size) == tuple(expected)


def test_a_size_that_nobody_knows_is_refused():
    fields = preprocessing_of(DeCoDetrImageProcessor(), ExportSettings("onnx"))
    with pytest.raises(ValueError, match="expected a size by"):
        Preprocessing({**fields, "size": {"longest_edge": 3}})
    with pytest.raises(ValueError, match="resample missing; export the model again"):
        Preprocessing({key: value for key, value in fields.items() if key != "resample"})
