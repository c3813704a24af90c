"""The options of a training run: what `decodetr train` takes besides the fields of DeCoDetrTrainingArguments.

The command makes its options of these fields (cli/train.py), a recipe its keys (cli/recipe.py), and
docs/training_options.md its table, so a text has its one home here. Nothing heavy is imported: `decodetr train --help`
reads this file.
"""

from dataclasses import dataclass, field

from decodetr.annotations.formats import DATA_HELP
from decodetr.training.options.provenance import SETTINGS


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
    What a run starts from, learns from and may use. Every field is an option of `decodetr train`.

    `config` is a file, or the mapping that a recipe holds. `box_format` and `class_names` are shared with other
    commands, which describe them.
    """

    recipe: str | None = _option(
        None,
        "read options from this YAML file, or from a shipped recipe such as decodetr-r50; options on the command line "
        "win (default: no recipe)",
        metavar="NAME",
    )
    data: str = _option("", f"train on this data set: {DATA_HELP}; required, here or in the recipe")
    train_annotations: str | None = _option(
        None, "read the training annotations from this COCO file (default: DATA/annotations/train.json)"
    )
    val_annotations: str | None = _option(
        None,
        "read the validation annotations from this COCO file; none: do not validate (default: "
        "DATA/annotations/val.json, if it exists)",
    )
    val_share: float | None = _option(
        None,
        "hold back this share of the training images for validation, such as 0.1, if there are no validation data "
        "(default: do not validate then)",
        metavar="S",
    )
    calibration_share: float | None = _option(
        None,
        "hold back this share of the training images, at most 500. On them a run calibrates the scores and finds out "
        "whether overlapping boxes are duplicates (default: 0.1; 0: neither)",
        metavar="S",
    )
    output_dir: str = _option(
        "",
        "write checkpoints and the trained model into this folder; required, here or in the recipe",
        flags=("--output",),
    )
    model: str | None = _option(
        None, "start from this DeCo-DETR: folder, Hub name or shipped name; continues its training", group="start"
    )
    detector: str | None = _option(
        None, "start from this detector of the DETR family: folder or Hub name", group="start"
    )
    config: str | dict | None = _option(
        None, "start from random weights of this DeCoDetrConfig, a JSON or YAML file", group="start"
    )
    backbone: str | None = _option(
        None,
        "with --config: load pretrained weights into its timm backbone. Give a timm name such as resnet50.tv_in1k, "
        "hf-hub:OWNER/NAME, or a safetensors file or folder (default: random weights). See also --freeze-backbone",
        metavar="NAME",
    )
    reset_semantics: bool = _option(
        False,
        "with --model: keep the detector, and start the semantic stream from random weights. Use it to change the "
        "pool or the teacher",
    )
    set: list[str] = _option(
        [],
        "set these fields of the DeCoDetrConfig, such as background_level=0.3. Fields that change shapes of the "
        "semantic stream need --reset-semantics with --model (default: the values of the starting point)",
        metavar="FIELD=VALUE",
    )

    # What the run may use, and what its parts had seen
    names_split: str | None = _option(
        None,
        'read base and novel names from this JSON file, {"base": {id: name}, "novel": {...}}. Train on annotations of '
        "base names only, and report both groups in evaluation. none: no split (default: DATA/names.json, if it "
        "exists)",
    )
    setting: str | None = _option(
        None,
        "with a names split: what training may use. V-OVD: boxes of base names. C-OVD: also captions. G-OVD: also the "
        "list of novel names. WS-OVD: all three, and image-level labels (default: V-OVD)",
        choices=tuple(SETTINGS),
    )
    captions: str | None = _option(
        None,
        "read captions of the training images from this COCO caption file (default: none); C-OVD and WS-OVD allow it",
        metavar="FILE",
    )
    image_labels: str | None = _option(
        None,
        "read from this COCO file which names occur in which training image; its boxes are ignored (default: none). "
        "WS-OVD allows it",
        metavar="FILE",
    )
    seen: list[str] = _option(
        [],
        "declare the names whose boxes a part was trained on earlier, if its folder does not record them. PART is "
        "detector, backbone or proposer: 'proposer=cat,\"salt, pepper\"', or backbone=none",
        metavar="PART=NAMES",
    )
    allow_seen_novel: bool = _option(
        False, "train even if a part has seen boxes of novel names; the model records it (default: an error)"
    )

    # What keeps a fine-tune from forgetting, and shows whether it did
    held_out_data: str | None = _option(
        None,
        "with --model: measure forgetting on the validation images of this data set, over names that are not trained "
        "on (default: --data)",
        metavar="DATA",
    )
    replay_data: str | None = _option(
        None,
        "also train on images of this earlier data set, so that its names are not forgotten; needs --replay-regions "
        "(default: none)",
        metavar="DATA",
    )
    replay_regions: str | None = _option(
        None, "regions data set of the images of --replay-data (default: none)", metavar="DIR"
    )
    replay_image_labels: str | None = _option(
        None,
        "as --image-labels, for the images of --replay-data: these then teach without boxes (default: none)",
        metavar="FILE",
    )
    replay_images: int | None = _option(
        None, "draw this many images of --replay-data at random (default: all)", metavar="N"
    )

    plan: str | None = _option(
        None,
        "do not train: compute hours, memory and disk of each way to train. data: for --data. Others: for the size of "
        "this data set, which need not be here (default: train)",
        choices=("data", "coco", "lvis", "objects365"),
    )
    plan_gpus: str = _option("8xh100", "with --plan: on so many of these GPUs (default: 8xh100)", metavar="NxGPU")

    # Of the form of the data, as in other commands
    class_names: str | None = None
    box_format: str | None = None

    streaming: bool = _option(
        False,
        "read the training images of a `datasets` data set during training, without downloading it first; needs "
        "--max-steps",
    )
    shuffle_buffer: int | None = _option(
        None,
        "with --streaming: each worker keeps this many undecoded rows and draws from them at random; 0: keep the "
        "stored order (default: 1000)",
        metavar="N",
    )
    regions: str | None = _option(
        None,
        "regions data set of the training images, a folder of Parquet files that `decodetr pool build` writes. self: "
        "let the starting point propose regions, so that training does not erase what it finds now. none: use no "
        "regions (default: self with --model; where the semantic stream begins anew, with --reset-semantics or "
        "--detector, for --streams localization alone; else, and with --streaming, none)",
    )
    unkept_regions: str | None = _option(
        None,
        "regions whose caption failed the filter of the pool. teach: learn CLIP's scores of them, which do not depend "
        "on the caption. ignore: leave them out (default: teach)",
        choices=("teach", "ignore"),
    )
    exhaustive: bool | None = _option(
        None,
        "all objects of the annotated names have boxes, as in COCO. A region without a box is then taught to be none "
        "of these names (default: yes, if other names compete in training, there is no names split, and the data are "
        "not federated as LVIS is)",
    )
    pseudo_boxes: str | None = _option(
        None,
        "regions with a high proposal score that overlap no annotated box. objects: the localization stream learns "
        "them as objects. ignore: they are neither objects nor background, see ignore_weight of the config. none: "
        "they are background (default: objects; ignore if the detector is not class-agnostic; where a "
        "starting detector has looked, by the share of the annotated objects that it finds)",
        choices=("objects", "ignore", "none"),
    )
    pseudo_box_score: float | None = _option(
        None, "least proposal score of the regions that --pseudo-boxes is about, 0 to 1 (default: 0.4)", metavar="T"
    )
    pool: str | None = _option(
        None,
        "prototype pool: folder, Hub name or shipped name (default: the pool of the starting point, random if it has "
        "none)",
    )
    vocabulary: str | None = _option(
        None,
        "take the name embeddings of training from this vocabulary: folder, Hub name or shipped name (default: those "
        "of the starting point)",
    )
    deploy_vocabulary: str | None = _option(
        None,
        "evaluate with this vocabulary, and store it in the saved model (default: that of training)",
    )
    text_model: str | None = _option(
        None,
        "embed --captions, and names that the vocabulary lacks, with this CLIP: folder, Hub name or shipped name "
        "(default: the CLIP that made the vocabulary)",
        metavar="NAME",
        flags=("--clip",),
    )
    training_names: str | None = _option(
        None,
        "names that compete in training. annotated: those of the training annotations. all: the whole vocabulary "
        "(default: all with --model and no names split, else annotated)",
        choices=("annotated", "all"),
    )
    image_size: int | None = _option(
        None, "resize images to squares of this side in pixels (default: the size of the starting point)"
    )
    no_augmentation: bool = _option(False, "do not augment: no flip, scale, crop or colour changes")
    blur: float = _option(
        0.0, "augment by Gaussian blur with a random radius of up to this many pixels (default: 0, no blur)"
    )
    device: str | None = _option(
        None, "auto, cpu, cuda, cuda:1, mps, ... (default: auto; several processes take one each)"
    )
    noise: float = _option(
        0.0,
        "augment by Gaussian noise with a random standard deviation of up to this, in grey levels of 0 to 255 "
        "(default: 0, no noise)",
    )

    @property
    def goes_on(self) -> bool:
        """Whether the run goes on with all of a trained model, which can then forget."""
        return bool(self.model) and not self.reset_semantics

    @property
    def uses_own_regions(self) -> bool:
        """Whether the starting point's own view of the images is what keeps it from forgetting."""
        return self.goes_on and not self.streaming and self.regions in (None, "self")

    def uses_detector_boxes(self, streams: str) -> bool:
        """Whether a run of these streams looks first where the starting detector sees things, which then need not be
        background."""
        if streams != "localization" or self.streaming or self.pseudo_boxes == "none":
            return False
        return bool(self.detector or self.model) and not self.uses_own_regions and self.regions in (None, "self")

    @property
    def regions_folder(self) -> str | None:
        """The regions data set of the training images, if one is given."""
        return None if self.regions in ("self", "none") else self.regions

    @property
    def replaced_fields(self) -> frozenset[str]:
        """The fields of the DeCoDetrConfig that --set names."""
        return frozenset(word.partition("=")[0] for word in self.set)
