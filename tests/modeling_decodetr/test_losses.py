"""Losses of the semantic stream and their targets against loops (paper 2.5 to 2.8)."""

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny_models import tables_of, tiny_batch, tiny_config, tiny_model

from decodetr import PrototypePool, Vocabulary
from decodetr.modeling_decodetr.embedding_space import log_assignment
from decodetr.modeling_decodetr.loss_decodetr import (
    alignment_loss,
    distillation_loss,
    supervise_queries,
    teacher_targets,
)
from decodetr.modeling_decodetr.loss_normalisation import mean_count
from decodetr.modeling_decodetr.semantic_stream import SemanticStream


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Losses


def test_distillation_by_hand():
    w = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    target = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    expected = 0.0
    for n, j in itertools.product(range(2), range(3)):
        if target[n, j] > 0:
            expected += target[n, j] * np.log(target[n, j] / w[n, j])
    log_w = torch.tensor(w, dtype=torch.float32).log()
    for count in (1, 2, 5.0, torch.tensor(4.0)):
        loss = distillation_loss(log_w, torch.tensor(target, dtype=torch.float32), count)
        assert loss.item() == pytest.approx(expected / float(count), rel=1e-5)


def test_distillation_is_zero_at_equality_and_positive_elsewhere():
    log_w = torch.log_softmax(_randn(5, 9) * 3, -1)
    assert distillation_loss(log_w, log_w.exp(), 5).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(log_w, log_w.roll(1, -1).exp(), 5).item() > 0.1


def test_distillation_has_its_minimum_where_the_query_is_the_teachers_embedding():
    """With alpha = tau the student q^ = z reproduces the teacher's distribution exactly."""
    pool, z = PrototypePool(_randn(12, 8)), _randn(4, 8, seed=1)
    rows = torch.nn.functional.normalize(pool.prototypes, dim=-1)
    target = log_assignment(z, rows, 0.07).exp()
    query = z.clone().requires_grad_()
    loss = distillation_loss(log_assignment(query, rows, 0.07), target, 4)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and query.grad.abs().max() < 1e-4


def test_alignment_by_hand():
    t = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    target = np.array([[1.0, 0.0, 0.0], [0.1, 0.4, 0.5]])
    expected = -sum(target[n, k] * np.log(t[n, k]) for n in range(2) for k in range(3))
    loss = alignment_loss(torch.tensor(t, dtype=torch.float32).log(), torch.tensor(target, dtype=torch.float32), 2)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_alignment_without_background_is_finite():
    """A vocabulary that covers the whole pool leaves log 0 for the background, whose target is 0."""
    log_probs = torch.tensor([[-0.5, -1.2, float("-inf")]], requires_grad=True)
    target = torch.tensor([[0.75, 0.25, 0.0]])
    loss = alignment_loss(log_probs, target, 1)
    assert loss.item() == pytest.approx(0.75 * 0.5 + 0.25 * 1.2, rel=1e-6)
    loss.backward()
    assert log_probs.grad.tolist() == [[-0.75, -0.25, 0.0]]


def test_no_rows_give_zero_that_can_be_differentiated():
    log_w = torch.zeros(0, 7, requires_grad=True)
    total = distillation_loss(log_w, torch.zeros(0, 7), 1) + alignment_loss(log_w, torch.zeros(0, 7), 1)
    total.backward()
    assert total.item() == 0 and log_w.grad.shape == (0, 7)


def test_count_of_one_process():
    assert mean_count(7, "cpu").item() == 7 and mean_count(0, "cpu").item() == 1


# Teacher


TAU = 0.1


def _softmax_over_names_and_background(z, names, prototypes, background):
    """CLIP's distribution: K names, then the background as one, by loops in double precision."""
    z = z.double().numpy() / np.linalg.norm(z.double().numpy())
    over_names = [np.exp(z @ row / np.linalg.norm(row) / TAU) for row in names.double().numpy()]
    rest = sum(
        np.exp(z @ row / np.linalg.norm(row) / TAU)
        for j, row in enumerate(prototypes.double().numpy())
        if background[j]
    )
    total = sum(over_names) + rest
    return np.array([*over_names, rest]) / total


def _teacher(annotated, embeds, names, prototypes, background, annotation_weight=1.0):
    vocabulary = Vocabulary([f"name {i}" for i in range(len(names))], names)
    tables = tables_of(PrototypePool(prototypes), vocabulary, torch.tensor(background), TAU)
    return teacher_targets(torch.tensor(annotated), embeds, tables, annotation_weight=annotation_weight)


NAME_ROWS, PROTOTYPES, BACKGROUND = _randn(3, 8), _randn(5, 8, seed=1) * 2, [True, False, True, True, False]


def test_a_region_alone_teaches_clips_distribution():
    embeds = _randn(4, 8, seed=2) * 3  # length must not matter
    over_prototypes, over_names = _teacher([-1] * 4, embeds, NAME_ROWS, PROTOTYPES, BACKGROUND)
    for n in range(4):
        expected = _softmax_over_names_and_background(embeds[n], NAME_ROWS, PROTOTYPES, BACKGROUND)
        assert np.allclose(over_names[n].numpy(), expected, atol=1e-5)
        z = embeds[n].double().numpy() / np.linalg.norm(embeds[n].double().numpy())
        cosines = PROTOTYPES.double().numpy() @ z / np.linalg.norm(PROTOTYPES.double().numpy(), axis=1)
        weights = np.exp(cosines / TAU)
        assert np.allclose(over_prototypes[n].numpy(), weights / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("annotation_weight", [0.0, 0.3, 1.0])
def test_an_annotated_query_with_a_region_learns_the_mixture(annotation_weight):
    embeds = _randn(3, 8, seed=2)
    targets = _teacher([2, 0, -1], embeds, NAME_ROWS, PROTOTYPES, BACKGROUND, annotation_weight)[1]
    for n, name in enumerate([2, 0, -1]):
        expected = _softmax_over_names_and_background(embeds[n], NAME_ROWS, PROTOTYPES, BACKGROUND)
        if name >= 0:
            expected = (1 - annotation_weight) * expected
            expected[name] += annotation_weight
        assert np.allclose(targets[n].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("annotation_weight", [0.0, 0.3, 1.0])
def test_an_annotated_query_without_a_region_learns_its_name(annotation_weight):
    over_prototypes, over_names = _teacher(
        [1, 2], torch.zeros(2, 8), NAME_ROWS, PROTOTYPES, BACKGROUND, annotation_weight
    )
    assert torch.equal(over_names, torch.eye(4)[[1, 2]])
    # The embedding of the name stands in for CLIP's image embedding.
    as_region = _teacher([-1, -1], NAME_ROWS[[1, 2]], NAME_ROWS, PROTOTYPES, BACKGROUND)[0]
    assert torch.allclose(over_prototypes, as_region, atol=1e-6)


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 0, 1, 2, 1, 1], [0, 0]])
@pytest.mark.parametrize("background", [BACKGROUND, [False] * 5])
def test_targets_are_distributions(rows, background):
    embeds = torch.cat([_randn(3, 8, seed=2), torch.zeros(1, 8)])
    over_prototypes, over_names = _teacher([-1, 1, 0, 1], embeds, NAME_ROWS[rows], PROTOTYPES, background, 0.4)
    assert over_names.shape == (4, len(rows) + 1) and over_names.min() >= 0
    assert torch.allclose(over_prototypes.sum(-1), torch.ones(4), atol=1e-5)
    assert torch.allclose(over_names.sum(-1), torch.ones(4), atol=1e-5)
    if not any(background):
        assert not over_names[:, -1].any()


def test_duplicate_names_share_the_targets_mass():
    embeds = _randn(4, 8, seed=2)
    once = _teacher([-1] * 4, embeds, NAME_ROWS, PROTOTYPES, BACKGROUND)[1]
    twice = _teacher([-1] * 4, embeds, NAME_ROWS[[0, 1, 1, 2]], PROTOTYPES, BACKGROUND)[1]
    assert torch.allclose(twice[:, 1], twice[:, 2]) and torch.allclose(twice[:, 1] * 2, once[:, 1], atol=1e-6)
    assert torch.allclose(twice[:, [0, 3, 4]], once[:, [0, 2, 3]], atol=1e-6)


@pytest.mark.parametrize("annotated", [[-1, -1], [1, 0]])
def test_listing_a_name_twice_changes_no_loss(annotated):
    stream, pool = _stream(8, 5), PrototypePool(PROTOTYPES)
    embeds, losses = _randn(2, 8, seed=3), []
    for rows in ([0, 1, 2], [0, 1, 2, 1]):
        vocabulary = Vocabulary([f"name {i}" for i in rows], NAME_ROWS[rows])
        tables = tables_of(pool, vocabulary, torch.tensor(BACKGROUND), TAU)
        names, background = stream.name_log_probs(embeds, tables)
        target = _teacher(annotated, _randn(2, 8, seed=2), NAME_ROWS[rows], PROTOTYPES, BACKGROUND, 0.5)[1]
        losses.append(alignment_loss(torch.cat([names, background[:, None]], -1), target, 2).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_teacher_is_float32_inside_autocast():
    """A trainer with bf16=True runs the forward, losses included, inside autocast; targets must not become coarser."""
    arguments = ([-1, 1, 0, -1], _randn(4, 8, seed=2), NAME_ROWS, PROTOTYPES, BACKGROUND, 0.4)
    exact = _teacher(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        inside = _teacher(*arguments)
    for a, b in zip(exact, inside):
        assert b.dtype == torch.float32 and torch.allclose(a, b, atol=1e-5)


def _stream(dim, prototypes):
    torch.manual_seed(0)
    return SemanticStream(
        tiny_config(embedding_dim=dim, num_coarse_prototypes=prototypes, num_fine_prototypes=0), 32, [16]
    )


def test_one_name_teaches_something_only_against_a_background():
    """Why the background is part of the target: without it a run with one name has a constant alignment loss."""
    results = {}
    for case, prototypes in (("background", torch.eye(8)[:5]), ("none", torch.eye(8)[:1])):
        stream, pool = _stream(8, len(prototypes)), PrototypePool(prototypes)
        vocabulary = Vocabulary(["cat"], torch.eye(8)[:1])
        stream.refresh(pool, vocabulary)
        tables = stream.tables(pool, vocabulary)
        regions = torch.nn.functional.normalize(torch.eye(8)[:3] + 0.1 * _randn(3, 8), dim=-1)
        target = teacher_targets(
            torch.tensor([-1, -1, 0]),
            regions,
            tables,
            annotation_weight=1.0,
        )[1]
        values = []
        for seed in range(3):
            embeds = _randn(3, 8, seed=seed).requires_grad_()
            names, background = stream.name_log_probs(embeds, tables)
            loss = alignment_loss(torch.cat([names, background[:, None]], -1), target, 3)
            gradient = torch.autograd.grad(loss, [embeds, *stream.predictor.parameters()])
            values.append((loss.item(), sum(g.abs().sum().item() for g in gradient)))
        results[case] = values
    assert all(abs(loss) < 1e-6 and gradient < 1e-6 for loss, gradient in results["none"])
    assert all(gradient > 0.1 for _, gradient in results["background"])
    losses = [loss for loss, _ in results["background"]]
    assert max(losses) - min(losses) > 0.1


# The model's own losses


def _recomputed(model, batch, outputs):
    """loss_distill and loss_align of a batch from what the forward returns, query by query."""
    tables = model.tables()
    names, background = model.semantic_stream.name_log_probs(outputs.semantic_embeds, tables)
    distill = align = 0.0
    count = 0
    for b, label in enumerate(batch["labels"]):
        annotation, region = supervise_queries(
            outputs.pred_boxes[b], outputs.objectness_logits[b], label, model.config.region_iou_threshold
        )
        for n in range(outputs.pred_boxes.shape[1]):
            if annotation[n] < 0 and region[n] < 0:
                continue
            count += 1
            name = int(label["class_labels"][annotation[n]]) if annotation[n] >= 0 else -1
            embed = label["region_embeds"][region[n]] if region[n] >= 0 else torch.zeros(16)
            over_prototypes, over_names = teacher_targets(
                torch.tensor([name]), embed[None], tables, annotation_weight=model.config.annotation_weight,
            )  # fmt: skip
            e = model.semantic_stream.predictor(outputs.semantic_embeds[b, n]).double()
            cosines = tables.prototypes.double() @ e / e.norm()
            students = {
                "query": outputs.prototype_weights[b, n].double(),
                "embedding": (cosines / tables.scales.assignment_temperature).softmax(-1),
            }
            for place, w in students.items():
                if model.config.distill_at in (place, "both"):
                    distill += (over_prototypes[0] * (over_prototypes[0].double().log() - w.log())).sum().item()
            log_t = torch.cat([names[b, n], background[b, n, None]])
            align -= (over_names[0] * log_t).sum().item()
    return distill / max(count, 1), align / max(count, 1), count


@pytest.mark.parametrize("place", ["query", "embedding", "both"])
@pytest.mark.parametrize("regions", [True, False])
def test_losses_of_the_model_by_loops(regions, place):
    weights = {"annotation_weight": 0.6, "distill_weight": 0.7, "align_weight": 0.3, "distill_at": place}
    model = tiny_model("detr", region_iou_threshold=0.1, **weights).eval()
    batch = tiny_batch(batch=3, regions=True)
    if not regions:
        for label in batch["labels"]:
            label["region_boxes"], label["region_embeds"] = torch.zeros(0, 4), torch.zeros(0, 16)
    with torch.no_grad():
        outputs = model(**batch, output_prototype_weights=True)
        distill, align, count = _recomputed(model, batch, outputs)
    assert count > (5 if regions else 4)
    assert outputs.loss_dict["loss_distill"].item() == pytest.approx(distill, rel=1e-4)
    assert outputs.loss_dict["loss_align"].item() == pytest.approx(align, rel=1e-4)
    total = outputs.loss_dict["loss_det"].item() + 0.7 * distill + 0.3 * align
    assert outputs.loss.item() == pytest.approx(total, rel=1e-4)


def test_a_batch_without_anything_to_learn_has_no_semantic_loss():
    model = tiny_model().train()
    labels = [{"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}] * 2
    outputs = model(_randn(2, 3, 64, 64), labels=labels)
    assert outputs.loss_dict["loss_distill"].item() == outputs.loss_dict["loss_align"].item() == 0
    outputs.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.semantic_stream.parameters())


def test_order_of_annotations_changes_no_loss():
    model = tiny_model("rt_detr_v2", detector={"num_denoising": 0}).eval()
    batch = tiny_batch(batch=2, regions=True)
    losses = []
    for flip in (False, True):
        if flip:
            for label in batch["labels"]:
                for key in ("class_labels", "boxes", "region_boxes", "region_embeds"):
                    label[key] = label[key].flip(0)
        with torch.no_grad():
            losses.append({name: term.item() for name, term in model(**batch).loss_dict.items()})
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
