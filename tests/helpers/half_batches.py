"""A step on a whole batch, and on half of it in each of two gloo processes."""

import torch

from helpers.tiny_models import REQUIRED, tiny_model

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


OF_LIBRARY = ("unequal", "no box on rank 1")  # in which the library's own loss is looked at


def _without_dropout(config):
    for name in vars(config):
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)


def deterministic_model(family):
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


def make_batch(case):
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


def half_of(batch, rank):
    part = slice(2 * rank, 2 * rank + 2)
    return {"pixel_values": batch["pixel_values"][part], "labels": batch["labels"][part]}


def take_step(model, batch, with_library=True):
    """Loss terms, the gradient of the loss, and the terms of the library alone."""
    model.zero_grad(set_to_none=True)
    outputs = model(**batch)
    outputs.loss.backward()
    gradient = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    found = {"terms": _items({**outputs.loss_dict, "loss": outputs.loss}), "library": {}, "gradient": gradient}
    if with_library:
        labels = [{**label, "class_labels": torch.zeros_like(label["class_labels"])} for label in batch["labels"]]
        with torch.no_grad():
            library = model.detector(batch["pixel_values"], labels=labels)
        found["library"] = _items({**library.loss_dict, "loss_det": library.loss})
    return found


def _items(terms):
    return {name: term.item() for name, term in terms.items()}


def run_process(folder):
    """What each of the two processes does (torch sets them up itself: Accelerate does not know of them at first)."""
    import torch.distributed as dist
    from accelerate import PartialState

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert not PartialState._shared_state
    for with_accelerate in (False, True):
        if with_accelerate:
            assert PartialState(cpu=True).num_processes == 2
        # Without Accelerate's state (plain torch DDP) the library counts locally: one family shows it.
        for family in FAMILIES if with_accelerate else FAMILIES[:1]:
            model = deterministic_model(family)
            for case in BATCHES:
                found = take_step(model, half_of(make_batch(case), rank), case in OF_LIBRARY)
                together = torch.cat([gradient.flatten() for gradient in found["gradient"].values()])
                dist.all_reduce(together)  # what DistributedDataParallel does
                for gradient, mean in zip(
                    found["gradient"].values(), together.split([g.numel() for g in found["gradient"].values()])
                ):
                    gradient.copy_(mean.view_as(gradient) / 2)
                if rank:  # now the same on both
                    del found["gradient"]
                torch.save(found, f"{folder}/{family} {case} {with_accelerate} {rank}.pt")
