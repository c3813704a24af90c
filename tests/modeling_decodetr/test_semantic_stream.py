"""The semantic stream against loops: region samples, name probabilities with the pool as background."""

import math

import numpy as np
import pytest
import torch
from helpers.tiny_models import tables_of, tiny_batch, tiny_config, tiny_model

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.semantic_stream import (
    RegionPooling,
    SemanticStream,
    _sample,
    boxes_on_canvas,
    pad_boxes,
)

BOXES = torch.tensor(
    [
        [[0.5, 0.5, 0.4, 0.6], [0.3, 0.7, 0.1, 0.2], [0.5, 0.5, 1.0, 1.0]],
        [[0.05, 0.9, 0.5, 0.6], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.3, 0.1]],
    ]
)


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _grid_points(box, grid):
    """Points of a box as documented: centres of grid x grid equal cells, row by row."""
    cx, cy, w, h = (float(value) for value in box)
    return [
        (cx - w / 2 + w * (column + 0.5) / grid, cy - h / 2 + h * (row + 0.5) / grid)
        for row in range(grid)
        for column in range(grid)
    ]


def _bilinear(plane, x, y):
    """Value at (x, y) in 0..1 of an (H, W) plane whose values sit at pixel centres; beyond them the border goes on."""
    height, width = plane.shape
    px = min(max(x * width - 0.5, 0), width - 1)
    py = min(max(y * height - 0.5, 0), height - 1)
    x0, y0 = math.floor(px), math.floor(py)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    fx, fy = px - x0, py - y0
    top = plane[y0, x0] * (1 - fx) + plane[y0, x1] * fx
    bottom = plane[y1, x0] * (1 - fx) + plane[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


# Regions


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_samples_of_a_ramp_are_the_coordinates(grid):
    height, width = 10, 16
    x = ((torch.arange(width) + 0.5) / width).expand(height, width)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    feature_map = torch.stack([x, y])[None]
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.6], [0.35, 0.6, 0.2, 0.1]]])
    samples = _sample(feature_map, grid, boxes)
    assert samples.shape == (1, 2, 2, grid**2)
    for n in range(2):
        assert torch.allclose(samples[0, n].T, torch.tensor(_grid_points(boxes[0, n], grid)), atol=1e-6)


def test_samples_by_loops():
    feature_map, grid = _randn(2, 3, 5, 7), 4
    samples = _sample(feature_map, grid, BOXES)
    for b in range(2):
        for n in range(3):
            for p, (x, y) in enumerate(_grid_points(BOXES[b, n], grid)):
                for c in range(3):
                    assert samples[b, n, c, p].item() == pytest.approx(
                        float(_bilinear(feature_map[b, c].double(), x, y)), abs=1e-5
                    )


@pytest.mark.parametrize(("pixel_grid", "thumbnail"), [(0, 0), (5, 12), (8, 12), (12, 12 * 2 * 2)])
def test_projected_samples_equal_the_forward(pixel_grid, thumbnail):
    """What is cached for training (raw samples) gives the features that inference computes (projected maps)."""
    torch.manual_seed(0)
    pooling = RegionPooling([3, 8, 5], 6, 4, pixel_grid)
    maps, pixels = [_randn(2, 3, 16, 12), _randn(2, 8, 8, 6), _randn(2, 5, 4, 3)], _randn(2, 3, 32, 24)
    forward = pooling(maps, pixels, BOXES)
    assert forward.shape == (2, 3, pooling.out_features) == (2, 3, 3 * 6 * 16 + thumbnail)
    samples = [some.flatten(0, 1) for some in pooling.sample(maps, pixels, BOXES)]
    assert len(samples) == 3 + bool(pixel_grid)
    assert torch.allclose(pooling.project_samples(samples), forward.flatten(0, 1), atol=1e-5)


def test_a_thumbnail_shows_the_image_in_the_box():
    """One pixel a cell: a box that covers 4 x 4 pixels exactly, sampled at 4 x 4 points, gives these pixels."""
    pixels = _randn(1, 3, 8, 8)
    box = torch.tensor([[[0.5, 0.5, 0.5, 0.5]]])
    samples = RegionPooling([], 6, 4, pixel_grid=4).sample([], pixels, box)
    assert torch.allclose(samples[0][0, 0], pixels[0, :, 2:6, 2:6].flatten(1), atol=1e-5)


def test_features_by_hand():
    torch.manual_seed(0)
    pooling, feature_map = RegionPooling([2], 3, 1), _randn(1, 2, 4, 4)
    weight, bias = pooling.projections[0].weight[..., 0, 0], pooling.projections[0].bias
    here = torch.stack([_bilinear(feature_map[0, c], 0.5, 0.5) for c in range(2)])
    expected = weight @ here + bias
    assert torch.allclose(pooling([feature_map], None, BOXES[:1, :1])[0, 0], expected, atol=1e-6)


def test_boxes_on_a_padded_canvas():
    mask = torch.zeros(2, 40, 80, dtype=torch.long)
    mask[0, :30, :40] = 1
    mask[1] = 1
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4]], [[0.5, 0.5, 0.2, 0.4]]])
    on_canvas = boxes_on_canvas(boxes, mask)
    assert torch.allclose(on_canvas[0, 0], torch.tensor([0.25, 0.375, 0.1, 0.3]))
    assert torch.equal(on_canvas[1], boxes[1]) and boxes_on_canvas(boxes, None) is boxes


@pytest.mark.parametrize("family", ["rt_detr_v2", "detr", "rf_detr"])
@pytest.mark.parametrize("semantic_inputs", ["query", "query+region"])
def test_extracted_features_give_the_losses_of_the_pixels(family, semantic_inputs):
    model = tiny_model(family, semantic_inputs=semantic_inputs).eval()
    batch = tiny_batch(batch=3, regions=True)
    if family == "detr":
        batch["pixel_mask"] = torch.ones(3, 64, 64, dtype=torch.long)
        batch["pixel_mask"][1, :, 40:] = 0
    with torch.no_grad():
        expected = model(**batch).loss_dict
        rows = model.extract_semantic_features(**batch)
        features = {
            name: torch.cat([row[name] for row in rows]) for name in ("queries", "name_index", "region_embeds")
        }
        features["samples"] = [torch.cat(level) for level in zip(*(row["samples"] for row in rows))]
        outputs = model(semantic_features=features)
    assert len(features["queries"]) > 3
    for name in ("loss_distill", "loss_align"):
        assert outputs.loss_dict[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    assert outputs.loss.item() == pytest.approx((expected["loss_distill"] + expected["loss_align"]).item(), rel=1e-5)


@pytest.mark.parametrize("family", ["rt_detr_v2", "detr"])
@pytest.mark.parametrize("fields", [{"semantic_inputs": "query"}, {"region_pixels": 8}, {"gradient_isolation": False}])
def test_losses_only_gives_the_same_losses_and_gradients(family, fields):
    model = tiny_model(family, **fields).eval()  # no denoising and no dropout
    batch = tiny_batch(batch=4, regions=True)
    for name in ("boxes", "class_labels", "region_boxes", "region_embeds"):
        batch["labels"][1][name] = batch["labels"][1][name][:0]  # an image without anything
    if family == "detr":
        batch["pixel_mask"] = torch.ones(4, 64, 64, dtype=torch.long)
        batch["pixel_mask"][2, :, 40:] = 0
    expected, gradients = model(**batch), {}
    for only in (False, True):
        model.zero_grad()
        outputs = model(**batch, losses_only=only)
        outputs.loss.backward()
        gradients[only] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert outputs.logits is None and torch.equal(outputs.pred_boxes, expected.pred_boxes)
    assert outputs.loss_dict.keys() == expected.loss_dict.keys()
    for name, term in expected.loss_dict.items():
        assert outputs.loss_dict[name].item() == pytest.approx(term.item(), rel=1e-5), name
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[False].items():
        assert torch.allclose(gradients[True][name], gradient, rtol=1e-3, atol=1e-5), name


def test_losses_only_without_anything_to_learn():
    model, batch = tiny_model(region_pixels=8), tiny_batch(batch=2)
    batch["labels"] = [{"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
    model.eval()(**batch, losses_only=True).loss.backward()
    # Zeros, not None: processes that share a batch would wait for each other.
    assert all((p.grad == 0).all() for p in model.semantic_stream.parameters())
    with pytest.raises(ValueError, match="losses_only=True needs labels"):
        model(batch["pixel_values"], losses_only=True)


def test_boxes_of_rows_lie_where_the_slots_say():
    boxes = torch.arange(24, dtype=torch.float32).view(3, 2, 4)
    padded, slot = pad_boxes(boxes, torch.tensor([1, 4, 5]))  # one of the first image, none, two of the last
    assert padded.tolist() == [[[4, 5, 6, 7], [0] * 4], [[0] * 4] * 2, [[16, 17, 18, 19], [20, 21, 22, 23]]]
    assert slot.tolist() == [0, 4, 5]
    assert pad_boxes(boxes, torch.tensor([2]))[0].shape == (3, 1, 4)
    assert pad_boxes(boxes, torch.zeros(0, dtype=torch.int64))[0].shape == (3, 1, 4)


# From queries to r_n


def test_enhanced_query_of_the_paper_is_lookup_plus_residual():
    torch.manual_seed(0)
    config = tiny_config(semantic_inputs="query", residual_weight=None)
    stream, pool = SemanticStream(config, 32, []), PrototypePool(_randn(12, 16))
    inputs = _randn(2, 5, 32, seed=1)
    with torch.no_grad():
        log_weights, embeds = stream(inputs, tables_of(pool, Vocabulary(["name"], _randn(1, 16))))
        projected = stream.input_projection(inputs).double().numpy()
        residual = stream.residual(stream.input_projection(inputs)).double().numpy()
    prototypes = pool.prototypes.double().numpy()
    for b in range(2):
        for n in range(5):
            q = projected[b, n]
            cosines = prototypes @ q / np.linalg.norm(prototypes, axis=1) / np.linalg.norm(q)
            weights = np.exp(cosines / 0.07) / np.exp(cosines / 0.07).sum()
            assert np.allclose(log_weights[b, n].exp().numpy(), weights, atol=1e-5)
            assert np.allclose(embeds[b, n].numpy(), weights @ prototypes + residual[b, n], atol=1e-4)


# Name probabilities


def _stream(dim, prototypes, temperature=0.07, identity=True, threshold=0.9):
    """A stream over so many coarse prototypes; its predictor is the identity, so that a test can choose r_n."""
    torch.manual_seed(0)
    config = tiny_config(
        embedding_dim=dim,
        num_coarse_prototypes=prototypes,
        num_fine_prototypes=0,
        name_temperature=temperature,
        background_threshold=threshold,
    )
    stream = SemanticStream(config, 32, [16])
    if identity:
        with torch.no_grad():
            stream.predictor.weight.copy_(torch.eye(dim))
            stream.predictor.bias.zero_()
    return stream.requires_grad_(False)


def _probabilities(stream, embeds, pool, vocabulary):
    stream.refresh(pool, vocabulary)
    names, background = stream.name_log_probs(embeds, stream.tables(pool, vocabulary))
    return names.exp(), background.exp()


def test_name_probabilities_by_hand():
    stream = _stream(8, 6, identity=False)
    pool, vocabulary = PrototypePool(_randn(6, 8) * 2), Vocabulary(list("abc"), _randn(3, 8, seed=1))
    stream.refresh(pool, vocabulary)
    stream.closest = torch.tensor([-1.0, 1, -1, -1, 1, -1])
    embeds = _randn(4, 8, seed=2) * 3
    log_probs, background = stream.name_log_probs(embeds, stream.tables(pool, vocabulary))
    weight, bias = stream.predictor.weight.double().numpy(), stream.predictor.bias.double().numpy()
    for n in range(4):
        g = weight @ embeds[n].double().numpy() + bias
        g = g / np.linalg.norm(g)
        over_names = [np.exp(g @ row / 0.07) for row in vocabulary.embeddings.double().numpy()]
        over_pool = [
            np.exp(g @ row / np.linalg.norm(row) / 0.07) if stream.tables(pool, vocabulary).background[j] else 0.0
            for j, row in enumerate(pool.prototypes.double().numpy())
        ]
        total = sum(over_names) + sum(over_pool)
        assert np.allclose(log_probs[n].exp().numpy(), np.array(over_names) / total, atol=1e-5)
        assert background[n].exp().item() == pytest.approx(sum(over_pool) / total, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_names_and_background_sum_to_one(count):
    stream = _stream(16, 12)
    pool, vocabulary = (
        PrototypePool(_randn(12, 16)),
        Vocabulary([str(i) for i in range(count)], _randn(count, 16, seed=1)),
    )
    names, background = _probabilities(stream, _randn(2, 7, 16, seed=2), pool, vocabulary)
    assert names.shape == (2, 7, count) and background.shape == (2, 7)
    assert torch.allclose(names.sum(-1) + background, torch.ones(2, 7), atol=1e-5)


def test_without_background_the_names_sum_to_one_and_gradients_stay_finite():
    stream = _stream(4, 4)
    pool, vocabulary = PrototypePool(torch.eye(4)), Vocabulary(list("abcd"), torch.eye(4))
    embeds = _randn(3, 4).requires_grad_()
    stream.refresh(pool, vocabulary)
    assert not stream.tables(pool, vocabulary).background.any()
    names, background = stream.name_log_probs(embeds, stream.tables(pool, vocabulary))
    assert torch.allclose(names.exp().sum(-1), torch.ones(3), atol=1e-6) and (background == float("-inf")).all()
    names[:, 0].sum().backward()
    assert embeds.grad.isfinite().all() and embeds.grad.abs().sum() > 0


def test_removing_names_that_the_pool_stands_for_changes_no_score():
    """The score of a name does not hang on which other names a user lists."""
    codes = torch.eye(16)[:10]
    stream, pool = _stream(16, 10), PrototypePool(codes)
    # A clear "0", one between "0" and "1", and one that is half something that nobody named.
    embeds = torch.stack([codes[0], codes[0] + codes[1], codes[0] + torch.eye(16)[12]])
    names = [f"name {i}" for i in range(10)]
    every, none = _probabilities(stream, embeds, pool, Vocabulary(names, codes))
    assert not none.any() and every[0, 0] > 0.99
    assert every[1, 0].item() == pytest.approx(0.5, abs=0.01)
    for kept in (1, 2, 5):
        some, background = _probabilities(stream, embeds, pool, Vocabulary(names[:kept], codes[:kept]))
        assert torch.allclose(some[:, 0], every[:, 0], atol=1e-4)
        assert torch.allclose(background, every[:, kept:].sum(-1), atol=1e-4)


def test_one_name_scores_as_among_ten_thousand():
    codes = torch.nn.functional.normalize(_randn(10_000, 128), dim=-1)
    stream, pool = _stream(128, 10_000), PrototypePool(codes)
    embeds = codes[:5] + 0.02 * _randn(5, 128, seed=1)
    names = [f"name {i}" for i in range(10_000)]
    every, _ = _probabilities(stream, embeds, pool, Vocabulary(names, codes))
    assert (every.argmax(-1) == torch.arange(5)).all() and 0.01 < every[0, 0] < 1
    for kept in (1, 2, 100):
        some, _ = _probabilities(stream, embeds, pool, Vocabulary(names[:kept], codes[:kept]))
        assert torch.allclose(some[:, 0], every[:, 0], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_absent_names_stay_below_a_half_where_the_pool_stands_for_what_is_there(count):
    codes = torch.eye(32)
    pool = PrototypePool(codes[:20])
    vocabulary = Vocabulary([f"absent {i}" for i in range(count)], codes[:count])
    present = codes[count:20] + 0.1 * _randn(20 - count, 32)
    names, background = _probabilities(_stream(32, 20), present, pool, vocabulary)
    assert names.max() < 0.01 and background.min() > 0.5
    # Something that neither names nor pool know is spread over everything.
    assert _probabilities(_stream(32, 20), codes[20:], pool, vocabulary)[0].max() < 0.1
    if count == 1:  # and why a background is needed: without one the only name takes everything
        alone = PrototypePool(codes[:1])
        assert _probabilities(_stream(32, 1), present, alone, vocabulary)[0].min() > 0.99


def test_probabilities_are_float32_inside_autocast():
    stream, pool = _stream(16, 12), PrototypePool(_randn(12, 16))
    vocabulary, embeds = Vocabulary(list("abc"), _randn(3, 16, seed=1)), _randn(5, 16, seed=2)
    expected = _probabilities(stream, embeds, pool, vocabulary)[0]
    with torch.autocast("cpu", torch.bfloat16):
        names = stream.name_log_probs(embeds, stream.tables(pool, vocabulary))[0]
    assert names.dtype == torch.float32
    # The predictor may round r_n to bfloat16, the cosines may not be rounded after that.
    rounded = _probabilities(stream, embeds.bfloat16().float(), pool, vocabulary)[0]
    assert torch.allclose(names.exp(), rounded, atol=1e-4) and torch.allclose(names.exp(), expected, atol=0.05)


def test_dropout_is_of_training_alone_and_leaves_the_global_random_numbers_alone():
    stream = tiny_model(semantic_dropout=0.25).semantic_stream.train()
    values = torch.ones(200, 50)
    state = torch.get_rng_state()
    first, second = stream._drop(values), stream._drop(values)
    stream.dropout_seed = 0
    assert torch.equal(stream._drop(values), first) and not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_dropout_is_in_front_of_both_layers_of_h_theta():
    model = tiny_model(semantic_dropout=0.5)
    stream, seen = model.semantic_stream, []
    inputs = _randn(4, stream.input_projection[1].in_features)
    stream._drop = lambda values: seen.append(values.shape[-1]) or torch.zeros_like(values)
    found = {mode: stream.train(mode)(inputs, model.tables()) for mode in (True, False)}
    assert seen == [inputs.shape[-1], stream.input_projection[3].in_features]
    # Everything is dropped: every row is the bias of the last layer.
    assert torch.equal(found[True][1], found[True][1][:1].expand(4, -1))
    assert not torch.equal(found[False][1], found[False][1][:1].expand(4, -1))
