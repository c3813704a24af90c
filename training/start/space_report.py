"""What a config's temperatures, background and momentum do in the space of its pool and names, in figures.

The paper's values (tau = 0.07, literal momentum: paper 2.5, 3.4, 3.5) cannot work with the embeddings of a real
CLIP, whose texts lie in a narrow cone: the teacher then says nothing of names, every query looks up the same, and the
pool falls into one point. A run says so before its first step, with the field that mends it (docs/paper_mode.md has
the figures). The same functions judge any config. One that works passes without a word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

from decodetr.modeling_decodetr import PrototypePool
from decodetr.modeling_decodetr.embedding_space import Scales, log_assignment
from decodetr.modeling_decodetr.excerpts import some_of
from decodetr.modeling_decodetr.loss_decodetr import teacher_targets

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.annotations.stream import AnnotationStream
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing import RegionTable

CLIP_TEMPERATURE = 0.01  # of CLIP's own softmax, if its space does not say another: its logit scale is 100
# Fields that a config may leave to the space of its pool.
_FROM_SPACE = (
    *("teacher_temperature", "assignment_temperature", "teacher_name_temperature", "name_temperature"),
    *("background_level", "background_threshold"),
)
_REGIONS, _NAMES = 512, 32  # as many as are looked at
_MOST_SEEN = 20  # times as many regions are gone through for some with a name
_STEPS, _BATCH = 30, 512  # of the pool's momentum, and captions in each
_LEAST_OF_OWN = 0.5  # share that the teacher gives right names, as a part of what CLIP's own softmax gives them
_LEAST_SCORE = 0.5  # what a name's best embedding must reach, the threshold of the pipeline
_MOST_UNKNOWN = 0.1  # share of the training names that CLIP may not know
_TEXTS = "give such names texts that say what is seen, also to `decodetr pool cluster --vocabulary` (docs/names.md)"
_MOST_OF_POOL = 0.25  # effective number of prototypes in a lookup, as a part of the pool


@dataclass
class SpaceReport:
    """
    Figures of a space. None where there was nothing to measure.

    Attributes:
        scales (Scales): temperatures and background of the model. measured (bool): the pool describes its space, and
            the config may take everything from there. given (frozenset[str]): fields that the config states itself.
            centred (bool): it takes the means from there. by (str): what the space was chosen by, its `asked["by"]`.
        unknown (list[str]), names (int): training names that CLIP did not know when the pool was made, without texts
            of their own, and the number of all.
        right, background (float): the teacher's mean share of a region's right name and of the background. Where no
            right name is known, `right` is that of the most likely name.
        own (float): the share of the same name in CLIP's own softmax over the names alone.
        named (bool): right names are known.
        lookup (float), prototypes (int): effective number of prototypes in the lookup that the teacher asks of a
            region, or in that of a query that is a prototype, whichever is larger, and of how many.
        best (float): mean of the best probability that any embedding can have for a name.
        cosine, moved (float): mean cosine between prototypes now, and after `steps` steps of literal momentum.
    """

    scales: Scales
    measured: bool = False
    given: frozenset[str] = frozenset()
    centred: bool = True
    by: str | None = None
    unknown: list[str] = field(default_factory=list)
    names: int = 0
    right: float | None = None
    background: float | None = None
    own: float | None = None
    named: bool = False
    lookup: float | None = None
    prototypes: int = 0
    best: float | None = None
    cosine: float | None = None
    moved: float | None = None
    steps: int = _STEPS

    def problems(self) -> list[str]:
        """What cannot work, one line each, with the fields that mend it."""
        found = []
        if len(self.unknown) > _MOST_UNKNOWN * self.names:
            found.append(
                f"CLIP does not know {len(self.unknown)} of {self.names} training names ({some_of(self.unknown)}), so "
                f"that regions teach nothing of them; {_TEXTS}"
            )
        few = self.right is not None and self.own is not None and self.right < _LEAST_OF_OWN * self.own
        if few and self._can_mend("teacher_name_temperature", "background_level", "background_threshold"):
            what = "right" if self.named else "most likely"
            found.append(
                f"teacher_name_temperature={self.scales.teacher_name_temperature:g}: the teacher gives the {what} "
                f"name of a region {self.right:.2%} and the background {self.background:.1%}, CLIP's own softmax over "
                f"these names gives it {self.own:.0%}, so that regions teach little of names; "
                f"{self._mend('teacher_name_temperature', 'background_level')}"
            )
        many = self.lookup is not None and self.lookup > max(_MOST_OF_POOL * self.prototypes, 4)
        if many and self._can_mend("teacher_temperature", "assignment_temperature"):
            found.append(
                f"teacher_temperature={self.scales.teacher_temperature:g}, assignment_temperature="
                f"{self.scales.assignment_temperature:g}: {self.lookup:,.0f} of {self.prototypes:,} prototypes take "
                "part in a lookup (effective number), so that it is nearly the same for everything; "
                f"{self._mend('teacher_temperature', 'assignment_temperature')}"
            )
        if self.best is not None and self.best < _LEAST_SCORE and self._can_mend("name_temperature"):
            found.append(
                f"name_temperature={self.scales.name_temperature:g}: no embedding can give its name more than "
                f"{self.best:.2f} on average, so that hardly a detection passes a threshold of {_LEAST_SCORE}; "
                f"{self._mend('name_temperature')}"
            )
        if self.moved is not None and self.cosine is not None and 1 - self.moved < (1 - self.cosine) / 2:
            found.append(
                f"pool_update=literal: {self.steps} steps over these captions bring the mean cosine between prototypes"
                f" from {self.cosine:.3f} to {self.moved:.3f} (1: all are one point); --set pool_update=frozen"
            )
        return found

    def _can_mend(self, *fields):
        """Whether something can be changed: a flag, or what annotated boxes chose these fields by. What captions alone
        chose cannot be taken from there again."""
        return self._states(fields) or self.by == "annotations"

    def _states(self, fields):
        """Whether the config does without the pool's space in these fields."""
        return not (self.measured and self.centred) or bool(self.given.intersection(fields))

    def _mend(self, *fields):
        """Flags that take fields from the pool's space. Of a pool without one, what makes it have one. Of fields that
        are from there, what makes it a better one."""
        if not self._states(fields):
            why = "the pool's annotated names chose this, which CLIP does not tell apart or captions do not say"
            return f"{why}; {_TEXTS}, or give `decodetr pool build` a better --captioner"
        if self.measured:
            centred = [] if self.centred else ["centred=true"]
            return f"--set {' '.join([*centred, *(f'{field}=null' for field in fields)])}"
        sharp = " ".join(f"{field}={CLIP_TEMPERATURE}" for field in fields if field.endswith("temperature"))
        return f"--set {sharp}, or take a pool whose space `decodetr pool build` has measured"


@torch.no_grad()
def mean_effective_number(log_weights: torch.Tensor) -> float:
    """Effective number of entries that distributions use: the mean of exp(entropy).

    Args:
        log_weights (n, M): log-probabilities.
    """
    entropy = -(log_weights.exp() * log_weights.clamp(min=-1e4)).sum(-1)
    return entropy.exp().mean().item()


@torch.no_grad()
def own_shares(embeds: torch.Tensor, names: torch.Tensor, temperature: float = CLIP_TEMPERATURE) -> torch.Tensor:
    """CLIP's own softmax of image embeddings (n, d) over name embeddings (K, d), unit rows: (n, K)."""
    return (embeds @ names.T / temperature).softmax(-1)


def best_scores(
    log_probs: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int = 60
) -> torch.Tensor:
    """The best probability that any embedding can have for each of K names.

    Args:
        log_probs: function of (K, d) embeddings that gives (K, K) log-probabilities.
        start (K, d): unit rows, where to look from.

    Returns:
        (K,).
    """
    found = log_probs(start).diagonal().detach().exp()
    if found.mean() >= _LEAST_SCORE:  # nothing better is needed
        return found
    with torch.enable_grad():
        embeds = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([embeds], lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            score = log_probs(embeds).diagonal()
            found = torch.maximum(found, score.detach().exp())
            (-score.sum()).backward(inputs=[embeds])
            optimizer.step()
    return found


@torch.no_grad()
def literal_drift(
    pool: PrototypePool,
    texts: torch.Tensor,
    temperature: float,
    momentum: float,
    steps: int = _STEPS,
    batch: int = _BATCH,
) -> float:
    """Mean cosine between prototypes after literal momentum (paper 3.5) over batches drawn from `texts` (n, d).
    The pool stays as it is."""
    moved, generator = PrototypePool(pool.prototypes), torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(texts), (batch,), generator=generator)
        moved.update(moved.assignment_sums(texts[rows], temperature), momentum)
    return moved.mean_cosine()


def describe_space(
    model: "DeCoDetrForObjectDetection", embeds: torch.Tensor, names: torch.Tensor, texts: torch.Tensor
) -> SpaceReport:
    """
    Args:
        model (DeCoDetrForObjectDetection): with its pool and training names.
        embeds (n, d): image embeddings of regions, unit rows. n may be 0. names (n,) int64: what they show, -1 where
            that is not known. texts (t, d): text embeddings of regions' captions, which move the pool. t may be 0.
    """
    config, tables = model.config, model.tables()
    embeds, names, texts = (rows.to(model.device) for rows in (embeds, names, texts))
    space = tables.pool.info.get("space") or {}
    given = frozenset(name for name in _FROM_SPACE if getattr(config, name) is not None)
    measured = "teacher_temperature" in space
    report = SpaceReport(tables.scales, measured, given, config.centred, prototypes=len(tables.pool))
    report.by = space.get("asked", {}).get("by")
    texts_given = tables.vocabulary.info.get("prompts") or {}
    unknown = set(space.get("unknown_names", ())).difference(texts_given)
    report.unknown = [name for name in tables.vocabulary.names if name in unknown]
    report.names = len(tables.vocabulary)
    if len(embeds):
        known = names >= 0
        report.named = bool(known.any())
        if report.named:
            embeds, names = embeds[known], names[known]
        _describe_teacher(report, model, tables, embeds, names)
    report.best = _best(model, tables)
    if config.pool_update == "literal" and len(texts):
        report.cosine = tables.pool.mean_cosine()
        report.moved = literal_drift(tables.pool, texts, tables.scales.teacher_temperature, config.pool_momentum)
    return report


@torch.no_grad()
def _describe_teacher(report, model, tables, embeds, names):
    unknown = torch.full_like(names, -1)
    lookups, targets = teacher_targets(unknown, embeds, tables, annotation_weight=0.0)
    scale = (tables.pool.info.get("space") or {}).get("logit_scale") or 1 / CLIP_TEMPERATURE
    own = own_shares(embeds, tables.vocabulary.embeddings, 1 / scale)
    row = torch.arange(len(embeds))
    shown = names if report.named else own.argmax(-1)
    report.right, report.own = targets[row, shown].mean().item(), own[row, shown].mean().item()
    report.background = targets[:, -1].mean().item()
    if model.config.pool_use == "lookup+background":
        some = tables.prototypes[:: max(len(tables.prototypes) // _REGIONS, 1)]
        sharpest = log_assignment(some, tables.prototypes, tables.scales.assignment_temperature)
        report.lookup = max(mean_effective_number(lookups.log()), mean_effective_number(sharpest))


def _best(model, tables):
    chosen = torch.linspace(0, len(tables.vocabulary) - 1, min(_NAMES, len(tables.vocabulary))).round().long()
    stream = model.semantic_stream
    # In terms of what the predictor makes, which any embedding can be.
    back = torch.linalg.pinv(stream.predictor.weight.detach().float())
    bias = stream.predictor.bias.detach().float()

    def log_probs(embeds):
        return stream.name_log_probs((embeds - bias) @ back.T, tables)[0][:, chosen]

    return best_scores(log_probs, tables.names[chosen]).mean().item()


def sample_regions(
    coco: "CocoAnnotations | AnnotationStream",
    regions: "RegionTable",
    names: Sequence[str],
    limit: int = _REGIONS,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Some regions of a data set, and what annotated boxes say that they show.

    Args:
        coco: CocoAnnotations, or a stream, whose annotations are not looked at. regions (RegionTable).
        names (list of str): of the vocabulary.

    Returns:
        (embeds (n, d), names (n,) int64, texts (t, d)): at most `limit` regions of drawn images, those on annotated
        boxes alone, if there are any. names index the vocabulary, -1 for others. Texts are of kept captions.
    """
    label_of = {name: label for label, name in enumerate(names)}
    index = getattr(coco, "annotations_by_image", {})
    labels_of_categories = torch.tensor([label_of.get(name, -1) for name in coco.names or ()] + [-1])
    found, labels, texts, seen, named = [], [], [], 0, 0
    ids = regions.image_ids
    for i in torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist():
        rows = {name: torch.from_numpy(values) for name, values in regions.get(ids[i]).items()}
        category = torch.full((len(rows["boxes"]),), -1)
        if ids[i] in index:
            category = _categories(index, ids[i], rows["boxes"])
        found.append(rows["image_embeds"])
        labels.append(labels_of_categories[category])
        texts.append(rows["text_embeds"][torch.from_numpy(regions.kept(ids[i]))])
        seen, named = seen + len(category), named + int((labels[-1] >= 0).sum())
        if named >= limit or seen >= _MOST_SEEN * limit:
            break
    if not found:
        return torch.zeros(0, regions.embedding_dim), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1)
    found, labels, texts = torch.cat(found), torch.cat(labels), torch.cat(texts)
    if named:
        found, labels = found[labels >= 0], labels[labels >= 0]
    return F.normalize(found[:limit], dim=-1), labels[:limit], F.normalize(texts, dim=-1)


def _categories(index, image_id, boxes):
    """(R,) int64: the category of the annotated box that each box (R, 4) is, by an IoU of 0.5, or -1 for none."""
    annotations, corners = index.arrays(image_id), torch.from_numpy(index.corners(image_id)).float()
    if not len(corners):
        return torch.full((len(boxes),), -1)
    overlap, best = box_iou(boxes, corners).max(-1)
    category = torch.from_numpy(annotations["category"])[best]
    crowd = torch.from_numpy(annotations["iscrowd"] != 0)[best]
    return torch.where((overlap >= 0.5) & ~crowd, category, -1)
