"""Weights in half precision, on the CPU too: every call is finite and near the call in float32."""

import pytest
import torch
from helpers.tiny_models import TINY_DETECTORS, tiny_batch, tiny_model
from torch.nn import functional as F

from decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.precision import SamplingInFloat32, halve
from decodetr.modeling_decodetr.semantic_stream import _sample
from decodetr.utils.shipped import resolve

HALF = [torch.bfloat16, torch.float16]
# DAB-DETR of transformers mixes float32 into its decoder, so its weights must be float32; autocast works.
FAMILIES = sorted(set(TINY_DETECTORS) - {"dab-detr"})


def _as_deformable_attention_has_it(dtype, seed):
    """Six heads of a batch of one: (6, 16, 20, 20) whose channels lie next to each other."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(400, 96, generator=generator).to(dtype).view(20, 20, 6, 16).permute(2, 3, 0, 1)
    return value, (torch.rand(6, 60, 4, 2, generator=generator) * 2 - 1).to(dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_sampling_of_maps_that_are_not_contiguous_is_right(dtype):
    for seed in range(20):
        value, points = _as_deformable_attention_has_it(dtype, seed)
        expected = F.grid_sample(value.float(), points.float(), padding_mode="zeros", align_corners=False)
        with SamplingInFloat32():
            sampled = F.grid_sample(value, grid=points, padding_mode="zeros", align_corners=False)
        assert sampled.dtype == dtype and torch.equal(sampled, expected.to(dtype))


@pytest.mark.parametrize("dtype", HALF)
def test_regions_are_sampled_at_their_exact_places(dtype):
    value, _ = _as_deformable_attention_has_it(dtype, seed=0)
    boxes = torch.rand(6, 30, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.2
    exact = _sample(value.float(), 4, boxes)
    assert torch.equal(_sample(value, 4, boxes), exact.to(dtype))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_is_finite(family, dtype):
    detector = {"num_feature_levels": 3} if family == "deformable_detr" else {}
    model = tiny_model(family, detector=detector).eval().to(dtype)
    seen = []
    sample = torch.grid_sampler

    def spy(value, points, *args):
        seen.append(value.dtype)
        return sample(value, points, *args)

    torch.grid_sampler = spy
    try:
        with torch.inference_mode():
            for seed in range(8):
                pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).to(dtype)
                outputs = model(pixels)
                assert outputs.logits.isfinite().all() and outputs.pred_boxes.isfinite().all()
                assert outputs.objectness_logits.isfinite().all()
    finally:
        torch.grid_sampler = sample
    assert set(seen) == {torch.float32}  # never in half precision, where the CPU reads what is not there


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in_half_precision_work_under_autocast(family):
    """As `from_pretrained(dtype=torch.bfloat16)` gives them, when a caller computes under autocast all the same."""
    model = tiny_model(family).eval().bfloat16()
    batch = tiny_batch(regions=True)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    with torch.no_grad():
        plain = model(**batch)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**batch)
    assert (outputs.pred_boxes - plain.pred_boxes).abs().max() < 0.02
    assert torch.isclose(outputs.loss, plain.loss, rtol=0.02)


# Families whose queries are not chosen among places of the maps: rounding changes no choice of theirs.
@pytest.mark.parametrize("family", ["detr", "conditional_detr", "deformable_detr"])
def test_the_loss_of_weights_in_half_precision_is_near_the_exact_one(family):
    model, batch = tiny_model(family).eval(), tiny_batch(regions=True)
    with torch.no_grad():
        exact = model(**batch).loss
        loss = model.bfloat16()(**{**batch, "pixel_values": batch["pixel_values"].bfloat16()}).loss
    assert loss.dtype == torch.float32 and torch.isclose(loss, exact, rtol=0.01)


@pytest.fixture(scope="module")
def exact():
    """(folder of the shipped model, six pictures, its outputs for each in float32)."""
    folder = resolve("scenes-decodetr")
    model = DeCoDetrForObjectDetection.from_pretrained(folder).eval()
    pictures = [torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    with torch.inference_mode():
        return folder, pictures, [model(pixels) for pixels in pictures]


@pytest.mark.parametrize("dtype", HALF)
def test_the_shipped_model_finds_the_same_in_half_precision(exact, dtype):
    folder, pictures, outputs = exact
    half = DeCoDetrForObjectDetection.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        for pixels, other in zip(pictures, outputs):
            mine = half(pixels.to(dtype))
            assert mine.logits.isfinite().all() and mine.pred_boxes.isfinite().all()
            # The best box; of which of the weaker proposals are taken, a rounding decides.
            best = other.objectness_logits.argmax()
            near = (mine.pred_boxes.float() - other.pred_boxes[:, best]).abs().amax(-1).min()
            assert near < 0.05


# A Deformable DETR of two stages has a layer in half precision between its maps and its first boxes.
TWO_STAGES = {"two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 5}


@pytest.mark.parametrize(
    "family, detector", [*((one, {}) for one in sorted(TINY_DETECTORS)), ("deformable_detr", TWO_STAGES)]
)
def test_a_halved_model_gives_boxes_in_float32(family, detector):
    model = halve(tiny_model(family, detector=detector).eval(), torch.bfloat16)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert {weight.dtype for one in convolutions for weight in one.parameters()} == {torch.bfloat16}
    assert {w.dtype for w in model.semantic_stream.predictor.parameters()} == {torch.bfloat16}
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(pixels.bfloat16())
    assert outputs.pred_boxes.dtype == torch.float32 and outputs.logits.isfinite().all()
    assert not torch.equal(outputs.pred_boxes, outputs.pred_boxes.bfloat16().float())


def test_a_halved_model_finds_boxes_more_exactly_than_one_of_half_precision(exact):
    """A side near 1 is a multiple of 1/256 in bfloat16."""
    folder, pictures, outputs = exact
    whole = DeCoDetrForObjectDetection.from_pretrained(folder, dtype=torch.bfloat16).eval()
    halved = halve(DeCoDetrForObjectDetection.from_pretrained(folder).eval(), torch.bfloat16)
    off = {"whole": [], "halved": []}
    with torch.inference_mode():
        for pixels, other in zip(pictures, outputs):
            best = other.pred_boxes[:, other.objectness_logits.argmax()]
            with torch.autocast("cpu", torch.bfloat16):
                found = {"halved": halved(pixels.bfloat16())}
            found["whole"] = whole(pixels.bfloat16())
            for name, mine in found.items():
                off[name].append((mine.pred_boxes.float() - best).abs().amax(-1).min().item())
    assert sum(off["halved"]) < 0.7 * sum(off["whole"])
