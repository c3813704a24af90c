"""Two gloo processes with half a batch each have the gradient of one process with the whole batch.

One spawn of two processes goes through all families and batches and writes what it found into a folder; the reference
is computed here, in one process. Dropout and denoising are off and batch norm is frozen: they alone depend on the
split.
"""

import os
import sys

import pytest
import torch
from tiny_models import REQUIRED, tiny_model

# DEIMv2 is left out: it normalises by its union of matches, which no process can see alone (loss_normalisation.py).
FAMILIES = (*REQUIRED, "conditional_detr", "dab-detr", "rt_detr", "rf_detr")
# Boxes and regions of the four images; the first two go to rank 0.
BATCHES = {
    "unequal": ((3, 1, 0, 2), (2, 0, 3, 1)),
    "no box on rank 1": ((2, 3, 0, 0), (1, 2, 2, 0)),
    "nothing on rank 1": ((2, 3, 0, 0), (1, 2, 0, 0)),
    "one box": ((1, 0, 0, 0), (0, 0, 1, 0)),
    "nothing": ((0, 0, 0, 0), (0, 0, 0, 0)),
}


def _without_dropout(config):
    for name in vars(config):
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)


def _model(family):
    model = tiny_model(family, detector={"num_denoising": 0} if "d_fine" in family or "rt_detr" in family else None)
    _without_dropout(model.config.detector_config)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    # Weights that the library starts at zero (last layers of box heads) would hide gradients.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.detector.named_parameters():
            # D-FINE's DDF term compares its layers: where they all say about the same it is next to nothing.
            scale = 0.3 if family == "d_fine" and "decoder.bbox_embed" in name else 0.02
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def _boxes(count, generator):
    centre, side = (
        torch.rand(count, 2, generator=generator) * 0.6 + 0.2,
        torch.rand(count, 2, generator=generator) * 0.3 + 0.05,
    )
    return torch.cat([centre, side], 1)


def _batch(case):
    generator = torch.Generator().manual_seed(0)
    labels = []
    for boxes, regions in zip(*BATCHES[case]):
        embeds = torch.randn(regions, 16, generator=generator)
        labels.append(
            {
                "class_labels": torch.randint(3, (boxes,), generator=generator),
                "boxes": _boxes(boxes, generator),
                "region_boxes": _boxes(regions, generator),
                "region_embeds": torch.nn.functional.normalize(embeds, dim=-1),
            }
        )
    return {"pixel_values": torch.randn(4, 3, 64, 64, generator=generator), "labels": labels}


def _half(batch, rank):
    part = slice(2 * rank, 2 * rank + 2)
    return {"pixel_values": batch["pixel_values"][part], "labels": batch["labels"][part]}


def _step(model, batch):
    """Loss terms, those of the library alone, and the gradient of the loss."""
    model.zero_grad(set_to_none=True)
    outputs = model(**batch)
    outputs.loss.backward()
    gradient = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    labels = [{**label, "class_labels": torch.zeros_like(label["class_labels"])} for label in batch["labels"]]
    with torch.no_grad():
        library = model.detector(batch["pixel_values"], labels=labels)
    return {
        "terms": {name: term.item() for name, term in {**outputs.loss_dict, "loss": outputs.loss}.items()},
        "library": {name: term.item() for name, term in {**library.loss_dict, "loss_det": library.loss}.items()},
        "gradient": gradient,
    }


def _process(rank, folder):
    """What each of the two processes does."""
    import torch.distributed as dist
    from accelerate import PartialState

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", OMP_NUM_THREADS="1")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    assert not PartialState._shared_state
    for with_accelerate in (False, True):
        if with_accelerate:
            assert PartialState(cpu=True).num_processes == 2
        # Without Accelerate's state (plain torch DDP) the library counts locally: one family shows it.
        for family in FAMILIES if with_accelerate else FAMILIES[:1]:
            model = _model(family)
            for case in BATCHES:
                found = _step(model, _half(_batch(case), rank))
                for gradient in found["gradient"].values():  # what DistributedDataParallel does
                    dist.all_reduce(gradient)
                    gradient /= 2
                if rank:  # now the same on both
                    del found["gradient"]
                torch.save(found, f"{folder}/{family} {case} {with_accelerate} {rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=2)
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
        model = _model(family)
        _REFERENCES[family] = {case: _step(model, _batch(case)) for case in BATCHES}
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
