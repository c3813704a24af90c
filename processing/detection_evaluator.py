"""DetectionEvaluator: streaming AP (update / compute / reset) over `coco_matching.py`.

What is measured: COCO's AP (PAPER.md 6) in percent. Three things differ from calling a COCO tool on a list of results:
- per image only the `max_detections` best predictions *over all names* are kept, on the CPU, as they arrive, so
  memory does not grow with queries x names. COCO tools cap per image and category, and their summary ignores any cap
  but 100;
- predictions meet categories by name, never by position: label index -> name -> category;
- localization is reported beside it, all names collapsed to one (class-agnostic AP50, AR, recall of novel objects).
"""

from collections import Counter

from decodetr.processing.coco_matching import ENGINES, coco_accumulate, compact_prediction, mean_percent


class DetectionEvaluator:
    """Streaming AP over names: `update` batch by batch, `compute` at the end, `reset` to start again.

    Args:
        coco: `processing.coco.CocoAnnotations`, or anything with its `names`, `images` and `annotations_by_image`.
        names: the vocabulary; a predicted label is an index into it. Names that the file lacks are ignored in all
            means (but their predictions take part in the choice of the `max_detections` best).
        novel_names: adds AP_novel, AP50_novel, AP_base, AP50_base. Novel names absent from the file are ignored.
        max_detections: predictions kept per image, over all names.
        base_names: base names of the protocol; by default every name of the file that is not novel. Where given,
            names of the file that are neither base nor novel are left out of everything but class-agnostic metrics.
        class_agnostic: collapse all names to one: localization only; adds AR50_novel and AR50_base instead of APs.
        engine: "faster-coco-eval", or "pycocotools" for parity.
        allow_missing_names: names of the file that the vocabulary lacks count as AP 0 instead of being an error.
    """

    def __init__(
        self,
        coco,
        names,
        novel_names=None,
        max_detections=100,
        *,
        base_names=None,
        class_agnostic=False,
        engine="faster-coco-eval",
        allow_missing_names=False,
    ):
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        if twice := [name for name, count in Counter(coco.names).items() if count > 1]:
            raise ValueError(f"the annotation file has several categories called {twice[:5]}; names must be unique")
        self.coco, self.names, self.max_detections = coco, list(names), max_detections
        self.engine, self.class_agnostic = engine, class_agnostic
        self._image_numbers = {image["image_id"]: number for number, image in enumerate(coco.images, start=1)}
        self.support = Counter(
            coco.names[row["category"]]
            for image_id in self._image_numbers
            for row in coco.annotations_by_image.get(image_id, ())
            if not row["iscrowd"]
        )
        self.novel_names = None if novel_names is None else set(novel_names)
        if self.novel_names and not self.novel_names & set(coco.names):
            raise ValueError(
                f"none of the {len(self.novel_names)} novel names is a category of the annotation file, e.g. "
                f"{sorted(self.novel_names)[:3]} against {coco.names[:3]}; names must be equal to the letter"
            )
        protocol = None if base_names is None else set(base_names) | (self.novel_names or set())
        self.evaluated = [name for name in coco.names if protocol is None or name in protocol]
        self.missing_names = [name for name in self.evaluated if self.support[name] and name not in set(self.names)]
        if self.missing_names and not (allow_missing_names or class_agnostic):
            raise ValueError(
                f"{len(self.missing_names)} categories of the annotation file are not in the vocabulary of "
                f"{len(self.names)} names: {self.missing_names[:10]}. Give a vocabulary that has them, or allow "
                "missing names (allow_missing_names=True, --allow-missing-names), which then count as AP 0"
            )
        numbers = {name: number for number, name in enumerate(self.evaluated, start=1)}
        self._category_of_label = [numbers.get(name) for name in self.names]
        self._category_of_file = [numbers.get(name) for name in coco.names]
        self.reset()

    def reset(self):
        """Forget all predictions."""
        self._predictions = {}

    def update(self, image_ids, predictions):
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

    def state(self):
        """What was kept so far, picklable: a list of (image_id, scores, labels, boxes), for another `merge`."""
        return [(image_id, *kept) for image_id, kept in self._predictions.items()]

    def merge(self, states):
        """Take in the `state()` of several processes (its own may be among them). An image that is already there is
        dropped: samplers pad the last batch with images that another process has."""
        for state in states:
            for image_id, *kept in state:
                if image_id not in self._image_numbers:
                    raise ValueError(f"image id {image_id!r} of a merged state is not in the annotation file")
                self._predictions.setdefault(image_id, tuple(kept))

    def compute(self, per_name=False, partial=False):
        """Metrics in percent (0..100); NaN where there is no ground truth.

        Args:
            per_name: add "per_name": {name: {"AP", "AP50", "support"}} (support: annotations that are not crowds).
            partial: evaluate the images seen so far; otherwise images without an update are an error.

        Returns:
            AP, AP50, AP75, AP_small, AP_medium, AP_large, AR<max_detections>, AR50, and with novel names AP_novel,
            AP50_novel, AP_base, AP50_base (class-agnostic: AR50_novel, AR50_base).
        """
        unseen = [image_id for image_id in self._image_numbers if image_id not in self._predictions]
        if unseen and not partial:
            raise ValueError(
                f"{len(unseen)} of {len(self._image_numbers)} images were not evaluated, e.g. {unseen[:5]}; update "
                "them, merge the other processes, or ask for compute(partial=True)"
            )
        precision, recall = self._accumulate()
        metrics = {"AP": mean_percent(precision[..., 0]), "AP50": mean_percent(precision[0, ..., 0])}
        metrics["AP75"] = mean_percent(precision[5, ..., 0])
        for area, label in enumerate(("small", "medium", "large"), start=1):
            metrics[f"AP_{label}"] = mean_percent(precision[..., area])
        metrics[f"AR{self.max_detections}"] = mean_percent(recall[..., 0])
        metrics["AR50"] = mean_percent(recall[0, :, 0])
        if self.novel_names is not None:
            novel = [name in self.novel_names for name in self.evaluated]
            for group, is_novel in (("novel", True), ("base", False)):
                columns = [column for column, value in enumerate(novel) if value is is_novel]
                if self.class_agnostic:
                    # A box may match any object, so the recall of a group needs only the ground truth of that group.
                    _, group_recall = self._accumulate({self.evaluated[column] for column in columns})
                    metrics[f"AR50_{group}"] = mean_percent(group_recall[0, :, 0])
                else:
                    metrics[f"AP_{group}"] = mean_percent(precision[:, :, columns, 0])
                    metrics[f"AP50_{group}"] = mean_percent(precision[0][:, columns, 0])
        if per_name and not self.class_agnostic:
            metrics["per_name"] = {
                name: {
                    "AP": mean_percent(precision[:, :, column, 0]),
                    "AP50": mean_percent(precision[0, :, column, 0]),
                    "support": self.support[name],
                }
                for column, name in enumerate(self.evaluated)
            }
        return metrics

    def _accumulate(self, only_names=None):
        """Run the engine over what was kept; `only_names` limits the ground truth."""
        import numpy as np

        annotations, detections = [], []
        for image_id, (scores, labels, boxes) in self._predictions.items():
            number = self._image_numbers[image_id]
            for row in self.coco.annotations_by_image.get(image_id, ()):
                category = 1 if self.class_agnostic else self._category_of_file[row["category"]]
                if category is None or (only_names is not None and self.coco.names[row["category"]] not in only_names):
                    continue
                x, y, width, height = (float(value) for value in row["bbox"])
                area = row["area"] if row.get("area") is not None else width * height
                annotations.append(
                    {"image_id": number, "category_id": category, "bbox": [x, y, width, height], "area": float(area)}
                    | {"iscrowd": int(row["iscrowd"])}
                )
            corners = boxes.astype(np.float64)  # numpy on the CPU: sizes of float32 corners without a second rounding
            boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
            for score, label, box in zip(scores.tolist(), labels.tolist(), boxes_xywh):
                category = 1 if self.class_agnostic else self._category_of_label[label]
                if category is not None:
                    row = {"image_id": number, "category_id": category, "bbox": box, "area": box[2] * box[3]}
                    detections.append(row | {"score": score, "iscrowd": 0})
        count = 1 if self.class_agnostic else len(self.evaluated)
        image_numbers = sorted(self._image_numbers[image_id] for image_id in self._predictions)
        if not annotations:  # no ground truth at all: nothing is defined, and the engines want at least one image
            return np.full((10, 101, count, 4), np.nan), np.full((10, count, 4), np.nan)
        return coco_accumulate(
            image_numbers, annotations, detections, range(1, count + 1), self.max_detections, self.engine
        )
