"""Measure a model on the scenes: does it find what its names never had a box for?

On a split of a scenes folder: AP50 of novel and base names with all names in the vocabulary. The same AP50 when the
vocabulary holds twelve names or one, pooled over all such vocabularies. How often a name that is absent from an image
scores above 0.5. And the ceiling, which is what the teacher itself, a CLIP, makes of the annotated boxes that the
localization stream finds, and of all boxes that it gives.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader
from torchvision.ops import box_iou
from tqdm.auto import tqdm

from decodetr.annotations.coco import read_annotated
from decodetr.annotations.names_split import read_split
from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.predictors import best_pairs, named_by_teacher, teacher_probabilities
from decodetr.inference.detection import forward
from decodetr.inference.loading import load_model
from decodetr.modeling_decodetr.semantic_stream import fuse_scores
from decodetr.modeling_decodetr.vocabulary import check_space
from decodetr.pool_builder.embedder import ClipEmbedder
from decodetr.processing import CocoAnnotations, DetectionDataset, detection_collate
from decodetr.scenes.run_records import teacher_cells
from decodetr.scenes.world import HELD_OUT_SHAPE, NAMES
from decodetr.utils.box_tensors import pixel_corners
from decodetr.utils.shipped import load_vocabulary, resolve
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from decodetr.modeling_decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.vocabulary import Vocabulary
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

MAX_DETECTIONS = 100  # per image, over all names, in all of them
SIZES = ("all", 12, 1)
ABSENT_SCORE = 0.5
_NEVER_BOXED = {name.name for name in NAMES if name.shape == HELD_OUT_SHAPE}


def _chosen(metrics):
    """What is reported of an evaluator's metrics. `AP50_never_boxed` where there are such objects."""
    chosen = {key: metrics[key] for key in ("AP50", "AP50_novel", "AP50_base")}
    never_boxed = metrics["AP50_never_boxed"]
    return chosen if math.isnan(never_boxed) else chosen | {"AP50_never_boxed": never_boxed}


def measure(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    coco: CocoAnnotations,
    vocabulary: Vocabulary,
    novel_names: Collection[str],
    *,
    sizes: Sequence[int | str] = SIZES,
    progress: bool = True,
) -> dict[str, float]:
    """AP50 and false alarms by the size of the vocabulary.

    Args:
        model: DeCoDetrForObjectDetection. Keeps the names it has.
        coco: `CocoAnnotations` of the split, all names.
        vocabulary: `Vocabulary` of all names.
        novel_names: those that had no box in training.
        sizes: of vocabularies, of [`SIZES`].

    Returns:
        dict, in percent: "AP50, all", "AP50_novel, all", "AP50_base, all", the same with "12" and "1";
        "absent, <size>": (image, name) pairs without such an object whose best score is above 0.5, "absent_novel,
        <size>" those of novel names; "AP50_never_boxed, <size>": of the drawn world's shape that no base name has, if
        there is one.
    """
    outputs = _outputs(model, image_processor, coco, vocabulary.names)
    column = {name: i for i, name in enumerate(vocabulary.names)}
    present = torch.zeros(len(coco.images), len(column), dtype=torch.bool)
    for i, image in enumerate(coco.images):
        for row in coco.annotations_by_image.get(image["image_id"], ()):
            present[i, column[coco.names[row["category"]]]] = True
    novel = torch.tensor([name in set(novel_names) for name in vocabulary.names])
    scores_of_queries = QueryScores(model, outputs)
    order = torch.randperm(len(column), generator=torch.Generator().manual_seed(0)).tolist()
    result = {}
    for size in sizes:
        count = size if isinstance(size, int) else len(column)  # all of them
        groups = [order[start : start + count] for start in range(0, len(order), count)]
        best = torch.zeros(len(coco.images), len(column))
        kept = _BestDetections(outputs["pred_boxes"], coco.images)
        for group in tqdm(groups, desc=f"vocabularies of {count}", leave=False, disable=not progress):
            scores = scores_of_queries.of(vocabulary.select([vocabulary.names[i] for i in group]))
            best[:, group] = scores.amax(1)
            kept.add(scores, torch.tensor(group))
        metrics = kept.metrics(coco, vocabulary.names, novel_names)
        result |= {f"{key}, {size}": value for key, value in _chosen(metrics).items()}
        alarms = best > ABSENT_SCORE
        result[f"absent, {size}"] = 100 * alarms[~present].float().mean().item()
        result[f"absent_novel, {size}"] = 100 * alarms[~present & novel].float().mean().item()
    return result


def teacher_ceiling(
    model: DeCoDetrForObjectDetection,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
    coco: CocoAnnotations,
    vocabulary: Vocabulary,
    novel_names: Collection[str],
    clip: ClipEmbedder,
    *,
    progress: bool = True,
) -> dict[str, float]:
    """AP50 of CLIP's names for the annotated boxes that the localization stream finds (IoU of at least 0.5), and for
    all boxes that it gives.

    Args: as in `measure`. clip: `ClipEmbedder`. A box's scores are the softmax over all names at CLIP's temperature,
    and for boxes of the localization stream times its objectness.

    Returns:
        dict, in percent: AP50, AP50_novel, AP50_base, AP50_never_boxed of annotated boxes; the same with ", own boxes"
        of those of the localization stream; recall_novel and recall_base of it. NaN for names of which no image has an
        object.
    """
    outputs = _outputs(model, image_processor, coco, vocabulary.names)
    groups = {"never_boxed": _NEVER_BOXED}
    evaluator, of_own_boxes = (
        DetectionEvaluator(coco, vocabulary.names, novel_names, MAX_DETECTIONS, groups=groups) for _ in range(2)
    )
    novel_names = set(novel_names)
    recalled = {"novel": [], "base": []}
    images = tqdm(coco.images, desc="ceiling", unit="image", leave=False, disable=not progress)
    for image, predicted, objectness in zip(images, outputs["pred_boxes"], outputs["objectness_logits"]):
        categories = coco.annotations_by_image.arrays(image["image_id"])["category"]
        boxes = torch.from_numpy(coco.annotations_by_image.corners(image["image_id"])).float()
        found = box_iou(boxes, pixel_corners(predicted, image["width"], image["height"])).amax(1) >= 0.5
        for category, hit in zip(categories, found.tolist()):
            recalled["novel" if coco.names[category] in novel_names else "base"].append(hit)
        picture = read_annotated(image, coco.file)
        probabilities = teacher_probabilities(clip, picture, boxes[found], vocabulary.embeddings)
        evaluator.update([image["image_id"]], [best_pairs(probabilities, boxes[found], MAX_DETECTIONS)])
        own = named_by_teacher(clip, picture, predicted, objectness, vocabulary.embeddings, MAX_DETECTIONS)
        of_own_boxes.update([image["image_id"]], [own])
    result = _chosen(evaluator.compute())
    result |= {f"{key}, own boxes": value for key, value in _chosen(of_own_boxes.compute()).items()}
    means = {group: statistics.fmean(hits) if hits else math.nan for group, hits in recalled.items()}
    return result | {f"recall_{group}": 100 * mean for group, mean in means.items()}


def _outputs(model, image_processor, coco, names):
    """Boxes, objectness and r_n of all queries of all images, on the CPU."""
    dataset = DetectionDataset(coco, image_processor, names)
    model.eval()
    wanted = ("pred_boxes", "objectness_logits", "semantic_embeds")
    with torch.inference_mode():
        loader = DataLoader(dataset, batch_size=32, collate_fn=detection_collate)
        parts = [forward(model, batch, min_score=0.0) for batch in loader]
        return {name: torch.cat([part[name].cpu() for part in parts]) for name in wanted}


class QueryScores:
    """A model's scores for many vocabularies over the same queries: what does not depend on the names is computed
    once, and the model keeps its names."""

    def __init__(self, model: DeCoDetrForObjectDetection, outputs: dict[str, torch.Tensor]) -> None:
        self.model, self.objectness, self.tables = model, outputs["objectness_logits"], model.tables()
        with torch.inference_mode():
            embeds = outputs["semantic_embeds"].to(model.device)
            self.predicted = model.semantic_stream.predict(embeds, self.tables)

    def of(self, vocabulary: Vocabulary) -> torch.Tensor:
        """(images, N, K) with `vocabulary` as all the names that there are, on the CPU."""
        config = self.model.config
        check_space("vocabulary", vocabulary, config.embedding_dim, config.pool_info)
        with torch.inference_mode():
            tables = self.model.semantic_stream.tables_with(self.tables, vocabulary)
            log_probs, _ = self.model.semantic_stream.compare(*self.predicted, tables)
            return config.calibrated(fuse_scores(self.objectness, log_probs.cpu())).sigmoid()


class _BestDetections:
    """The best detections of each image, over several vocabularies."""

    def __init__(self, pred_boxes, images):
        self.images = images
        sizes = [(image["width"], image["height"]) for image in images]
        self.boxes = [pixel_corners(boxes, *size) for boxes, size in zip(pred_boxes, sizes)]
        self.score = torch.zeros(len(images), 0)
        self.label = self.query = torch.zeros(len(images), 0, dtype=torch.int64)

    def add(self, scores, labels):
        """scores (images, N, K) of the names with numbers labels (K,)."""
        score, index = scores.flatten(1).topk(min(MAX_DETECTIONS, scores[0].numel()))
        score = torch.cat([self.score, score], 1)
        label = torch.cat([self.label, labels[index % len(labels)]], 1)
        query = torch.cat([self.query, index // len(labels)], 1)
        self.score, best = score.topk(min(MAX_DETECTIONS, score.shape[1]))
        self.label, self.query = label.gather(1, best), query.gather(1, best)

    def metrics(self, coco, names, novel_names):
        evaluator = DetectionEvaluator(coco, names, novel_names, MAX_DETECTIONS, groups={"never_boxed": _NEVER_BOXED})
        for i, image in enumerate(self.images):
            prediction = {"scores": self.score[i], "labels": self.label[i], "boxes": self.boxes[i][self.query[i]]}
            evaluator.update([image["image_id"]], [prediction])
        return evaluator.compute()


def measured_table(measured: dict[str, float], ceiling: dict[str, float]) -> str:
    """What was measured, as Markdown."""
    header, rows = ["vocabulary", "AP50 novel", "AP50 base", "AP50", f"absent names above {ABSENT_SCORE}"], []
    for size, words in zip(SIZES, ("all names", "12 names", "one name")):
        cells = [f"{measured[f'{key}, {size}']:.1f}" for key in ("AP50_novel", "AP50_base", "AP50")]
        rows.append([words, *cells, f"{measured[f'absent, {size}']:.2f} %"])
    boxes = ("annotated boxes that were found", "the boxes of the model")
    for words, cells in zip(boxes, teacher_cells(ceiling, ("AP50_novel", "AP50_base", "AP50"))):
        rows.append([f"the teacher itself, on {words}", *cells, ""])
    text = markdown_table(header, rows)
    novel, base = measured["AP50_novel, all"], measured["AP50_base, all"]
    if ceiling["AP50_novel"] and base:
        share, ratio = 100 * novel / ceiling["AP50_novel"], novel / base
        text += f"\nNovel AP50 is {share:.0f} % of the teacher's on annotated boxes; novel / base is {ratio:.2f}.\n"
    return text


def measure_model(
    folder: str | Path,
    model: str,
    vocabulary: str | None = None,
    clip: str = "scenes-clip",
    split: str = "val",
) -> dict[str, dict[str, float]]:
    """
    Measure a model and its teacher on a split.

    Args:
        folder: in COCO's form, as `decodetr scenes write` makes it. split: "val", or "test", the shifted one.
        model: folder or name of a DeCo-DETR. vocabulary: of all names. Default: the model's own. clip: the teacher.

    Returns:
        {"measured": what [`measure`] gives, "ceiling": what [`teacher_ceiling`] gives}.
    """
    data = Path(folder)
    _, novel = read_split(data / "names.json")
    coco = CocoAnnotations.load(data / "annotations" / f"{split}.json")
    detector, image_processor = load_model(model)
    names = load_vocabulary(vocabulary) if vocabulary else detector.vocabulary
    teacher = ClipEmbedder(resolve(clip, "CLIP"), detector.device)
    return {
        "measured": measure(detector, image_processor, coco, names, novel),
        "ceiling": teacher_ceiling(detector, image_processor, coco, names, novel, teacher),
    }
