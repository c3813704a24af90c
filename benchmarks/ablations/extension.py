"""A pool that grows in use, without a word: by what the teacher sees in the proposals of images that nobody labelled
or captioned. Its embeddings of images are moved to where texts lie."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader

from decodetr import DeCoDetrForObjectDetection, PrototypePool
from decodetr.annotations.coco import read_annotated
from decodetr.inference.detection import forward
from decodetr.modeling_decodetr.embedding_space import as_texts
from decodetr.pool_builder.clusters import cluster_prototypes, coarse_clusters
from decodetr.pool_builder.crops import crop_region
from decodetr.processing import DetectionDataset, detection_collate
from decodetr.scenes.comparison import Comparison
from decodetr.utils.box_tensors import pixel_corners

CERTAIN = 0.3  # objectness of a proposal that is looked at


@torch.inference_mode()
def seen_in(comparison: Comparison, split: str) -> np.ndarray:
    """CLIP's embeddings (n, d) of the certain proposals of a split's images. Its annotations are not read."""
    coco, model = comparison.splits[split], comparison.localized
    loader = DataLoader(DetectionDataset(coco, comparison.processor, coco.names), 32, collate_fn=detection_collate)
    found = [forward(model, batch, localization_only=True) for batch in loader]
    boxes = torch.cat([part.pred_boxes for part in found]).cpu()
    certain = torch.cat([part.objectness_logits for part in found]).cpu().sigmoid() > CERTAIN
    seen = []
    for entry, centers, chosen in zip(coco.images, boxes, certain):
        corners = pixel_corners(centers[chosen].float(), entry["width"], entry["height"]).tolist()
        picture = read_annotated(entry, coco.file)
        crops = [crop_region(picture, box, comparison.clip.size) for box in corners]
        if crops:
            seen.append(comparison.clip.embed_images(crops))
    return np.concatenate(seen)


def extended(pool: PrototypePool, images: np.ndarray) -> PrototypePool:
    """A pool with more coarse prototypes, as many again: clusters of image embeddings (n, d), where texts of them
    would lie."""
    texts, coarse = as_texts(torch.from_numpy(images), pool.info.get("space")).numpy(), len(pool) - pool.num_fine
    counts = np.ones(len(texts), dtype=np.int64)
    more, count = cluster_prototypes(texts, counts, coarse_clusters(texts, counts, coarse, seed=0))

    def joined(old, new):
        return torch.cat([old[:coarse], new.to(old), old[coarse:]])

    return PrototypePool(
        joined(pool.prototypes.cpu(), torch.from_numpy(more)),
        joined(pool.level.cpu(), torch.zeros(len(more))),
        joined(pool.parent.cpu(), -torch.ones(len(more))),  # coarse ones stay in their rows
        joined(pool.count.cpu(), torch.from_numpy(count)),
        info=pool.info,
    )


def extend_pool(comparison: Comparison, model: DeCoDetrForObjectDetection) -> None:
    """Give a trained model the pool that its validation images extend."""
    (split,) = comparison.splits
    model.set_pool(extended(model.prototype_pool, seen_in(comparison, split)))


ENDINGS: dict[str, Callable[[Comparison, DeCoDetrForObjectDetection], None]] = {"extend pool": extend_pool}
