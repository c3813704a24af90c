"""Losses that do not depend on how many processes share a batch.

DDP averages gradients over W processes, so each process must divide its sums by (global count / W). The detectors of
transformers 5 do that in three ways (checked in their sources and by a two-process test): "global", which is right;
"averaged_twice", which divides by W once more, so that losses of boxes come out W x (and takes DETR's class weights
per process); "per_process", which divides by the local count. `normalised_detector_loss` puts the last two right from
what a process can see, without touching the library. Denoising terms of the RT-DETR family are scaled like the
others, although the library groups them by the fullest image of each process, so with denoising two splits of a batch
still differ a little. So do the union matches of DEIMv2.
"""

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers import PreTrainedConfig
from transformers.loss.loss_d_fine import DFineLoss
from transformers.utils import ModelOutput

from .detectors import detector_family, num_queries


def world_size() -> int:
    """W: processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_count(count: int | torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """max(sum of counts over processes, 1) / W: what a process divides its sums by. Scalar or element-wise."""
    count = torch.as_tensor(count, dtype=torch.float32, device=device)
    if world_size() > 1:
        count = count.clone()
        dist.all_reduce(count)
    return count.clamp(min=1) / world_size()


def normalised_detector_loss(
    outputs: ModelOutput, labels: list[dict], config: PreTrainedConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The detector's own loss and terms as one process with the whole batch would have them.

    Args:
        outputs: output of the detector's forward with `loss` and `loss_dict`.
        labels (`list[dict]`): what the detector was given.
        config: the detector's config.

    Returns:
        (loss, loss_dict). The average over processes of the gradients of `loss` is the gradient of the global loss.
    """
    loss, terms = outputs.loss, dict(outputs.loss_dict)
    kind = detector_family(config).loss
    if world_size() == 1:
        return loss, terms
    device, boxes = loss.device, sum(len(label["class_labels"]) for label in labels)
    if kind == "global":
        # Right, but for batches with fewer boxes (times query groups) than processes, which count as W.
        right = mean_count(boxes * config.group_detr, device)
        factor = right.clamp(min=1) / right
        return loss * factor, {name: t if "cardinality" in name else t * factor for name, t in terms.items()}
    right = mean_count(boxes, device)
    if kind == "per_process":
        factor = max(boxes, 1) / right
        terms = {name: term if "loss_ddf" in name else term * factor for name, term in terms.items()}
        if any("loss_ddf" in name for name in terms):
            terms.update(_global_ddf(outputs, labels, config, terms))
        return sum(terms.values()), terms
    # averaged_twice happens where Accelerate's state exists. Without it (plain torch DDP) the count is the local one.
    divisor = (right / world_size()).clamp(min=1) if PartialState._shared_state else max(boxes, 1)
    factor = divisor / right
    class_factor = _class_weight_factor(labels, config, device) if detector_family(config).no_object else factor
    class_loss = sum(term for name, term in terms.items() if name.startswith("loss_ce"))
    loss = factor * (loss - class_loss) + class_factor * class_loss
    scaled = {name: term * (class_factor if "loss_ce" in name else factor) for name, term in terms.items()}
    # Errors that are only logged keep their value.
    return loss, {name: terms[name] if "cardinality" in name else term for name, term in scaled.items()}


def _class_weight_factor(labels, config, device):
    """DETR's cross-entropy is divided by the sum of the class weights in each process. This makes it the global
    mean."""
    n = num_queries(config)
    matched = sum(min(n, len(label["class_labels"])) for label in labels)
    weight = matched + config.eos_coefficient * (n * len(labels) - matched)
    total = torch.tensor(weight, dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return weight / (total / world_size())


def _global_ddf(outputs, labels, config, terms):
    """D-FINE's DDF term mixes two means by the roots of their counts, so it has no common factor: compute it again.

    The library's own `loss_local` on the matched queries alone is the mean over them, and with no match the mean over
    all, so the two parts are found without repeating its formula. Then they are mixed by the global counts.
    """
    criterion = DFineLoss(config).to(outputs.loss.device)
    corrected = {}
    for i, aux in enumerate(outputs.auxiliary_outputs):
        name = f"loss_ddf_aux_{i}"
        if name not in terms or "pred_corners" not in aux:
            continue
        aux = {key: value for key, value in aux.items() if isinstance(value, torch.Tensor)}
        indices = criterion.matcher(aux, labels)
        batch = torch.cat([torch.full_like(query, b) for b, (query, _) in enumerate(indices)])
        query = torch.cat([query for query, _ in indices])
        matched = torch.zeros(aux["pred_boxes"].shape[:2], dtype=torch.bool, device=batch.device)
        matched[batch, query] = True
        boxes = torch.cat([label["boxes"][j] for label, (_, j) in zip(labels, indices)])
        means = []
        for keep in ((batch, query), matched.logical_not().nonzero(as_tuple=True)):
            part = {key: value[keep][None] for key, value in aux.items()}
            count = len(keep[0])
            pairs = torch.arange(count if len(means) == 0 else 0)
            ddf = criterion.loss_local(part, [{"boxes": boxes}], [(pairs, pairs)], 1)["loss_ddf"] if count else 0.0
            means.append(ddf)
        counts = torch.tensor([len(query), matched.numel() - len(query)], dtype=torch.float32, device=boxes.device)
        total = counts.clone()
        dist.all_reduce(total)
        root = total.sqrt()  # the library's batch scale cancels
        parts = [mean * n / t.clamp(min=1) * r for mean, n, t, r in zip(means, counts, total, root)]
        corrected[name] = config.weight_loss_ddf * world_size() * sum(parts) / root.sum()
    return corrected
