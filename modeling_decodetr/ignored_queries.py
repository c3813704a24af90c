"""Queries that are neither object nor background to the localization stream.

What has no annotation is background to a DETR: every query that is matched to no box is taught so, also one that lies
on an object without a name, as novel ones are. Where something else says that there is an object (a region of a high
proposal score), that lesson can be left out or be weakened.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import box_iou


@contextlib.contextmanager
def weighted_background(labels: list[dict] | None, weight: float, iou_threshold: float) -> Iterator[None]:
    """Inside, the class loss of a detector of transformers has `weight` for unmatched queries on `ignore_boxes`.

    The library matches within the detector's forward, once for each decoder layer, and gives no place for weights. So
    its matchers are watched, and the gradient of the class logits that were matched is scaled: the value of the loss
    stays, its gradient is that of the weighted loss. Nothing happens without `ignore_boxes`. The class loss of DETR is
    divided by the sum of its class weights, in which these queries still count.

    Args:
        labels (`list[dict]`): what the detector is given. `ignore_boxes` (P, 4), (cx, cy, w, h) in 0..1, *optional*.
        weight (`float`): 0, no lesson, to 1, the full one.
        iou_threshold (`float`): IoU from which a query lies on a box.
    """
    if weight == 1 or not any(len(label.get("ignore_boxes", ())) for label in labels or ()):
        yield
        return

    thread = threading.get_ident()

    def watch(module, args, matches):
        # The hook sees the modules of all models and threads. The calls of other threads are not its business.
        if threading.get_ident() == thread and type(module).__name__.endswith("Matcher"):
            outputs, targets = args[:2]
            if outputs["logits"].requires_grad:
                ignored = _ignored(outputs["pred_boxes"].detach(), targets, matches, iou_threshold)
                outputs["logits"].register_hook(lambda grad: torch.where(ignored[..., None], weight * grad, grad))

    handle = register_module_forward_hook(watch)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _ignored(pred_boxes, targets, matches, iou_threshold):
    """(B, N) bool: queries of `pred_boxes` (B, N, 4) that lie on a box to ignore and are matched to none."""
    ignored = torch.zeros(pred_boxes.shape[:2], dtype=torch.bool, device=pred_boxes.device)
    for b, (target, (query, _)) in enumerate(zip(targets, matches)):
        boxes = target.get("ignore_boxes", target["boxes"][:0])
        if len(boxes):
            corners = [center_to_corners_format(some.float()) for some in (pred_boxes[b], boxes)]
            ignored[b] = box_iou(*corners)[0].nan_to_num().amax(1) >= iou_threshold
            ignored[b, query.to(ignored.device)] = False
    return ignored
