"""Families that pad: what is said of an image does not depend on the canvas that it lies on."""

import pytest
import torch
from helpers.tiny_models import tiny_model
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForObjectDetection

from decodetr.modeling_decodetr.detectors import feature_cells
from decodetr.modeling_decodetr.map_cells import Cells, map_cells
from decodetr.modeling_decodetr.semantic_stream import RegionPooling

FAMILIES = ["detr", "conditional_detr", "deformable_detr", "dab-detr"]
SIZES = [((65, 72), (101, 120)), ((64, 96), (65, 101)), ((33, 129), (65, 171)), ((64, 64), (96, 128))]

EDGE = torch.tensor([[0.9, 0.8, 0.2, 0.4], [0.5, 0.5, 1.0, 1.0]])  # boxes that reach edges of the image


def _model(family):
    """A model whose backbone and projections see nothing of the padding: at the edge of an image, a convolution reads
    what is beyond it, of which the library masks nothing, and a group norm is one of the whole canvas."""
    model = tiny_model(family, region_pixels=8).eval()
    backbone = model.detector.model.backbone
    for name, part in backbone.named_modules():
        if name.endswith("embedder.convolution"):
            part.weight.data[..., :3, :], part.weight.data[..., :3] = 0, 0  # nothing to the left of a cell or above
        if name.endswith("layer.1.normalization"):
            part.weight.zero_()  # the branches; the shortcuts have kernels of one pixel
    if family == "deformable_detr":
        for projection in model.detector.model.input_proj:
            projection[1] = nn.Identity()
    # So that all queries are about the whole picture, to its edges.
    with torch.no_grad():
        model.semantic_stream.predictor.weight.normal_()
    return model


def _inputs(size, canvas):
    (height, width), pixels = size, torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    padded, mask = torch.zeros(1, 3, *canvas), torch.zeros(1, *canvas, dtype=torch.long)
    padded[..., :height, :width], mask[..., :height, :width] = pixels, 1
    alone = {"pixel_values": pixels, "pixel_mask": torch.ones(1, *size, dtype=torch.long)}
    return alone, {"pixel_values": padded, "pixel_mask": mask}


def _with_boxes_to_the_edges(model):
    """Let the boxes of the queries reach every edge."""
    localize = model._localize

    def stretched(*args, **kwargs):
        found, maps = localize(*args, **kwargs)
        boxes = found["boxes"].clone()
        boxes[:, ::3], boxes[:, 1::3] = EDGE[0], EDGE[1]
        return {**found, "boxes": boxes}, maps

    model._localize = stretched
    return model


@pytest.mark.parametrize(("size", "canvas"), SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, size, canvas):
    model = _model(family)
    alone, padded = _inputs(size, canvas)
    with torch.no_grad():
        plain, other = model(**alone), model(**padded)
        assert torch.allclose(plain.pred_boxes, other.pred_boxes, atol=1e-5)
        assert torch.allclose(plain.logits, other.logits, atol=2e-4)
        without = model(alone["pixel_values"])  # a mask that is all ones says nothing
        assert torch.allclose(plain.logits, without.logits, atol=2e-4)
        model = _with_boxes_to_the_edges(model)
        for options in ({"min_score": 0.0}, {"semantic_queries": 12}, {"output_prototype_weights": True}):
            plain, other = model(**alone, **options), model(**padded, **options)
            assert plain.logits.std() > 0.1 and torch.allclose(plain.logits, other.logits, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_semantic_loss(family):
    """Of pixels, and of features that are cached, which are the same."""
    model = _with_boxes_to_the_edges(_model(family))
    labels = [{"class_labels": torch.tensor([0, 2]), "boxes": EDGE}]
    losses = []
    for inputs in _inputs((65, 72), (101, 120)):
        (features,) = model.extract_semantic_features(**inputs, labels=labels)
        with torch.no_grad():
            losses.append(model(**inputs, labels=labels, losses_only=True).loss_dict)
            image = torch.zeros(len(features["queries"]), dtype=torch.long)
            losses.append(model(semantic_features=_joined(features, image)).loss_dict)
    for other in losses[1:]:
        for name in ("loss_distill", "loss_align"):
            assert torch.allclose(losses[0][name], other[name], atol=1e-4)


@pytest.mark.parametrize("family", ["rt_detr", "rt_detr_v2", "d_fine", "deimv2"])
def test_padding_that_a_detector_ignores_is_refused(family):
    model = tiny_model(family).eval()
    alone, padded = _inputs((64, 64), (64, 96))
    labels = [{"class_labels": torch.tensor([0, 2]), "boxes": EDGE}]
    message = f"pixel_mask has zeros, which {family} ignores: .* a fixed size, .*, and do_pad=False"
    compiled = torch.compile(model, backend="eager")
    for call in (
        lambda: model(**padded),
        lambda: compiled(**padded),
        lambda: model.train()(**padded, labels=labels),
        lambda: model.eval().extract_semantic_features(**padded, labels=labels),
    ):
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            call()
    with torch.no_grad():
        assert torch.equal(model(**alone).logits, model(alone["pixel_values"]).logits)


def _joined(features, image):
    features = dict(features)
    if "absent" in features:
        features["absent"] = features["absent"][None]
    return {"image": image, **features}


@pytest.mark.parametrize(("width", "canvas"), [(64, 64), (65, 65), (95, 101), (65, 160), (7, 33)])
@pytest.mark.parametrize("partial", [True, False])
def test_samples_are_where_the_pixels_are(width, canvas, partial):
    """On maps of the pixels' own coordinates, a cell each 8 or 16 pixels, whether or not a rest has a cell."""
    pixels = torch.arange(canvas).add(0.5).expand(1, 3, canvas, canvas).contiguous()
    maps = [F.avg_pool2d(pixels, stride, ceil_mode=partial) for stride in (8, 16)]
    if width < 16:
        maps = maps[:1] if partial else []
    pooling = RegionPooling([], 1, 2, 4, [Cells(8, partial), Cells(16, partial)])
    box = torch.tensor([[[0.6, 0.5, 0.8, 0.5]]]) * width / canvas
    *sampled, thumbnail = pooling.sample(maps, pixels, box, torch.tensor([[width, width]]))
    for stride, sample in zip((8, 16), sampled):
        cells = -(-width // stride) if partial else width // stride
        middles = [min(canvas, stride * (cell + 1)) / 2 + stride * cell / 2 for cell in range(cells)]
        expected = []
        for x in (0.4 * width, 0.8 * width):
            place = min(max(x / stride - 0.5, 0), cells - 1)
            low = min(int(place), cells - 1)
            high = min(low + 1, cells - 1)
            expected.append(middles[low] + (place - low) * (middles[high] - middles[low]))
        assert sample[0, 0, 0].tolist() == pytest.approx(expected * 2, abs=1e-3)
    expected = [min(width * share, width - 0.5) for share in (0.3, 0.5, 0.7, 0.9)]
    assert thumbnail[0, 0, 0].tolist() == pytest.approx(expected * 4, abs=1e-3)


def test_boxes_on_exact_maps_are_the_same_tensor():
    boxes = torch.rand(1, 3, 4)
    assert Cells(32).boxes_on_map(boxes, (2, 3), (64, 96)) is boxes
    assert torch.allclose(
        Cells(32).boxes_on_map(boxes, (2, 3), (64, 80)), boxes * torch.tensor([80 / 96, 1, 80 / 96, 1])
    )


@pytest.mark.parametrize("family", [*FAMILIES, "rt_detr_v2", "lw_detr"])
def test_strides_are_those_of_the_backbone(family):
    expected = {"deformable_detr": [Cells(8), Cells(16), Cells(32)], "rt_detr_v2": None, "lw_detr": None}
    model = tiny_model(family)
    before, state = {n: t.clone() for n, t in model.detector.state_dict().items()}, torch.get_rng_state()
    assert feature_cells(model.detector) == expected.get(family, [Cells(32)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], t) for n, t in model.detector.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "cells"),
    [("resnet18", [Cells(16), Cells(32)]), ("convnext_atto", [Cells(16, False), Cells(32, False)])],
)
def test_strides_of_timm(backbone, cells):
    timm = {"model_type": "timm_backbone", "backbone": backbone, "use_pretrained_backbone": False}
    config = AutoConfig.for_model(
        "detr", backbone_config={**timm, "out_indices": [2, 3] if "next" in backbone else [3, 4]}
    )
    assert feature_cells(AutoModelForObjectDetection.from_config(config)) == cells


def test_a_backbone_that_tells_no_strides_is_no_reason_to_fail():
    class Asking(nn.Module):
        def forward(self, image, mask):
            return [(image[..., : int(image.sum())], mask)]

    class Recurrent(nn.Sequential):
        def forward(self, image, mask):
            raise AssertionError("is not run")

    assert map_cells(Asking()) is None and map_cells(Recurrent(nn.LSTM(3, 3))) is None
