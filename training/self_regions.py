"""A model's own view of the training images as regions: what a fine-tune must not unlearn, without another teacher.

Who starts from a trained model and has no regions data set would train on annotated boxes alone. Everything else in
the pictures would then be background to the localization stream, and no lesson to the semantic one, which soon gives
all things the new names. So the starting point looks once at all images: its boxes become regions, their embeddings
are such that a teacher says of them what the model says, and the prototype that it looks up most is their caption's.
CLIP is not needed. (Learning without forgetting; not in the paper.)
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from decodetr.inference.detection import forward
from decodetr.modeling_decodetr.embedding_space import as_images
from decodetr.pool_builder.proposals import annotated_boxes, select_proposals
from decodetr.pool_builder.settings import PoolSettings
from decodetr.processing import DetectionDataset, RegionTable, detection_collate
from decodetr.utils.box_tensors import pixel_corners

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing import DeCoDetrImageProcessor

OWN_REGIONS = "the model's own regions"  # the source of such a table
_LIMITS = ("min_objectness", "min_side", "nms_iou", "max_proposals")


@torch.no_grad()
def self_regions(
    model: "DeCoDetrForObjectDetection",
    coco: "CocoAnnotations",
    image_processor: "DeCoDetrImageProcessor",
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 8,
    num_workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> RegionTable:
    """
    Args:
        model (DeCoDetrForObjectDetection): the starting point. Its modes are restored.
        coco (CocoAnnotations): boxes on its annotated ones are left out. Limits are those of `pool build`.
        image_processor: of the model.
        rank, processes: every process looks at its share of the images, and has all regions in the end.

    Returns:
        RegionTable.
    """
    training = model.training
    model.to(device).eval()
    dataset = DetectionDataset(coco, image_processor, coco.names)
    share = Subset(dataset, range(rank, len(dataset), processes))
    loader = DataLoader(share, batch_size, collate_fn=detection_collate, num_workers=num_workers)
    entries = {image["image_id"]: image for image in coco.images}
    limits = PoolSettings().of(*_LIMITS)
    rows = []
    for batch in tqdm(loader, desc="the model's own regions", unit="batch", disable=rank > 0):
        outputs = forward(model, batch, output_prototype_weights=True)
        for b, label in enumerate(batch["labels"]):
            rows.append(_regions_of_image(model, outputs, b, coco, entries[int(label["image_id"])], limits))
    model.train(training)
    if processes > 1:
        rows = gather_object(rows)
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return RegionTable(OWN_REGIONS, columns)


def _regions_of_image(model, outputs, b, coco, entry, limits):
    """Columns of a regions data set for the b-th image of a batch."""
    boxes = pixel_corners(outputs.pred_boxes[b].float().cpu(), entry["width"], entry["height"])
    scores = outputs.objectness_logits[b].float().sigmoid().cpu()
    annotated, _ = annotated_boxes(coco, entry)
    boxes, scores, query = select_proposals(boxes, scores, annotated, entry["width"], entry["height"], **limits)
    compared = model.semantic_stream.predictor(outputs.semantic_embeds[b, query])
    looked_up = model.prototype_pool.prototypes[outputs.prototype_weights[b, query].argmax(-1)]
    return {
        "image_id": np.full(len(boxes), entry["image_id"]),
        "box": boxes.numpy(),
        "proposal_score": scores.numpy(),
        "image_embed": as_images(compared, model.tables()).half().cpu().numpy(),
        "text_embed": looked_up.half().cpu().numpy(),
        "clip_score": np.ones(len(boxes), dtype=np.float32),
    }
