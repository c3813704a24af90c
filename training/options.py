"""The options of a training run: what `decodetr train` takes beside the fields of DeCoDetrTrainingArguments.

The command makes its options of these fields (cli/train.py), a recipe its keys (cli/recipe.py), and docs/training.md
its table, so a text has its one home here. Nothing heavy is imported: `decodetr train --help` reads this file.
"""

from dataclasses import dataclass, field

from decodetr.annotations.formats import DATA_HELP
from decodetr.training.provenance import SETTINGS


def _option(default, text, **more):
    """A field that is an option: its default, its help, and metadata such as `metavar`, `choices`, or `group`, of
    which only one may be given. A list takes several values."""
    metadata = {"help": text, **more}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class TrainOptions:
    """
    What a run starts from, learns from and may use; every field is an option of `decodetr train`.

    `config` is a file, or the mapping that a recipe holds. `box_format` and `class_names` are shared with other
    commands, which describe them.
    """

    recipe: str | None = _option(
        None,
        "YAML file of these arguments, or the name of a shipped one such as decodetr-r50; words on the command line "
        "win",
        metavar="NAME",
    )
    data: str | None = _option(None, DATA_HELP + " (required, here or in the recipe)")
    train_annotations: str | None = _option(None, "annotation file (default DATA/annotations/train.json)")
    val_annotations: str | None = _option(
        None, "annotation file, or none (default DATA/annotations/val.json, if it exists)"
    )
    val_share: float | None = _option(
        None, "without validation data: so much of the training images, as 0.1", metavar="S"
    )
    calibration_share: float | None = _option(
        None,
        "so much of the training images, at most 500, are kept aside; on them the scores are calibrated after "
        "training; 0 for none (default: 0.1)",
        metavar="S",
    )
    output_dir: str | None = _option(None, "checkpoints and the trained model", flags=("--output_dir", "--output-dir"))
    model: str | None = _option(None, "start from a saved DeCo-DETR", group="start")
    detector: str | None = _option(None, "start from a saved DETR-family detector", group="start")
    config: str | dict | None = _option(
        None, "start from a DeCoDetrConfig in JSON or YAML, random weights", group="start"
    )
    backbone: str | None = _option(
        None,
        "with --config: pretrained weights of its timm backbone: a timm name such as resnet50.tv_in1k, "
        "hf-hub:OWNER/NAME, or a safetensors file or folder; see also --freeze-backbone",
        metavar="NAME",
    )
    reset_semantics: bool = _option(
        False,
        "with --model: keep its detector and start with a new semantic stream, for another pool or teacher",
    )
    set: list[str] = _option(
        [],
        "fields of the DeCoDetrConfig that differ from the starting point's, such as background_level=0.3; with "
        "--reset-semantics also those that change shapes of the semantic stream",
        metavar="FIELD=VALUE",
    )

    # What the run may use, and what its parts had seen
    names_split: str | None = _option(
        None,
        'JSON {"base": {id: name}, "novel": {...}}, or none (default DATA/names.json, if any): only annotations of '
        "base names are trained on, and evaluation reports both groups",
    )
    setting: str | None = _option(
        None, "with a names split: what may be used (default: V-OVD)", choices=tuple(SETTINGS)
    )
    captions: str | None = _option(
        None, "captions of the training images, as COCO has them: C-OVD, WS-OVD", metavar="FILE"
    )
    image_labels: str | None = _option(
        None,
        "COCO file whose boxes are not read: names that are somewhere in an image: WS-OVD",
        metavar="FILE",
    )
    seen: list[str] = _option(
        [],
        "names whose boxes the detector, the backbone or the proposer had learned, if that is not recorded, such as "
        "'proposer=cat,\"salt, pepper\"' or backbone=none",
        metavar="PART=NAMES",
    )
    allow_seen_novel: bool = _option(False, "go on although some of them are novel; it is recorded")

    # What keeps a fine-tune from forgetting, and shows whether it did
    held_out_data: str | None = _option(
        None, "validation data of names that are not trained on (default: --data)", metavar="DATA"
    )
    replay_data: str | None = _option(None, "images of an earlier data set that are trained on too", metavar="DATA")
    replay_regions: str | None = _option(None, "their regions data set", metavar="DIR")
    replay_image_labels: str | None = _option(
        None,
        "names that are somewhere in them, as --image-labels has them: images without boxes that teach in WS-OVD",
        metavar="FILE",
    )
    replay_images: int | None = _option(None, "so many of them, drawn at random (default: all)", metavar="N")

    # Of the form of the data, as in other commands
    class_names: str | None = None
    box_format: str | None = None

    streaming: bool = _option(
        False,
        "read the training images of a `datasets` data set while training, without downloading it first; needs "
        "--max-steps",
    )
    shuffle_buffer: int | None = _option(
        None,
        "with --streaming: draw from this many rows that each worker holds undecoded; 0 for the stored order "
        "(default: 1000)",
        metavar="N",
    )
    regions: str | None = _option(
        None,
        "regions data set (Parquet shards) of the training images; self: the starting point's own detections, so that "
        "training does not unlearn them; none (default: self with --model, unless its semantics are reset)",
    )
    unkept_regions: str | None = _option(
        None,
        "regions whose caption failed the pool's filter: CLIP's view of them teaches all the same, or they are left "
        "out (default: ignore)",
        choices=("ignore", "teach"),
    )
    exhaustive: bool | None = _option(
        None,
        "all objects of the annotated names have a box, as in COCO, so a region without one is none of them (default: "
        "where other names compete and there is no names split)",
    )
    pseudo_boxes: str | None = _option(
        None,
        "what certain regions that lie on no annotated box are to the localization stream, so that it does not learn "
        "unnamed objects as background: objects, neither (see ignore_weight of the config), or background (default: "
        "objects; ignore where the detector is not class-agnostic)",
        choices=("objects", "ignore", "none"),
    )
    pseudo_box_score: float | None = _option(None, "proposal score of certain regions (default: 0.4)", metavar="T")
    pool: str | None = _option(None, "prototype pool folder")
    vocabulary: str | None = _option(None, "vocabulary folder with the training names (default: the model's names)")
    deploy_vocabulary: str | None = _option(None, "vocabulary folder of evaluation and of the saved model")
    text_model: str | None = _option(
        None,
        "CLIP that embeds --captions, and names of the data set that the vocabulary lacks (default: the one that made "
        "the vocabulary)",
        metavar="NAME",
    )
    training_names: str | None = _option(
        None,
        "names that compete in training: of the training annotations, or of the whole vocabulary (default: all with "
        "--model and no names split, else annotated)",
        choices=("annotated", "all"),
    )
    image_size: int | None = _option(None, "train on squares of this side in pixels")
    no_augmentation: bool = _option(False, "no flip, scale, crop or colour changes")
    blur: float = _option(0.0, "augment by Gaussian blur of a radius up to this")
    noise: float = _option(0.0, "augment by Gaussian noise up to this (of 0..255)")

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on with all of a trained model, which can then forget."""
        return bool(self.model) and not self.reset_semantics

    @property
    def uses_own_regions(self) -> bool:
        """Whether the starting point's own view of the images is what keeps it from forgetting."""
        return self.goes_on and not self.streaming and self.regions in (None, "self")

    @property
    def regions_folder(self) -> str | None:
        """The regions data set of the training images, if one is given."""
        return None if self.regions in ("self", "none") else self.regions

    @property
    def replaced_fields(self) -> frozenset[str]:
        """The fields of the DeCoDetrConfig that --set names."""
        return frozenset(word.partition("=")[0] for word in self.set)
