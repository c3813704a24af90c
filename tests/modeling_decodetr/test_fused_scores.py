"""Fused scores: objectness times probability of a name, finite in every precision."""

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model

from decodetr.modeling_decodetr.semantic_stream import fuse_scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_score_is_objectness_times_probability(dtype):
    objectness = torch.linspace(-20, 20, 41).to(dtype).reshape(1, 41)
    probability = torch.tensor([1e-9, 1e-4, 0.1, 0.5, 0.9, 0.9999, 1.0]).expand(1, 41, 7)
    logits = fuse_scores(objectness, probability.log())
    expected = 1 / (1 + np.exp(-objectness[..., None].double().numpy())) * probability.double().numpy()
    assert logits.dtype == torch.float32
    # 1e-6 is where the score is clamped; 2e-7 more for float32.
    assert np.abs(torch.sigmoid(logits).double().numpy() - expected).max() < 1.2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fused_score_of_extremes_is_finite(dtype):
    objectness = torch.tensor([[-60.0, 60.0, -6e4, 6e4, 0.0]]).to(dtype)
    log_probs = torch.tensor([float("-inf"), -60.0, -1e-9, 0.0]).expand(1, 5, 4).to(dtype)
    logits = fuse_scores(objectness, log_probs)
    scores = logits.sigmoid()
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    assert scores[0, :, 0].max() < 1.1e-12 and scores[0, 0].max() < 1.1e-12
    assert scores[0, 1, 3].item() == pytest.approx(1, abs=2e-6) and scores.max() <= 1
    assert scores[0, 4, 3].item() == pytest.approx(0.5, abs=1e-6)


def test_fused_scores_keep_the_order_of_small_scores():
    log_probs = torch.linspace(-26, -1e-4, 500)[None, None]
    logits = fuse_scores(torch.tensor([[2.0]]), log_probs)[0, 0]
    assert (logits.diff() > 0).all()


def test_scores_of_the_model_are_the_fused_ones():
    model = tiny_model().eval()
    with torch.no_grad():
        outputs = model(tiny_batch()["pixel_values"])
        names, _ = model.semantic_stream.name_log_probs(outputs.semantic_embeds, model.tables())
    expected = outputs.objectness_logits.sigmoid()[..., None] * names.exp()
    assert torch.allclose(outputs.logits.sigmoid(), expected, atol=2e-6)
