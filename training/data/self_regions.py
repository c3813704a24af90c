"""A model's own view of the training images as regions: what a fine-tune must not unlearn, without another teacher.

Who starts from a trained model and has no regions data set would train on annotated boxes alone. Everything else in
the pictures would then be background to the localization stream, and no lesson to the semantic one, which soon gives
all things the new names. So the starting point looks once at all images: its boxes become regions, their embeddings
are such that a teacher says of them what the model says, and the prototype that it looks up most is their caption's.
CLIP is not needed. (Learning without forgetting; not in the paper.)

They are written to a folder as they come, by each process its own part, and are gone when the run is.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, wait_for_everyone
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from decodetr.inference.detection import forward
from decodetr.modeling_decodetr.embedding_space import as_images
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.pool_builder.proposals import annotated_boxes, select_proposals
from decodetr.pool_builder.settings import PoolSettings
from decodetr.processing import DetectionDataset, RegionTable, detection_collate
from decodetr.processing.region_store import write_index
from decodetr.processing.regions import write_part
from decodetr.training.data.data import PSEUDO_BOX_SCORE
from decodetr.utils.box_tensors import pixel_corners
from decodetr.utils.made_once import cache_folder, passing_folder, remove_with

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
    sure: float | None = None,
    certain: float = PSEUDO_BOX_SCORE,
) -> RegionTable:
    """
    Args:
        model (DeCoDetrForObjectDetection): the starting point. Its modes are restored.
        coco (CocoAnnotations): boxes on its annotated ones are left out. Limits are those of `pool build`, but
            `certain` regions are never too many: these things would be background.
        image_processor: of the model.
        rank, processes: every process looks at its share of the images, and has all regions in the end.
        sure (float, optional): only regions of at least this score, in 0..1, all of them, also those on annotated
            boxes. certain (float): the score from which regions may be objects.

    Returns:
        RegionTable. Its files are removed when nothing holds the table of the first process any more.

    Raises:
        OSError: there is no room for them, or processes share no folder.
    """
    limits = PoolSettings().of(*_LIMITS)
    if sure is not None:
        limits["min_objectness"] = certain = sure
    folder = _common_folder(coco, limits["max_proposals"] * 4 * model.config.embedding_dim, rank, processes)
    model.to(device)
    dataset = DetectionDataset(coco, image_processor, coco.names)
    share = Subset(dataset, range(rank, len(dataset), processes))
    loader = DataLoader(share, batch_size, collate_fn=detection_collate, num_workers=num_workers)
    found = _regions(model, loader, coco, limits, certain, apart=sure is None, quiet=rank > 0)
    with evaluating(model):
        write_part(folder / f"{rank:05d}.arrow", found)
    if processes > 1:
        wait_for_everyone()
    if rank == 0:
        write_index(folder, folder)
    if processes > 1:
        wait_for_everyone()
    table = RegionTable(OWN_REGIONS, folder)
    if rank == 0:
        remove_with(table, folder)
    return table


def _common_folder(coco, bytes_of_image, rank, processes):
    """A folder that the first process makes and all see."""
    made = str(passing_folder("own-regions", coco.file, len(coco) * bytes_of_image)) if rank == 0 else ""
    folder = Path(broadcast_object_list([made])[0] if processes > 1 else made)
    if not folder.is_dir():
        raise OSError(
            f"process {rank} does not see {folder}, where the first one keeps the model's own regions; set "
            f"HF_DATASETS_CACHE to a folder that all machines share (here it is {cache_folder().parent})"
        )
    return folder


def _regions(model, loader, coco, limits, certain, apart, quiet):
    """Columns of a regions data set of each image."""
    entries = {image["image_id"]: image for image in coco.images}
    for batch in tqdm(loader, desc="the model's own regions", unit="batch", disable=quiet):
        outputs = forward(model, batch, output_prototype_weights=True)
        for b, label in enumerate(batch["labels"]):
            entry = entries[int(label["image_id"])]
            annotated = annotated_boxes(coco, entry)[0] if apart else torch.zeros(0, 4)
            yield _regions_of_image(model, outputs, b, entry, annotated, limits, certain)


def _regions_of_image(model, outputs, b, entry, annotated, limits, certain):
    """Columns of a regions data set for the b-th image of a batch."""
    boxes = pixel_corners(outputs.pred_boxes[b].float().cpu(), entry["width"], entry["height"])
    scores = outputs.objectness_logits[b].float().sigmoid().cpu()
    all_limits = {**limits, "max_proposals": len(boxes)}
    boxes, scores, query = select_proposals(boxes, scores, annotated, entry["width"], entry["height"], **all_limits)
    most = max(limits["max_proposals"], int((scores >= certain).sum()))
    boxes, scores, query = boxes[:most], scores[:most], query[:most]
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
