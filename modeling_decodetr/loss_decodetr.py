"""The losses of the semantic stream and what they supervise, as pure functions of tensors.

Formulas: paper 2.5, 2.6 and 2.8 (docs/paper.md). Who is supervised by what: docs/architecture.md. The paper writes
sums over queries and does not say which. Ours run over the queries that lie on an annotated box or a region, and are
divided by their number over all processes, so that the value depends neither on N nor on how a batch is split.

Deviation: teacher and student distributions run over the names *and* the background prototypes, the same set over
which scores are computed. Over the names alone, a run with one name has a constant loss, and a region of something
that has no name is taught to be the nearest name.
"""

from dataclasses import dataclass
from typing import Self

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from transformers.image_transforms import center_to_corners_format
from transformers.loss.loss_for_object_detection import box_iou, generalized_box_iou

from .embedding_artifact import unit_rows
from .embedding_space import Tables, background_mass, centred


@torch.no_grad()
def match_annotations(
    pred_boxes: torch.Tensor, objectness_logits: torch.Tensor, boxes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-to-one matching of queries to annotated boxes, with the costs of DETR (paper 3.3).

    Args:
        pred_boxes (N, 4), boxes (n, 4): (cx, cy, w, h) in 0..1.
        objectness_logits (N,).

    Returns:
        (queries, annotations): int64 of length min(N, n).
    """
    cost = (
        5 * torch.cdist(pred_boxes.float(), boxes.float(), p=1)
        - 2 * generalized_box_iou(center_to_corners_format(pred_boxes), center_to_corners_format(boxes))
        - objectness_logits.float().sigmoid()[:, None]
    )
    query, annotation = linear_sum_assignment(torch.nan_to_num(cost, nan=1e4, posinf=1e4, neginf=-1e4).cpu())
    return torch.as_tensor(query, device=boxes.device), torch.as_tensor(annotation, device=boxes.device)


@torch.no_grad()
def supervise_queries(
    pred_boxes: torch.Tensor, objectness_logits: torch.Tensor, label: dict, iou_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What supervises each query of one image.

    A query matched to an annotated box gets that box. Any other gets the box it overlaps most, an annotated one or a
    region, if the IoU reaches the threshold, else nothing.

    Args:
        pred_boxes (N, 4) in (cx, cy, w, h), 0..1. objectness_logits (N,).
        label (`dict`): `boxes` (n, 4), and optionally `region_boxes` (R, 4).

    Returns:
        (annotation (N,), region (N,)) int64 indices into the label's boxes and regions, -1 for none. A query with an
        annotation also has the region that overlaps the annotated box best, if one does.
    """
    boxes = label["boxes"]
    regions = label.get("region_boxes", boxes[:0])
    n = len(boxes)
    annotation = torch.full(pred_boxes.shape[:1], -1, device=pred_boxes.device)
    region = annotation.clone()
    everything = center_to_corners_format(torch.cat([boxes, regions]).float())
    if len(everything) == 0:
        return annotation, region
    iou = box_iou(center_to_corners_format(pred_boxes.float()), everything)[0].nan_to_num()
    best, index = iou.max(-1)
    index = torch.where(best >= iou_threshold, index, -1)
    annotation = torch.where(index < n, index, -1)
    region = torch.where(index >= n, index - n, -1)
    if n:
        query, matched = match_annotations(pred_boxes, objectness_logits, boxes)
        annotation[query] = matched
        if len(regions):
            best, index = box_iou(everything[:n], everything[n:])[0].nan_to_num().max(-1)
            box_region = torch.where(best >= iou_threshold, index, -1)
            region = torch.where(annotation >= 0, box_region[annotation], region)
    return annotation, region


@dataclass
class SupervisedQueries:
    """The n queries of B images that something supervises, and what does. Cached features keep it as it is.

    Args:
        name_index (n,) int64: name of the annotated box, as index into the vocabulary, or -1 where no box is
            annotated.
        region_embeds (n, d): CLIP's embedding of the region. Zero rows where there is none.
        image (n,) int64: of which image, in ascending order.
        absent (B, K) bool, *optional*: names known to be absent from the unannotated regions of each image.
        row (n,) int64, *optional*: into the B * N queries, of images that were just looked at.
    """

    name_index: torch.Tensor
    region_embeds: torch.Tensor
    image: torch.Tensor
    absent: torch.Tensor | None = None
    row: torch.Tensor | None = None

    def of_image(self, b: int) -> "SupervisedQueries":
        """Return those of the b-th image."""
        mine = self.image == b
        absent = None if self.absent is None else self.absent[b : b + 1]
        row = None if self.row is None else self.row[mine]
        return SupervisedQueries(self.name_index[mine], self.region_embeds[mine], self.image[mine] - b, absent, row)

    def features(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are features of `extract_semantic_features`: all but the rows."""
        kept = {name: getattr(self, name) for name in ("name_index", "region_embeds", "image", "absent")}
        return {name: value for name, value in kept.items() if value is not None}

    @classmethod
    def of_features(cls, features: dict) -> Self:
        """Return what `features` has given. Without `image` all are of one."""
        names = features["name_index"]
        image = features.get("image", torch.zeros_like(names))
        return cls(names, features["region_embeds"], image, features.get("absent"))

    @classmethod
    def join(cls, parts: list[Self]) -> Self:
        """Join those of several images, each of one."""
        image = torch.cat([part.image + b for b, part in enumerate(parts)])
        known, absent = [part.absent for part in parts if part.absent is not None], None
        if known:
            nothing = torch.zeros_like(known[0])
            absent = torch.cat([nothing if part.absent is None else part.absent for part in parts])
        names, embeds = torch.cat([part.name_index for part in parts]), [part.region_embeds for part in parts]
        return cls(names, torch.cat(embeds), image, absent)


@torch.no_grad()
def supervise_batch(
    pred_boxes: torch.Tensor,
    objectness_logits: torch.Tensor,
    labels: list[dict],
    iou_threshold: float,
    embedding_dim: int,
    num_names: int,
) -> SupervisedQueries:
    """Supervised queries of a batch as flat rows.

    Args:
        pred_boxes (B, N, 4), objectness_logits (B, N), labels: list of B dicts. See [`supervise_queries`]. Besides the
            boxes a label has `class_labels` (n,) and may have `region_embeds` (R, d) and `absent_labels` (L,).
        num_names: K, of the vocabulary.

    Returns:
        [`SupervisedQueries`].
    """
    rows, images, names, embeds = [], [], [], []
    for b, label in enumerate(labels):
        annotation, region = supervise_queries(pred_boxes[b], objectness_logits[b], label, iou_threshold)
        chosen = ((annotation >= 0) | (region >= 0)).nonzero()[:, 0]
        annotation, region = annotation[chosen], region[chosen]
        if len(label.get("region_boxes", ())) and "region_embeds" not in label:
            raise ValueError(f"labels[{b}] has 'region_boxes' without their 'region_embeds'.")
        region_embeds = label.get("region_embeds", pred_boxes.new_zeros(0, embedding_dim))
        if region_embeds.shape[-1] != embedding_dim:
            raise ValueError(
                f"labels[{b}]['region_embeds'] have width {region_embeds.shape[-1]}, but the model's embedding space "
                f"has d = {embedding_dim}: regions, pool and vocabulary must come from the same CLIP model."
            )
        # One more entry answers for the index -1: no name, and a zero embedding.
        known = torch.cat([label["class_labels"], label["class_labels"].new_full((1,), -1)])
        region_embeds = torch.cat([region_embeds.float(), region_embeds.new_zeros(1, embedding_dim).float()])
        rows.append(chosen + b * pred_boxes.shape[1])
        images.append(torch.full_like(chosen, b))
        names.append(known[annotation])
        embeds.append(region_embeds[region])
    absent = absent_names(labels, num_names, pred_boxes.device)
    return SupervisedQueries(torch.cat(names), torch.cat(embeds), torch.cat(images), absent, torch.cat(rows))


def absent_names(labels: list[dict], num_names: int, device: torch.device) -> torch.Tensor | None:
    """(B, num_names) bool, names known to be absent from the unannotated regions of each image: its `absent_labels`
    (L,) int64. None where no label has any (paper 5, WS-OVD)."""
    if not any("absent_labels" in label for label in labels):
        return None
    absent = torch.zeros(len(labels), num_names, dtype=torch.bool, device=device)
    for row, label in zip(absent, labels):
        if "absent_labels" in label:
            row[label["absent_labels"].to(device)] = True
    return absent


def teacher_targets(
    annotated_names: torch.Tensor,
    region_embeds: torch.Tensor,
    tables: Tables,
    *,
    annotation_weight: float,
    absent: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The distributions that supervised queries learn: paper 2.5 and 2.8, the latter mixed with the annotated name.

    Args:
        annotated_names (n,) int64: name of the annotated box of each query, -1 where it has only a region.
        region_embeds (n, d): z, CLIP's image embedding of the query's region. Zero rows where there is none, for
            which the embedding of the annotated name stands in, compared at the temperatures of texts.
        tables ([`Tables`]): of the model, with the training names.
        annotation_weight: share of the one-hot name where a box is annotated and has a region.
        absent (n, K) bool, *optional*: names that no region of the query's image is. CLIP's distribution of a query
            without an annotated box leaves them out.

    Returns:
        (prototype_targets (n, M), name_targets (n, K + 1)), rows summing to 1, float32. The last column of the second
        is the whole background.
    """
    with torch.autocast(region_embeds.device.type, enabled=False):  # the targets of a bf16 run are exact all the same
        names, annotated, scales = tables.names, annotated_names >= 0, tables.scales
        has_region = (region_embeds.abs().sum(-1) > 0)[:, None]
        z = torch.where(
            has_region,
            centred(unit_rows(region_embeds.float()), tables.image_mean),
            names[annotated_names.clamp(min=0)],
        )
        level, margin = scales.of_texts()
        of_image = (
            scales.teacher_temperature,
            scales.teacher_name_temperature,
            scales.background_level,
            scales.background_margin,
        )
        of_text = (scales.assignment_temperature, scales.name_temperature, level, margin)
        tau, temperature, level, margin = (torch.where(has_region, *pair) for pair in zip(of_image, of_text))
        similarity = z @ tables.prototypes.T
        prototype_targets = (similarity / tau).softmax(-1)
        over_names = z @ names.T / temperature
        if absent is not None:
            over_names = over_names.masked_fill(absent & ~annotated[:, None], -torch.inf)
        over_background = background_mass(similarity, tables.background, temperature, level, margin)
        total = torch.logaddexp(tables.vocabulary.log_normaliser(over_names), over_background)
        # Equal rows (duplicate names) share their mass, as one-hot targets and the student do.
        over_names = (over_names - total[:, None]).exp() * tables.vocabulary.log_share.exp()
        # Where nothing is left, no name and no background, nothing is taught.
        clip = torch.cat([over_names, (over_background - total).exp()[:, None]], dim=-1).nan_to_num()
        one_hot = F.one_hot(annotated_names.clamp(min=0), len(names) + 1).to(clip)
        weight = torch.where(annotated, torch.where(has_region[:, 0], annotation_weight, 1.0), 0.0)[:, None]
        return prototype_targets, weight * one_hot + (1 - weight) * clip


def distillation_loss(log_weights: torch.Tensor, targets: torch.Tensor, count: float | torch.Tensor) -> torch.Tensor:
    """L_distill = sum_n KL(w~_n || w_n) / count (paper 2.6): log_weights (n, M) log w, targets (n, M) w~."""
    return F.kl_div(log_weights, targets, reduction="sum") / count


def alignment_loss(log_probs: torch.Tensor, targets: torch.Tensor, count: float | torch.Tensor) -> torch.Tensor:
    """L_align = sum_n CE(t_n, T_n) / count (paper 2.8): log_probs (n, K + 1), targets (n, K + 1).

    Entries whose target is zero do not count, also where the log-probability is -inf (a vocabulary without
    background).
    """
    return -(targets * log_probs.masked_fill(targets == 0, 0.0)).sum() / count
