"""Two gloo processes with half a batch each have the gradient of one process with the whole batch.

One pair of processes goes through all families and batches and writes what it found into a folder; the reference
is computed here, in one process. Dropout and denoising are off and batch norm is frozen: they alone depend on the
split.
"""

import pytest
import torch
from helpers.half_batches import BATCHES, FAMILIES, OF_LIBRARY, deterministic_model, make_batch, run_process, take_step
from helpers.processes import run_pair


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    for family in FAMILIES:  # first, so that copies of this process need not import its modules again
        _reference(family, "nothing")
    run_pair(run_process, str(folder))
    return folder


def _found(folder, family, case, with_accelerate=True):
    ranks = [torch.load(folder / f"{family} {case} {with_accelerate} {rank}.pt") for rank in (0, 1)]
    mean = {
        kind: {k: (ranks[0][kind][k] + ranks[1][kind][k]) / 2 for k in ranks[0][kind]} for kind in ("terms", "library")
    }
    return {**mean, "gradient": ranks[0]["gradient"], "ranks": ranks}


_REFERENCES = {}


def _reference(family, case):
    if family not in _REFERENCES:
        model = deterministic_model(family)
        _REFERENCES[family] = {case: take_step(model, make_batch(case), case in OF_LIBRARY) for case in BATCHES}
    return _REFERENCES[family][case]


def _assert_equal(found, expected):
    """Gradients within 1e-5 of the largest one of the stream (float32 alone gives 2e-7), and equal loss terms."""
    assert found["gradient"].keys() == expected["gradient"].keys()
    for stream in ("detector.", "semantic_stream."):
        gradients = {name: gradient for name, gradient in expected["gradient"].items() if name.startswith(stream)}
        largest = max(gradient.abs().max().item() for gradient in gradients.values())
        off = {name: (found["gradient"][name] - gradient).abs().max().item() for name, gradient in gradients.items()}
        worst = max(off, key=off.get)
        assert off[worst] <= 1e-5 * largest, f"{worst} is off by {off[worst]}, the largest gradient is {largest}"
    for name, value in expected["terms"].items():
        if "cardinality" not in name:  # only logged
            assert found["terms"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_have_the_gradient_of_one(two_processes, family, case):
    expected = _reference(family, case)
    moved = [name for name, gradient in expected["gradient"].items() if gradient.any()]
    assert len(moved) > 0.9 * len(expected["gradient"]) or case == "nothing"
    _assert_equal(_found(two_processes, family, case), expected)


@pytest.mark.parametrize("case", BATCHES)
def test_so_they_have_without_accelerates_state(two_processes, case):
    _assert_equal(_found(two_processes, FAMILIES[0], case, with_accelerate=False), _reference(FAMILIES[0], case))


@pytest.mark.parametrize("family", ["detr", "conditional_detr", "deformable_detr", "dab-detr"])
def test_the_librarys_loss_is_averaged_twice(two_processes, family):
    """Why there is a correction at all: two processes double the library's box terms."""
    found, expected = _found(two_processes, family, "unequal"), _reference(family, "unequal")
    for name in ("loss_bbox", "loss_giou", "loss_bbox_0", "loss_giou_0"):
        assert found["library"][name] / expected["library"][name] == pytest.approx(2, rel=1e-4)
        assert found["terms"][name] == pytest.approx(expected["library"][name], rel=1e-4)
    assert found["library"]["loss_det"] > 1.2 * expected["library"]["loss_det"]


@pytest.mark.parametrize("family", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_the_librarys_loss_is_normalised_per_process(two_processes, family):
    """With 4 and 2 boxes the library weighs a box of the second process twice as much as one of the first."""
    found, expected = _found(two_processes, family, "unequal"), _reference(family, "unequal")
    by_rank = [rank["library"]["loss_bbox"] for rank in found["ranks"]]
    whole = expected["library"]["loss_bbox"]
    assert (4 * by_rank[0] + 2 * by_rank[1]) / 6 == pytest.approx(whole, rel=1e-4)
    assert abs((by_rank[0] + by_rank[1]) / 2 / whole - 1) > 1e-3
    assert found["terms"]["loss_bbox"] == pytest.approx(whole, rel=1e-4)


def test_the_librarys_ddf_term_has_no_common_factor(two_processes):
    """D-FINE mixes two means by the roots of their counts, so scaling with the boxes, or not at all, is wrong too."""
    found, expected = _found(two_processes, "d_fine", "no box on rank 1"), _reference("d_fine", "no box on rank 1")
    by_rank = [rank["library"]["loss_ddf_aux_0"] for rank in found["ranks"]]
    whole = expected["library"]["loss_ddf_aux_0"]
    assert whole > 0.1 and found["terms"]["loss_ddf_aux_0"] == pytest.approx(whole, rel=1e-4)
    assert abs(sum(by_rank) / 2 / whole - 1) > 2e-3  # as it is
    assert abs(by_rank[0] / whole - 1) > 2e-3  # scaled: 5 of 5 boxes on rank 0


@pytest.mark.parametrize("family", ["lw_detr", "rf_detr"])
def test_the_librarys_loss_is_global(two_processes, family):
    found, expected = _found(two_processes, family, "unequal"), _reference(family, "unequal")
    assert found["library"]["loss_bbox"] == pytest.approx(expected["library"]["loss_bbox"], rel=1e-4)
