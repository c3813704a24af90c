"""Who is supervised by what: matching and overlap against boxes made by hand, loops and brute force."""

import itertools

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_batch, tiny_model

from decodetr.modeling_decodetr.loss_decodetr import match_annotations, supervise_queries


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def _corners(box):
    cx, cy, w, h = (float(value) for value in box)
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _overlap(a, b):
    """(IoU, generalised IoU) of two (cx, cy, w, h) boxes."""
    ax0, ay0, ax1, ay1 = _corners(a)
    bx0, by0, bx1, by1 = _corners(b)
    inside = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inside
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inside / union, inside / union - (hull - union) / hull


def _supervise(pred_boxes, label, threshold=0.5, objectness=None):
    objectness = torch.zeros(len(pred_boxes)) if objectness is None else objectness
    annotation, region = supervise_queries(pred_boxes, objectness, label, threshold)
    assert annotation.dtype == region.dtype == torch.int64
    return annotation.tolist(), region.tolist()


LEFT, RIGHT, MIDDLE = (0.2, 0.5, 0.2, 0.4), (0.8, 0.5, 0.2, 0.4), (0.5, 0.5, 0.1, 0.2)
NEAR_LEFT = (0.21, 0.5, 0.2, 0.4)  # IoU 0.9 with LEFT


def test_nothing_to_learn_from():
    for label in ({"boxes": _boxes()}, {"boxes": _boxes(), "region_boxes": _boxes()}):
        assert _supervise(_boxes(LEFT, RIGHT), label) == ([-1, -1], [-1, -1])


def test_only_regions():
    """No query is forced on a region: only overlap counts, and several queries may share one."""
    label = {"boxes": _boxes(), "region_boxes": _boxes(RIGHT, LEFT)}
    annotation, region = _supervise(_boxes(LEFT, NEAR_LEFT, MIDDLE, RIGHT), label)
    assert annotation == [-1] * 4 and region == [1, 1, -1, 0]


def test_the_best_region_wins():
    label = {"boxes": _boxes(), "region_boxes": _boxes((0.24, 0.5, 0.2, 0.4), NEAR_LEFT, (0.17, 0.5, 0.2, 0.4))}
    assert _supervise(_boxes(LEFT), label)[1] == [1]


def test_a_matched_query_needs_no_overlap_and_another_needs_it():
    """Hungarian matching is one to one; beyond it a query learns from the box that it overlaps most."""
    annotation, region = _supervise(_boxes(MIDDLE, NEAR_LEFT, LEFT), {"boxes": _boxes(LEFT, RIGHT)})
    # LEFT is matched to query 2 (perfect); RIGHT to query 0, the closest that is left; query 1 overlaps LEFT.
    assert annotation == [1, 0, 0] and region == [-1] * 3


def test_an_annotated_query_also_gets_the_region_of_its_box():
    label = {"boxes": _boxes(LEFT, RIGHT), "region_boxes": _boxes(MIDDLE, NEAR_LEFT)}
    annotation, region = _supervise(_boxes(RIGHT, LEFT, MIDDLE), label)
    assert annotation == [1, 0, -1]
    assert region == [-1, 1, 0]  # RIGHT has no region, LEFT has NEAR_LEFT, MIDDLE is a region without a box


def test_an_annotated_box_wins_over_an_equal_region():
    label = {"boxes": _boxes(LEFT), "region_boxes": _boxes(LEFT)}
    assert _supervise(_boxes(LEFT, LEFT, MIDDLE), label) == ([0, 0, -1], [0, 0, -1])


def test_a_closer_region_wins_over_an_overlapping_box_unless_matched():
    label = {"boxes": _boxes(LEFT), "region_boxes": _boxes(NEAR_LEFT)}
    annotation, region = _supervise(_boxes(LEFT, NEAR_LEFT), label)
    assert annotation == [0, -1] and region == [0, 0]


def test_more_boxes_than_queries():
    label = {"boxes": _boxes(MIDDLE, RIGHT, LEFT)}
    assert _supervise(_boxes(LEFT, RIGHT), label) == ([2, 1], [-1, -1])


@pytest.mark.parametrize("threshold, expected", [(0.5, 0), (0.5000001, -1), (0.4999999, 0)])
def test_an_iou_of_exactly_the_threshold_counts(threshold, expected):
    # Binary fractions: the intersection is 1/8, the union 1/4, without rounding.
    query, region = _boxes((0.5, 0.5, 0.25, 0.5)), _boxes((0.5, 0.5, 0.5, 0.5))
    assert _supervise(query, {"boxes": _boxes(), "region_boxes": region}, threshold)[1] == [expected]


def test_objectness_decides_between_equal_queries():
    label = {"boxes": _boxes(LEFT)}
    for objectness in ([3.0, -3.0], [-3.0, 3.0]):
        query, annotation = match_annotations(_boxes(LEFT, LEFT), torch.tensor(objectness), label["boxes"])
        assert query.tolist() == [int(np.argmax(objectness))] and annotation.tolist() == [0]


def _random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator) * 0.3 + 0.05], 1
    )


@pytest.mark.parametrize("queries, boxes", [(6, 3), (3, 6), (4, 4), (5, 1)])
def test_matching_is_the_cheapest_of_all(queries, boxes):
    pred, truth, objectness = _random_boxes(queries, 0), _random_boxes(boxes, 1), _randn(queries)
    cost = np.zeros((queries, boxes))
    for q, b in itertools.product(range(queries), range(boxes)):
        l1 = float((pred[q] - truth[b]).abs().sum())
        cost[q, b] = 5 * l1 - 2 * _overlap(pred[q], truth[b])[1] - 1 / (1 + np.exp(-float(objectness[q])))
    query, annotation = match_annotations(pred, objectness, truth)
    few = min(queries, boxes)
    assert len(set(query.tolist())) == len(set(annotation.tolist())) == len(query) == few
    best = min(
        sum(cost[q, b] for q, b in zip(some_queries, some_boxes))
        for some_queries in itertools.permutations(range(queries), few)
        for some_boxes in itertools.combinations(range(boxes), few)
    )
    assert sum(cost[q, b] for q, b in zip(query.tolist(), annotation.tolist())) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_supervision_by_loops(seed):
    pred, truth, regions = _random_boxes(40, seed), _random_boxes(4, seed + 10), _random_boxes(12, seed + 20)
    objectness = _randn(40)
    annotation, region = _supervise(pred, {"boxes": truth, "region_boxes": regions}, 0.2, objectness)
    matched = dict(zip(*(t.tolist() for t in match_annotations(pred, objectness, truth))))
    for q in range(40):
        ious = [_overlap(pred[q], box)[0] for box in [*truth, *regions]]
        best = int(np.argmax(ious))
        expected = (-1, -1)
        if ious[best] >= 0.2:
            expected = (best, -1) if best < 4 else (-1, best - 4)
        if q in matched:
            expected = (matched[q], -1)
        if expected[0] >= 0:
            of_box = [_overlap(truth[expected[0]], box)[0] for box in regions]
            expected = (expected[0], int(np.argmax(of_box)) if max(of_box) >= 0.2 else -1)
        assert (annotation[q], region[q]) == expected, q


@pytest.mark.parametrize("seed", range(3))
def test_permuted_labels_give_permuted_indices(seed):
    pred, truth, regions = _random_boxes(40, seed), _random_boxes(5, seed + 10), _random_boxes(12, seed + 20)
    generator = torch.Generator().manual_seed(seed)
    boxes_order, regions_order = torch.randperm(5, generator=generator), torch.randperm(12, generator=generator)
    plain = _supervise(pred, {"boxes": truth, "region_boxes": regions}, 0.2)
    permuted = _supervise(pred, {"boxes": truth[boxes_order], "region_boxes": regions[regions_order]}, 0.2)
    assert [boxes_order[i].item() if i >= 0 else -1 for i in permuted[0]] == plain[0]
    assert [regions_order[i].item() if i >= 0 else -1 for i in permuted[1]] == plain[1]
    assert max(plain[0]) >= 0 and max(plain[1]) >= 0


def test_boxes_without_area_supervise_nothing_by_overlap():
    label = {"boxes": _boxes((0.5, 0.5, 0.0, 0.0)), "region_boxes": _boxes((0.5, 0.5, 0.0, 0.1))}
    annotation, region = _supervise(_boxes(LEFT, MIDDLE, (0.5, 0.5, 0.0, 0.0)), label)
    assert sorted(annotation) == [-1, -1, 0] and region == [-1] * 3  # one to one matching still finds a query


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_supervised_alike(dtype):
    label = {"boxes": _boxes(LEFT, RIGHT), "region_boxes": _boxes(MIDDLE)}
    pred = _boxes(RIGHT, MIDDLE, LEFT, NEAR_LEFT)
    expected = _supervise(pred, label)
    assert _supervise(pred.to(dtype), label, objectness=torch.zeros(4, dtype=dtype)) == expected


@pytest.mark.parametrize("family", ["detr", "rt_detr_v2", "lw_detr"])
def test_boxes_in_float64_teach_what_they_are(family):
    """As augmentations have them."""
    model, batch = tiny_model(family).eval(), tiny_batch(regions=True)
    for label in batch["labels"]:
        label["boxes"] = label["boxes"].double().float()
        label["pseudo_boxes"] = torch.tensor([[0.3, 0.3, 0.2, 0.2]])
    exact = [{k: v.double() if k.endswith("boxes") else v for k, v in label.items()} for label in batch["labels"]]
    assert exact[0]["boxes"].dtype == exact[0]["region_boxes"].dtype == torch.float64
    expected, found = (model(batch["pixel_values"], labels=labels).loss_dict for labels in (batch["labels"], exact))
    assert found.keys() == expected.keys() and all(torch.equal(expected[name], found[name]) for name in found)
    features = [model.extract_semantic_features(batch["pixel_values"], labels) for labels in (batch["labels"], exact)]
    assert all(torch.equal(a["queries"], b["queries"]) for a, b in zip(*features))
    assert exact[0]["boxes"].dtype == torch.float64  # the caller's own stay as they are
