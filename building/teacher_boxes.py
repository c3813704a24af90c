"""What the teacher sees in photos without boxes: regions that are objects, with CLIP's name of each.

They are no ground truth. They tell how sure a score must be for the teacher to agree, which is all that scores can be
calibrated on where nobody has drawn a box.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import nms

from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.loss_decodetr import teacher_targets
from decodetr.processing import RegionTable

_SURE = 0.5  # share of what a detector gives its best region of a photo (median) from which a region is an object
_SAME = 0.5  # IoU of two regions that are one object


@torch.inference_mode()
def teacher_boxes(
    model: DeCoDetrForObjectDetection, regions: RegionTable, image_ids: Iterable[int]
) -> list[dict[str, Any]]:
    """COCO annotations of regions that CLIP rather gives one of the names than the background: of the likeliest one.

    Args:
        model (DeCoDetrForObjectDetection): in evaluation mode. Its names and background are those that compete.
        regions (RegionTable): of all regions, kept or not. image_ids: of the images.

    Returns:
        list of dict: id, image_id, category_id (the place of the name, from 1), bbox [x, y, w, h] in pixels, area.
    """
    rows: list[dict[str, Any]] = []
    best = [regions.get(image_id)["proposal_scores"].max() for image_id in regions.image_ids]
    least = _SURE * float(np.median(best)) if best else 0.0  # detectors differ in how sure they are
    for image_id in image_ids:
        found = regions.get(image_id)
        boxes, scores = torch.from_numpy(found["boxes"]), torch.from_numpy(found["proposal_scores"])
        name, share = teacher_names(model, found["image_embeds"])
        sure = (scores >= least) & (share > 0.5)
        boxes, scores, name = boxes[sure], (scores * share)[sure], name[sure]
        for place in nms(boxes, scores, _SAME).tolist():
            x0, y0, x1, y1 = boxes[place].tolist()
            row = {"id": len(rows) + 1, "image_id": image_id, "category_id": int(name[place]) + 1, "iscrowd": 0}
            rows.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
    return rows


@torch.inference_mode()
def teacher_names(model: DeCoDetrForObjectDetection, image_embeds: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(the likeliest name of each region (R,), the share that CLIP gives to all names together (R,)).

    Args:
        model (DeCoDetrForObjectDetection): its names and background compete. image_embeds (R, d): of the regions.
    """
    embeds = torch.from_numpy(image_embeds).to(model.device)
    unknown = torch.full((len(embeds),), -1, device=model.device)
    _, targets = teacher_targets(unknown, embeds, model.tables(), annotation_weight=0.0)
    names = targets[:, :-1].cpu()  # the last column is the background
    return names.argmax(-1), names.sum(-1)


def all_regions(folder: Path) -> RegionTable:
    """The regions of OUT/built/regions, with those whose caption failed."""
    return RegionTable.load(folder, unkept=True)
