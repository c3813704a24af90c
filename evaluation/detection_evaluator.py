"""DetectionEvaluator: streaming AP (update / compute / reset) over `coco_matching.py`.

What is measured: COCO's AP in percent (paper 6, docs/paper.md). Three things differ from calling a COCO tool on a list
of results:
- per image only the `max_detections` best predictions *over all names* are kept, on the CPU, as they arrive, so
  memory does not grow with queries x names. COCO tools cap per image and category, and their summary ignores any cap
  but 100;
- predictions meet categories by name, never by position: label index -> name -> category;
- localization is reported too, all names collapsed to one (class-agnostic AP50, AR, recall of novel objects).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.coco import AnnotationIndex
from decodetr.evaluation import ENGINES
from decodetr.evaluation.coco_matching import coco_accumulate, compact_prediction, mean_percent
from decodetr.evaluation.matches import match_detections
from decodetr.utils.spelling import spelled_otherwise

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    import torch

    from decodetr.annotations.coco import CocoAnnotations


def metric_names(max_detections: int, groups: Iterable[str] = (), class_agnostic: bool = False) -> list[str]:
    """Names of the metrics that [`DetectionEvaluator.compute`] gives, in their order, known before any image.

    Args:
        max_detections (int). groups: names of the groups, such as "novel" and "base". class_agnostic (bool).
    """
    areas = [] if class_agnostic else ["AP_small", "AP_medium", "AP_large"]
    kinds = ("AR50",) if class_agnostic else ("AP", "AP50")
    of_groups = [f"{kind}_{group}" for group in groups for kind in kinds]
    return ["AP", "AP50", "AP75", *areas, _recall_name(max_detections), "AR50", *of_groups]


def _recall_name(max_detections):
    """The name of the recall that is averaged over IoU thresholds, as COCO's and LVIS' tools call it. AR50 is that at
    IoU 0.5, whatever the number of detections."""
    return "AR_50_detections" if max_detections == 50 else f"AR{max_detections}"


def expect_areas(file: str | Path, areas: np.ndarray) -> None:
    """Raise ValueError where no annotation of a federated file counts, because their areas (n,) are all 0."""
    if len(areas) and not (areas > 0).any():
        raise ValueError(
            f"{file}: expected objects with an area above 0, as LVIS' rules count no others, got none among "
            f"{len(areas)} annotations; `decodetr validate --repair DIR` gives them that of their boxes"
        )


class DetectionEvaluator:
    """Streaming AP over names: `update` batch by batch, `compute` at the end, `reset` to start again.

    Args:
        coco: `annotations.coco.CocoAnnotations`, or anything with its `names`, `images` and `annotations_by_image`.
        names: the vocabulary. A predicted label is an index into it. Names that the file lacks are ignored in all
            means (but their predictions take part in the choice of the `max_detections` best).
        novel_names: adds groups "novel" and "base". Novel names absent from the file are ignored.
        max_detections: predictions kept per image, over all names.
        base_names: base names of the protocol. By default every name of the file that is not novel. Where given,
            names of the file that are neither base nor novel are left out of everything but class-agnostic metrics.
        class_agnostic: collapse all names to one: localization only. Adds AR50_novel and AR50_base instead of APs.
        engine: "faster-coco-eval", or "pycocotools" for parity.
        allow_missing_names: names of the file that the vocabulary lacks count as AP 0 instead of being an error.
        groups: {"rare": names, ...}: further groups of names, whose means are reported as AP_<group>, AP50_<group>.
        federated: count as LVIS does (paper 6), by the lists of `coco.federation`.
    """

    def __init__(
        self,
        coco: CocoAnnotations | SimpleNamespace,
        names: Sequence[str],
        novel_names: Iterable[str] | None = None,
        max_detections: int = 100,
        *,
        base_names: Iterable[str] | None = None,
        class_agnostic: bool = False,
        engine: str = "faster-coco-eval",
        allow_missing_names: bool = False,
        groups: Mapping[str, Iterable[str]] | None = None,
        federated: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        if twice := [name for name, count in Counter(coco.names).items() if count > 1]:
            raise ValueError(f"the annotation file has several categories called {twice[:5]}; names must be unique")
        self.coco, self.names, self.max_detections = coco, list(names), max_detections
        self.engine, self.class_agnostic = engine, class_agnostic
        federation = getattr(coco, "federation", None)
        if federated and federation is None:
            raise ValueError(
                "federated evaluation needs neg_category_ids and not_exhaustive_category_ids on every image, as LVIS "
                "has them; the annotation file has none"
            )
        self.federated, self._federation = federated, federation if federated else None
        # Equal scores are ranked by image id, as COCO's tools do.
        self.image_ids = sorted(image["image_id"] for image in coco.images)
        self._image_numbers = {image_id: number for number, image_id in enumerate(self.image_ids)}
        rows = coco.annotations_by_image
        index = rows if isinstance(rows, AnnotationIndex) else AnnotationIndex.from_rows(rows)
        if federated:  # LVIS' evaluation looks at no annotation and no detection without area
            expect_areas(getattr(coco, "file", "annotations"), index.column("area"))
            index = index.take(np.flatnonzero(index.column("area") > 0), list(index))
        self._index = index
        objects = self._index.column("category", crowds=False)
        self.support = Counter(dict(zip(coco.names, np.bincount(objects, minlength=len(coco.names)).tolist())))
        self.novel_names = None if novel_names is None else set(novel_names)
        # The training part of an open-vocabulary data set has base names alone.
        if self.novel_names and not (self.novel_names | set(base_names or ())) & set(coco.names):
            raise ValueError(
                f"none of the {len(self.novel_names)} novel names is a category of the annotation file, e.g. "
                f"{sorted(self.novel_names)[:3]} against {coco.names[:3]}; names must be equal to the letter"
            )
        protocol = None if base_names is None else set(base_names) | (self.novel_names or set())
        self.evaluated = [name for name in coco.names if protocol is None or name in protocol]
        known = set(self.names)
        self.missing_names = [name for name in self.evaluated if self.support[name] and name not in known]
        if self.missing_names and not (allow_missing_names or class_agnostic):
            raise ValueError(
                f"{len(self.missing_names)} categories of the annotation file are not in the vocabulary of "
                f"{len(self.names)} names: {self.missing_names[:10]}"
                f"{spelled_otherwise(self.missing_names, self.names)}. Give a vocabulary that has them, or allow "
                "missing names (allow_missing_names=True, --allow-missing-names), which then count as AP 0"
            )
        self.groups = {group: set(members) for group, members in (groups or {}).items()}
        if self.novel_names is not None:
            base = set(self.evaluated) - self.novel_names
            self.groups = {"novel": self.novel_names, "base": base, **self.groups}
        numbers = {name: number for number, name in enumerate(self.evaluated)}
        self._name_of_label = np.array([numbers.get(name, -1) for name in self.names], dtype=np.int64)
        self._name_of_category = np.array([numbers.get(name, -1) for name in coco.names], dtype=np.int64)
        if class_agnostic:
            self._name_of_category[:] = 0
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions = {}

    def update(
        self,
        image_ids: Sequence[int | torch.Tensor],
        predictions: Sequence[Mapping[str, torch.Tensor | np.ndarray | list]],
    ) -> None:
        """Add a batch.

        Args:
            image_ids: ids of the annotation file (ints, or tensors of one).
            predictions: as many dicts with "scores" (n,), "labels" (n,), "boxes" (n, 4) xyxy pixels of the original
                image.

        Raises:
            ValueError: unknown or repeated image id, or what `compact_prediction` refuses.
        """
        if len(image_ids) != len(predictions):
            raise ValueError(f"got {len(image_ids)} image ids and {len(predictions)} predictions")
        for image_id, prediction in zip(image_ids, predictions):
            image_id = image_id.item() if hasattr(image_id, "item") else image_id
            if image_id not in self._image_numbers:
                raise ValueError(
                    f"image id {image_id!r} is not in the annotation file of {len(self._image_numbers)} images"
                )
            if image_id in self._predictions:
                raise ValueError(
                    f"image id {image_id!r} was already evaluated; reset() between runs, merge() states of processes"
                )
            self._predictions[image_id] = compact_prediction(
                prediction, self.max_detections, None if self.class_agnostic else len(self.names), image_id
            )

    def state(self) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """What was kept so far, picklable: a list of (image_id, scores, labels, boxes), for another `merge`."""
        return [(image_id, *kept) for image_id, kept in self._predictions.items()]

    def merge(self, states: Iterable[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]]) -> None:
        """Take in the `state()` of several processes (its own may be among them).

        Samplers pad the last batch with images that another process has. Such an image counts once, as the first of
        the `states` has it, whatever is already here: processes that merge the same states have the same metrics.
        """
        merged = {}
        for state in states:
            for image_id, *kept in state:
                if image_id not in self._image_numbers:
                    raise ValueError(f"image id {image_id!r} of a merged state is not in the annotation file")
                merged.setdefault(image_id, tuple(kept))
        self._predictions.update(merged)

    def compute(self, per_name: bool = False, partial: bool = False) -> dict:
        """Metrics in percent (0..100). NaN where there is no ground truth.

        Args:
            per_name: add "per_name": {name: {"AP", "AP50", "support"}} (support: annotations that are not crowds).
            partial: evaluate the images seen so far. Otherwise images without an update are an error.

        Returns:
            AP, AP50, AP75, AP_small, AP_medium, AP_large, AR<max_detections> (of 50: AR_50_detections), AR50, and for
            each group AP_<group>, AP50_<group> (class-agnostic: AR50_<group>, and no APs by area).
        """
        unseen = [image_id for image_id in self._image_numbers if image_id not in self._predictions]
        if unseen and not partial:
            raise ValueError(
                f"{len(unseen)} of {len(self._image_numbers)} images were not evaluated, e.g. {unseen[:5]}; update "
                "them, merge the other processes, or ask for compute(partial=True)"
            )
        truth, found = self.truth(), self.found()
        precision, recall = self._accumulate(truth, found)
        metrics = {"AP": mean_percent(precision[..., 0]), "AP50": mean_percent(precision[0, ..., 0])}
        metrics["AP75"] = mean_percent(precision[5, ..., 0])
        for area, label in enumerate(("small", "medium", "large")[: precision.shape[-1] - 1], start=1):
            metrics[f"AP_{label}"] = mean_percent(precision[..., area])
        metrics[_recall_name(self.max_detections)] = mean_percent(recall[..., 0])
        metrics["AR50"] = mean_percent(recall[0, :, 0])
        for group, names in self.groups.items():
            columns = [column for column, name in enumerate(self.evaluated) if name in names]
            if self.class_agnostic:
                # A box may match any object, so the recall of a group needs only the ground truth of that group.
                in_group = np.array([name in names for name in self.coco.names])
                chosen = in_group[truth["category"]]
                of_group = {key: column[chosen] for key, column in truth.items()}
                hits = match_detections(of_group, found, thresholds=(0.5,))["hit"].sum()
                objects = (~of_group["crowd"]).sum()
                metrics[f"AR50_{group}"] = float(100 * hits / objects) if objects else float("nan")
            else:
                metrics[f"AP_{group}"] = mean_percent(precision[:, :, columns, 0])
                metrics[f"AP50_{group}"] = mean_percent(precision[0][:, columns, 0])
        if not per_name or self.class_agnostic:
            return metrics
        rows = {
            name: {
                "AP": mean_percent(precision[:, :, column, 0]),
                "AP50": mean_percent(precision[0, :, column, 0]),
                "support": self.support[name],
            }
            for column, name in enumerate(self.evaluated)
        }
        return {**metrics, "per_name": rows}

    def truth_count(self) -> int:
        """How many annotations the names that are evaluated have, crowds included."""
        return int((self._name_of_category[self._index.column("category")] >= 0).sum())

    def truth(self) -> dict[str, np.ndarray]:
        """The annotated boxes that count, of the images seen so far: a dict of arrays (G,).

        "image": 0.. in the order of image ids; "name": index into `evaluated` (class-agnostic: 0); "category": index
        into the file's names; "box" (G, 4) x, y, w, h and "area" in pixels; "crowd" (bool). In a federated file also
        a boundless crowd for every name of which an image may have objects without annotation (paper 6: such
        detections are no mistakes, and a crowd is what COCO's rules have for that).
        """
        index = self._index
        seen = np.array([image_id in self._predictions for image_id in index], dtype=bool)
        category = index.column("category")
        table = {
            "image": self._annotated_images(),
            "name": self._name_of_category[category],
            "category": category,
            "box": index.column("bbox"),
            "area": index.column("area"),
            "crowd": index.column("iscrowd").astype(bool),
        }
        kept = seen[index.image_rows] & (table["name"] >= 0)
        table = {key: column[kept] for key, column in table.items()}
        if self._federation is None:
            return table
        pairs = np.array(
            [
                (self._image_numbers[image_id], category)
                for image_id, (_, not_exhaustive) in self._federation.items()
                if image_id in self._predictions
                for category in not_exhaustive
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        pairs = pairs[self._name_of_category[pairs[:, 1]] >= 0]
        crowds = {
            "image": pairs[:, 0],
            "name": self._name_of_category[pairs[:, 1]],
            "category": pairs[:, 1],
            "box": np.tile(np.array([-1e7, -1e7, 2e7, 2e7]), (len(pairs), 1)),
            "area": np.full(len(pairs), 4e14),
            "crowd": np.ones(len(pairs), dtype=bool),
        }
        return {key: np.concatenate([column, crowds[key]]) for key, column in table.items()}

    def _annotated_images(self):
        """(n,) number of the image of each annotation."""
        numbers = np.array([self._image_numbers[image_id] for image_id in self._index], dtype=np.int64)
        return numbers[self._index.image_rows]

    def found(self) -> dict[str, np.ndarray]:
        """The detections that count: a dict of arrays (D,), images in order, best first in each.

        "image" and "name" as in `truth`; "box" (D, 4) x, y, w, h in pixels; "score". In a federated file, those of
        names that are neither annotated in the image nor verified to be absent do not count, nor do boxes without
        area.
        """
        kept = sorted((self._image_numbers[image_id], *rows) for image_id, rows in self._predictions.items())
        images = np.repeat([row[0] for row in kept], [len(row[1]) for row in kept]).astype(np.int64)
        scores, labels, boxes = (
            np.concatenate([row[column] for row in kept]) if kept else np.zeros(shape)
            for column, shape in ((1, 0), (2, 0), (3, (0, 4)))
        )
        corners = boxes.astype(np.float64)  # sizes of float32 corners without a second rounding
        names = 0 * images if self.class_agnostic else self._name_of_label[labels.astype(np.int64)]
        table = {
            "image": images,
            "name": names,
            "box": np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            "score": scores,
        }
        counts = names >= 0
        if self._federation is not None:
            absent = [(self._image_numbers[i], c) for i, (absent, _) in self._federation.items() for c in absent]
            present = np.stack([self._annotated_images(), self._index.column("category")], axis=1)
            known = np.concatenate([present, np.array(absent, dtype=np.int64).reshape(-1, 2)])
            name, num_names = self._name_of_category[known[:, 1]], len(self.evaluated)
            counts &= np.isin(images * num_names + names, (known[:, 0] * num_names + name)[name >= 0])
            counts &= (table["box"][:, 2:] > 0).all(axis=1)
        return {key: column[counts] for key, column in table.items()}

    def _accumulate(self, truth, found):
        names, areas = (1, 1) if self.class_agnostic else (len(self.evaluated), 4)
        return coco_accumulate(truth, found, names, self.max_detections, self.engine, areas)
