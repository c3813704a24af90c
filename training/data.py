"""What a run learns from: annotations, regions and what is known of whole images, read and checked first."""

import logging
from functools import partial

from decodetr.annotations.formats import form_of
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import has_part, load_annotations, load_stream
from decodetr.training.provenance import check_regions, choose_setting

logger = logging.getLogger(__name__)

PSEUDO_BOX_SCORE = 0.4  # of a DeCo-DETR's own proposals; docs/scenes.md has the measurement


class TrainingData:
    """
    The data of a run.

    Args:
        args: of the command `decodetr train`.

    Attributes:
        coco (CocoAnnotations or AnnotationStream): annotations that are trained on: of base names, where names are
            split.
        annotated_names (list[str] or None): names that have a box in it; of a stream those that it declares, if it
            does.
        val (CocoAnnotations or None): of the evaluation.
        base, novel (list[str] or None): of the names split.
        setting (Setting): what may be used.
        regions, replay_regions (RegionTable or None): of the training images and of those that are replayed.
        replay, held_out (CocoAnnotations or None): replayed images; data of held-out names.

    Raises:
        FileNotFoundError, ValueError: what the readers refuse, and what the setting forbids.
    """

    def __init__(self, args):
        from decodetr.processing import RegionTable

        self.args = args
        split_file = names_split_file(args.data, args.names_split)
        self.base, self.novel = read_split(split_file) if split_file else (None, None)
        self.setting = choose_setting(args.setting, self.novel)
        form = form_of(args.class_names, args.box_format)
        if args.streaming:
            whole = load_stream(args.data, "train", **form)
        else:
            whole = load_annotations(args.data, "train", args.train_annotations, **form)
        self.coco = whole if self.base is None else whole.select(self.base)
        self.annotated_names = _annotated_names(self.coco)
        # "self" are the model's own; they need the model and come later.
        load = partial(RegionTable.load, unkept=args.unkept_regions == "teach")
        self.regions = load(args.regions) if args.regions not in (None, "self", "none") else None
        if self.base is not None and self.regions is not None and not args.streaming:
            check_regions(self.regions, whole, self.base)
        self.val = None
        if args.val_annotations != "none" and (args.val_annotations or has_part(args.data, "val")):
            self.val = load_annotations(args.data, "val", args.val_annotations, **form)
        elif args.val_share is not None:
            self.coco, self.val = self._split_off(whole, args.val_share)
        if self.val is None:
            why = (
                "--val-annotations none" if args.val_annotations == "none" else f"{args.data} has no validation images"
            )
            logger.warning("%s, so nothing is evaluated; --val-share 0.1 holds some training images back", why)
        self.replay = load_annotations(args.replay_data, "train") if args.replay_data else None
        self.replay_regions = load(args.replay_regions) if args.replay_regions else None
        if self.replay is not None and self.base is not None:
            check_regions(self.replay_regions, self.replay, self.base)
            self.replay = self.replay.select(self.base)
        self.held_out = load_annotations(args.held_out_data, "val") if args.held_out_data else None

    def _split_off(self, whole, share):
        """(training, validation) annotations: a part of the images, drawn by the seed 0 whatever the run's is; for
        validation with the annotations of all names."""
        import torch

        ids = [image["image_id"] for image in self.coco.images]
        count = min(max(round(share * len(ids)), 1), len(ids) - 1)
        if count < 1:
            raise ValueError(f"--val-share {share}: expected at least two images to divide, got {len(ids)}")
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0)).tolist()
        val = {ids[i] for i in order[:count]}
        return self.coco.select_images(set(ids) - val), whole.select_images(val)

    def images_with_something(self, own_regions):
        """Images that have a box or a region, replayed ones with their regions too; 0 of a stream, whose length is not
        known. `own_regions`: the starting point looks at all images itself."""
        if self.args.streaming:
            return 0
        if own_regions:
            seen = {image["image_id"] for image in self.coco.images}
        else:
            index = self.coco.annotations_by_image
            boxed = set(index.image_rows.tolist())
            seen = {image for row, image in enumerate(index) if row in boxed}
            if self.regions is not None:
                seen |= {image for image in index if image in self.regions}
        if self.replay is None:
            return len(seen)
        most = len(self.replay.images) if self.args.replay_images is None else self.args.replay_images
        return len(seen) + min(most, len(self.replay.images))

    def pseudo_boxes(self, streams, class_agnostic):
        """Options of [`DetectionDataset`] for regions that may be objects, of the new and of the replayed images:
        (dict, dict), empty where they do nothing.
        """
        use, score = self.args.pseudo_boxes, self.args.pseudo_box_score
        regions = self.regions is not None, self.replay is not None
        if use == "none" or streams == "semantic":
            return {}, {}
        # Only a class-agnostic detector can learn objects without a name.
        options = {
            "pseudo_boxes": use or ("objects" if class_agnostic else "ignore"),
            "pseudo_box_score": PSEUDO_BOX_SCORE if score is None else score,
        }
        return tuple(options if there else {} for there in regions)

    def weak_labels(self, text_model, training_names):
        """What is known of whole images, or None; captions are embedded by `text_model`."""
        from decodetr.training.weak_labels import CaptionTable, WeakLabels

        captions, image_labels = self.args.captions, self.args.image_labels
        annotated, exhaustive = self.annotated_names or [], self.args.exhaustive
        if exhaustive is None:
            # Of a split, other regions are to be taken for base names: there are no others. LVIS is not exhaustive.
            federated = getattr(self.coco, "federation", None) is not None
            exhaustive = self.novel is None and not federated and set(annotated) < set(training_names)
        exhaustive = frozenset(annotated if exhaustive else ())
        if not captions and not image_labels and not exhaustive:
            return None
        if captions and not text_model:
            raise ValueError("--captions: the pool does not say which text model made it; give --text-model NAME")
        labels, labelled = _image_labels(image_labels, training_names) if image_labels else (None, frozenset())
        given = bool(self.args.text_model)
        table = CaptionTable.load(captions, text_model, self.args.output_dir, given) if captions else None
        return WeakLabels(table, labels, labelled, exhaustive)

    def replay_weak_labels(self, training_names):
        """Names that are somewhere in the replayed images, or None."""
        from decodetr.training.weak_labels import WeakLabels

        file = self.args.replay_image_labels
        return WeakLabels(None, *_image_labels(file, training_names)) if file else None


def _image_labels(file, training_names):
    """({image_id: names}, all names of the file), some of which are trained on."""
    from decodetr.training.weak_labels import read_image_labels

    labels, labelled = read_image_labels(file)
    if not labelled & set(training_names):
        raise ValueError(
            f"{file}: expected names that are trained on, such as {list(training_names)[:3]}, got "
            f"{sorted(labelled)[:3]}; names must be equal to the letter"
        )
    return labels, labelled


def _annotated_names(coco):
    """Names that have a box, crowds apart: files list categories that they have no object of."""
    index = getattr(coco, "annotations_by_image", None)
    if index is None:  # a stream
        return coco.names
    used = set(index.column("category", crowds=False).tolist())
    return [name for number, name in enumerate(coco.names) if number in used]
