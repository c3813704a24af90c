"""Whether the semantic stream needs a thumbnail of each region, besides what the detector's maps say of it.

A backbone that has seen ImageNet tells things apart. One that learned boxes alone need not keep what names are about.
Which of the two a detector has is measured: how well CLIP's view of regions can be guessed from its queries and maps,
in images that were not looked at before, and how well with the pixels of the regions too.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast_object_list
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from decodetr.annotations.coco import CocoAnnotations
from decodetr.processing import DetectionDataset, RegionTable
from decodetr.processing.detection_dataset import detection_collate
from decodetr.training.start.starting_point import said_fields, start_model, starting_config

if TYPE_CHECKING:
    from decodetr.training.data.data import TrainingData
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.options.options import TrainOptions

logger = logging.getLogger(__name__)

SIDE = 24  # pixels of a thumbnail that is chosen
GAIN = 0.05  # of the cosine to CLIP's view from which thumbnails are worth their cost
_IMAGES, _REGIONS, _FEWEST = 160, 2000, 100
_LEARNED = 0.7  # share of the images from which the view of the others is guessed
_COARSE = 12  # pixels a side of what is guessed from
_WIDTHS, _RIDGES = (0.25, 0.5, 1.0, 2.0), (1e-3, 1e-2, 1e-1, 1.0)


def choose_thumbnails(
    options: "TrainOptions", training: "DeCoDetrTrainingArguments", data: "TrainingData"
) -> "TrainOptions":
    """The options of a run, with `region_pixels` set where a new semantic stream needs it and nobody said anything.

    Args:
        options (TrainOptions). training (DeCoDetrTrainingArguments). data (TrainingData).
    """
    begins = not options.goes_on and training.streams == "semantic"
    if not begins or data.regions is None or not isinstance(data.coco, CocoAnnotations):
        return options
    config = starting_config(options, data.coco.names)
    if "region_pixels" in said_fields(options) or config.region_pixels or config.semantic_inputs == "query":
        return options
    tried = replace(
        options, set=[*options.set, f"region_pixels={SIDE}", f"embedding_dim={data.regions.embedding_dim}"]
    )
    found = None
    if training.process_index == 0:
        with torch.random.fork_rng(devices=[]):  # what is chosen starts like what is said, to the bit
            model, processor = start_model(tried, data.coco.names)
        found = thumbnail_gain(model.to(training.device).eval(), processor, data.coco, data.regions)
    (found,) = broadcast_object_list([found])  # one answer for all processes
    if found is None:
        return options
    without, gain = found
    said = f"CLIP's view of a region can be guessed from queries and maps with a cosine of {without:.2f}, and"
    said += f" {without + gain:.2f} with a thumbnail of it"
    if training.process_index == 0:
        chosen = f"--set region_pixels={SIDE} is chosen" if gain >= GAIN else "regions get none"
        logger.warning("Thumbnails: %s, so that %s", said, chosen)
    return replace(options, set=[*options.set, f"region_pixels={SIDE}"]) if gain >= GAIN else options


@torch.no_grad()
def thumbnail_gain(model, processor, coco: CocoAnnotations, regions: RegionTable) -> tuple[float, float] | None:
    """How well CLIP's view of regions is guessed, by kernel ridge regression, in images that were not learned from.

    Args:
        model (DeCoDetrForObjectDetection): in evaluation mode, with `region_pixels`. processor: its image processor.
        coco (CocoAnnotations): of the training images. regions (RegionTable): of them.

    Returns:
        (mean cosine from queries and maps, what thumbnails add to it), or None with too few regions to tell.
    """
    ids = [image["image_id"] for image in coco.images if image["image_id"] in regions]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist()
    some = coco.select_images({ids[place] for place in order[:_IMAGES]})
    dataset = DetectionDataset(some, processor, model.vocabulary.names, regions=regions, skip_unknown_names=True)
    blocks, targets, images = [], [], []
    for batch in tqdm(
        DataLoader(dataset, 8, collate_fn=detection_collate), desc="are thumbnails needed", unit="batch"
    ):
        labels = [
            {key: value.to(model.device) if isinstance(value, torch.Tensor) else value for key, value in label.items()}
            for label in batch.pop("labels")
        ]
        pixels = {name: value.to(model.device) for name, value in batch.items()}
        for item in model.extract_semantic_features(labels=labels, **pixels):
            seen = item["region_embeds"].abs().sum(-1) > 0
            *maps, thumbnails = (samples[seen].float().cpu() for samples in item["samples"])
            side = model.config.region_pixels
            coarse = F.adaptive_avg_pool2d(thumbnails.unflatten(2, (side, side)), _COARSE)
            blocks.append(
                [item["queries"][seen].float().cpu(), *(part.flatten(1) for part in maps), coarse.flatten(1)]
            )
            targets.append(item["region_embeds"][seen].float().cpu())
            images.append(torch.full((int(seen.sum()),), len(images)))
    image, target = torch.cat(images), torch.cat(targets)
    rows = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))[:_REGIONS].sort().values
    learned = image[rows] < _LEARNED * len(images)
    if min(int(learned.sum()), int((~learned).sum())) < _FEWEST:
        return None
    distances = [_distances(torch.cat(part)[rows], learned) for part in zip(*blocks)]
    target = F.normalize(target[rows], dim=-1)
    target = F.normalize(target - target.mean(0), dim=-1)
    query, *maps, thumbnail = distances
    of_maps = torch.stack(maps).mean(0)
    without = _guessed([query, of_maps], target, learned)
    return without, _guessed([query, of_maps, thumbnail], target, learned) - without


def _distances(features, learned):
    """Squared distances (n, n) of standardised features (n, F), as shares of their median."""
    spread = features[learned].std(0)
    features = (features - features[learned].mean(0)) / (spread + 1e-3 * features[learned].std()).clamp(min=1e-8)
    distances = torch.cdist(features, features).square()
    return distances / distances[learned][:, learned].median().clamp(min=1e-8)


def _guessed(distances: Sequence[torch.Tensor], target, learned):
    """The best mean cosine over a few widths and ridges."""
    best, distance = -1.0, torch.stack(list(distances)).mean(0)
    for width in _WIDTHS:
        kernel = torch.exp(-width * distance)
        own, others = kernel[learned][:, learned], kernel[~learned][:, learned]
        for ridge in _RIDGES:
            weights = torch.linalg.solve(own + ridge * torch.eye(len(own)), target[learned])
            best = max(best, F.cosine_similarity(others @ weights, target[~learned]).mean().item())
    return best
