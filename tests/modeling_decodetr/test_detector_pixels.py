"""A detector of any family gets the pixels that its own image processor gives it, or a warning says what changed."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_config
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.export.settings import ExportSettings, preprocessing_of
from decodetr.modeling_decodetr.detectors import DETECTOR_FAMILIES, detector_preprocessing
from decodetr.processing import DeCoDetrImageProcessorPil
from decodetr.runtime.preprocessing import Preprocessing
from decodetr.training.results.identity import dataset_identity
from decodetr.training.start.starting_point import _record_squares, in_squares

_FREE, _FIXED = {"size": {"shortest_edge": 64, "longest_edge": 100}}, {"size": {"height": 64, "width": 64}}
# The image processors that published detectors of each family come with.
OWN = {
    "detr": [("Detr", _FREE)],
    "conditional_detr": [("ConditionalDetr", _FREE)],
    "deformable_detr": [("DeformableDetr", _FREE)],
    "dab-detr": [("ConditionalDetr", _FREE), ("GroundingDino", _FREE)],
    "rt_detr": [("RTDetr", _FIXED)],
    "rt_detr_v2": [("RTDetr", _FIXED)],
    "d_fine": [("RTDetr", _FIXED)],
    "deimv2": [("RTDetr", _FIXED)],
    "lw_detr": [("DeformableDetr", _FIXED)],
    "rf_detr": [("RfDetr", _FIXED)],
}
OPTIONS = [{}, {"resample": 3}, {"resample": 0}, {"do_normalize": False}, {"image_mean": [0.5] * 3}]
CASES = [(family, *own) for family, processors in OWN.items() for own in processors]


def _own(folder, name, fields):
    module = pytest.importorskip("transformers")
    made = getattr(module, f"{name}ImageProcessor", None)
    if made is None:
        pytest.skip(f"this transformers has no {name}ImageProcessor")
    made(**fields).save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


def _textures():
    """Random pictures: what an antialiasing or a rounding does differently shows in most of their pixels."""
    rng = np.random.default_rng(0)
    sizes = ((480, 640), (37, 91), (300, 457), (64, 64))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_every_family_has_a_row():
    assert OWN.keys() == DETECTOR_FAMILIES.keys() == TINY_DETECTORS.keys()
    with pytest.raises(ValueError, match="model_type must be one of .*got 'table-transformer'"):
        detector_preprocessing("nowhere", AutoConfig.for_model("table-transformer"))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family, name, size", CASES)
def test_pixels_are_those_of_the_detectors_own_image_processor(family, name, size, options, tmp_path, caplog):
    own = _own(tmp_path, name, size | options)
    fields = detector_preprocessing(tmp_path, tiny_config(family).detector_config)
    assert not caplog.records
    ours, twin = DeCoDetrImageProcessor(**fields), DeCoDetrImageProcessorPil(**fields)
    runtime = Preprocessing(preprocessing_of(ours, ExportSettings("onnx", dynamic_size=True)))
    step = (1 / 255) / (min(own.image_std) if own.do_normalize else 1)
    floats = name == "RfDetr"
    for image in _textures():
        expected = own(image, return_tensors="pt")["pixel_values"]
        assert ours(image, return_tensors="pt")["pixel_values"].equal(expected)
        for found in (
            twin(image, return_tensors="pt")["pixel_values"],
            torch.from_numpy(runtime(image))[None],
        ):
            assert found.shape == expected.shape
            off = (found - expected).abs() / step
            assert off.max() < (0.001 if floats or options.get("resample") == 0 else 1.01)
            assert (off > 0.001).float().mean() < 0.02


@pytest.mark.parametrize("family", TINY_DETECTORS)
def test_boxes_of_a_picture_are_those_of_the_bare_detector_to_the_bit(family, tmp_path):
    torch.manual_seed(0)
    detector = AutoModelForObjectDetection.from_config(tiny_config(family).detector_config).eval()
    detector.save_pretrained(tmp_path)
    name, size = OWN[family][0]
    own = _own(tmp_path, name, size)
    model = DeCoDetrForObjectDetection.from_detector(tmp_path, class_agnostic=False, embedding_dim=16).eval()
    ours = DeCoDetrImageProcessor(**model.config.preprocessing)
    for image in _textures()[:2]:
        with torch.no_grad():
            expected = detector(**own(image, return_tensors="pt")).pred_boxes
            found = model(**ours(image, return_tensors="pt"), min_score=0).pred_boxes
        assert found.equal(expected)


@pytest.mark.parametrize("kind", [DeCoDetrImageProcessor, DeCoDetrImageProcessorPil])
def test_the_steps_of_rf_detr_survive_saving_and_can_be_asked_for_in_a_call(kind, tmp_path):
    image, steps = _textures()[0], {"antialias": False, "rescale_first": True}
    saved = kind(**_FIXED, **steps)
    expected = saved(image, return_tensors="pt")["pixel_values"]
    saved.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"].equal(expected)
    usual = kind(**_FIXED)
    before = usual(image, return_tensors="pt")["pixel_values"]
    assert usual(image, return_tensors="pt", **steps)["pixel_values"].equal(expected)
    assert usual(image, return_tensors="pt")["pixel_values"].equal(before) and (before - expected).abs().max() > 1


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("antialias, rescale_first", [(True, True), (False, False)])
def test_twins_agree_on_every_order_of_steps(resample, antialias, rescale_first):
    fields = {"resample": resample, "antialias": antialias, "rescale_first": rescale_first, "do_normalize": False}
    for size in (_FIXED, _FREE, {"size": {"height": 500, "width": 700}}):
        ours, twin = (kind(**size, **fields) for kind in (DeCoDetrImageProcessor, DeCoDetrImageProcessorPil))
        runtime = Preprocessing(preprocessing_of(ours, ExportSettings("onnx", dynamic_size=True)))
        for image in _textures():
            expected = ours(image, return_tensors="pt")["pixel_values"]
            for found in (twin(image, return_tensors="pt")["pixel_values"], torch.from_numpy(runtime(image))[None]):
                off = (found - expected).abs() * 255
                assert off.max() < (0.02 if rescale_first else 2.01)  # rounded twice


@pytest.mark.parametrize(
    "family, name, options, replaced, sides",
    [
        ("detr", "Detr", {"do_resize": False}, None, None),
        ("detr", "Detr", _FREE | {"pad_size": {"height": 128, "width": 120}}, None, None),
        ("detr", "Detr", _FIXED | {"pad_size": {"height": 128, "width": 120}}, None, None),
        ("rt_detr", "RTDetr", _FIXED | {"do_resize": False}, "do_resize=False by size 64 x 64", (64, 64)),
        (
            "rt_detr",
            "RTDetr",
            _FIXED | {"do_pad": True, "pad_size": {"height": 96, "width": 96}},
            "pad_size 96 x 96 by no padding",
            (64, 64),
        ),
        ("rt_detr", "RTDetr", _FREE, "size shortest_edge 64, longest_edge 100 by 64 x 64", (64, 64)),
        ("rt_detr", "RTDetr", {"size": {"height": 70, "width": 64}}, "size 70 x 64 by 96 x 64", (96, 64)),
    ],
)
def test_what_cannot_be_kept_is_said(family, name, options, replaced, sides, tmp_path, caplog):
    own, image = _own(tmp_path, name, options), _textures()[2]
    ours = DeCoDetrImageProcessor(**detector_preprocessing(tmp_path, tiny_config(family).detector_config))
    found = ours(image, return_tensors="pt")
    if replaced is None:
        expected = own(image, return_tensors="pt")
        assert not caplog.records and found.keys() == expected.keys()
        assert all(found[key].equal(value) for key, value in expected.items())
        return
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and f"processor were replaced: {replaced}. Boxes" in record.getMessage()
    assert found["pixel_values"].shape == (1, 3, *sides) and "pixel_mask" not in found


def test_an_image_processor_of_another_kind_is_said(tmp_path, caplog):
    _own(tmp_path, "ViT", {"size": {"height": 64, "width": 64}})
    fields = detector_preprocessing(tmp_path, tiny_config("rt_detr").detector_config)
    (record,) = caplog.records
    assert "is a ViTImageProcessor, whose steps are not known here" in record.getMessage()
    assert fields["size"] == {"height": 64, "width": 64} and fields["resample"] == 2


def test_squares_of_image_size_replace_what_was_not_resized_or_padded(tmp_path):
    _own(tmp_path, "Detr", {"do_resize": False, "resample": 3, "pad_size": {"height": 50, "width": 50}})
    config = SimpleNamespace(preprocessing=detector_preprocessing(tmp_path, tiny_config("detr").detector_config))
    processor = DeCoDetrImageProcessor(**config.preprocessing)
    in_squares(processor, 96)
    _record_squares(config, processor, 96)
    found = processor(_textures()[:2], return_tensors="pt")["pixel_values"]
    assert found.shape == (2, 3, 96, 96)
    stored = DeCoDetrImageProcessor(**config.preprocessing)
    assert stored(_textures()[:2], return_tensors="pt")["pixel_values"].equal(found) and stored.resample == 3


def test_runs_of_other_pixels_are_other_runs():
    def identity(**fields):
        targets = SimpleNamespace(regions=None, pseudo_box_score=None, augmentation=None, weak_labels=None)
        processor = DeCoDetrImageProcessor(**_FIXED, **fields)
        return dataset_identity(
            SimpleNamespace(targets=targets, image_processor=processor, label_of_name={}, names=[])
        )["image processor"]

    usual = identity()
    assert usual.keys().isdisjoint({"resample", "antialias", "rescale_first", "pad_size"})  # as earlier runs have it
    assert identity(resample=2, antialias=True) == usual
    for fields in ({"resample": 3}, {"antialias": False}, {"rescale_first": True}, {"pad_size": _FIXED["size"]}):
        assert identity(**fields) == usual | fields
