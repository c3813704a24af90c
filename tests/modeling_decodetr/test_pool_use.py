"""What the pool is for: the enhanced query and the background, the background alone, or nothing (ablations)."""

import pytest
import torch
from helpers.tiny_models import tiny_config, tiny_model
from torch.nn import functional as F

ABLATION = {"distill_weight": 0.0}


def _features(model, n=6):
    generator = torch.Generator().manual_seed(0)
    pooling, channels = model.semantic_stream.region_pooling, model.semantic_stream.input_projection[0]
    samples = [torch.randn(n, p.in_channels, pooling.grid**2, generator=generator) for p in pooling.projections]
    queries = torch.randn(n, channels.normalized_shape[0] - pooling.out_features, generator=generator)
    embeds = F.normalize(torch.randn(n, 16, generator=generator), dim=-1)
    return {
        "queries": queries,
        "samples": samples,
        "name_index": torch.tensor([0, 1, 2, -1, -1, -1]),
        "region_embeds": embeds,
    }


@pytest.mark.parametrize("weight", [None, 0.5, 2.0])
def test_lookup_adds_the_prototypes_to_the_residual_and_the_ablations_do_not(weight):
    full, background = tiny_model(residual_weight=weight), tiny_model(pool_use="background", **ABLATION)
    background.load_state_dict(full.state_dict())
    inputs = torch.randn(4, full.semantic_stream.input_projection[0].normalized_shape[0])
    log_weights, enhanced = full.semantic_stream(inputs, full.tables())
    _, residual = background.semantic_stream(inputs, background.tables())
    looked_up = log_weights.exp() @ full.prototype_pool.prototypes
    if weight is None:  # paper 2.4
        assert torch.allclose(enhanced - residual, looked_up, atol=1e-6)
    else:
        bounded = weight * F.normalize(residual, dim=-1)
        assert torch.allclose(enhanced - bounded, F.normalize(looked_up, dim=-1), atol=1e-6)
    assert looked_up.norm(dim=-1).min() > 0.01


def test_the_predictor_starts_as_the_identity_where_there_is_a_bounded_lookup():
    anchored, free = tiny_model(), tiny_model(residual_weight=None)
    weight = anchored.semantic_stream.predictor.weight
    assert torch.equal(weight, torch.eye(16)) and not anchored.semantic_stream.predictor.bias.any()
    assert not torch.allclose(free.semantic_stream.predictor.weight, torch.eye(16), atol=0.1)


@pytest.mark.parametrize(
    ("pool_use", "expected"), [("lookup+background", True), ("background", True), ("none", False)]
)
def test_background_prototypes_take_part_only_where_they_may(pool_use, expected, tmp_path):
    fields = {} if pool_use == "lookup+background" else ABLATION
    model = tiny_model(pool_use=pool_use, **fields)
    model.set_vocabulary(model.vocabulary)
    assert bool(model.tables().background.any()) is expected
    _, background = model.semantic_stream.name_log_probs(torch.randn(3, 16), model.tables())
    assert bool((background > -1e30).all()) is expected
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.pool_use == pool_use
    assert torch.equal(again.tables().background, model.tables().background)


@pytest.mark.parametrize("pool_use", ["background", "none"])
def test_ablations_train_with_finite_gradients(pool_use):
    model = tiny_model(pool_use=pool_use, **ABLATION).train()
    model.set_vocabulary(model.vocabulary)
    model(semantic_features=_features(model)).loss.backward()
    gradients = {n: p.grad for n, p in model.semantic_stream.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients.values())


def test_a_pool_that_is_not_looked_up_cannot_be_distilled_into():
    with pytest.raises(ValueError, match="distill_weight must be 0, got 1"):
        tiny_config(pool_use="none")
