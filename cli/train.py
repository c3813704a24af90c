"""`decodetr train`: from a data set to a trained, evaluated, saved and described model.

Apart from train.py, because a Trainer subclass must import torch and transformers at the top, and `--help` must not.
Own arguments have dashes; every field of `DeCoDetrTrainingArguments` (and so of `transformers.TrainingArguments`) is
accepted too and has its one default there.
"""

import argparse

from decodetr.annotations.formats import DATA_HELP
from decodetr.cli.options import add_form_arguments
from decodetr.training.provenance import SETTINGS
from decodetr.utils.files import claim
from decodetr.utils.preflight import process_rank

EPILOG = """Steps, rates, batch and views are chosen from the data where they are not given (docs/training.md).
Every field of DeCoDetrTrainingArguments and transformers.TrainingArguments is accepted too, for example
--streams joint|localization|semantic  --cache_features true  --max_steps 1000  --learning_rate 4e-4
--semantic_learning_rate 1e-3  --align_weight_start 0  --align_weight_end 1  --per_device_train_batch_size 16
--eval_strategy steps --eval_steps 500 --metric_for_best_model eval_AP50_base --load_best_model_at_end true
--resume_from_checkpoint last|auto (or a checkpoint folder)  --ema_decay 0.999  --report_to tensorboard"""


def add_arguments(parser):
    """Add the arguments of `decodetr train`; TrainingArguments are parsed from what remains."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="YAML file of these arguments, or the name of a shipped one such as decodetr-r50; words on the command "
        "line win",
    )
    parser.add_argument("--data", help=DATA_HELP + " (required, here or in the recipe)")
    parser.add_argument("--train-annotations", help="annotation file (default DATA/annotations/train.json)")
    parser.add_argument(
        "--val-annotations", help="annotation file, or none (default DATA/annotations/val.json, if it exists)"
    )
    parser.add_argument(
        "--val-share", type=float, metavar="S", help="without validation data: so much of the training images, as 0.1"
    )
    parser.add_argument(
        "--calibration-share",
        type=float,
        metavar="S",
        help="so much of the training images, at most 500, are kept aside; on them the scores are calibrated after "
        "training; 0 for none (default: 0.1)",
    )
    parser.add_argument("--output_dir", "--output-dir", help="checkpoints and the trained model")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--model", help="start from a saved DeCo-DETR")
    start.add_argument("--detector", help="start from a saved DETR-family detector")
    start.add_argument("--config", help="start from a DeCoDetrConfig in JSON or YAML, random weights")
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="with --config: pretrained weights of its timm backbone: a timm name such as resnet50.tv_in1k, "
        "hf-hub:OWNER/NAME, or a safetensors file or folder; see also --freeze_backbone",
    )
    parser.add_argument(
        "--reset-semantics",
        action="store_true",
        help="with --model: keep its detector and start the semantic stream anew, for another pool or teacher",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="fields of the DeCoDetrConfig that differ from the starting point's, such as background_level=0.3; "
        "with --reset-semantics also those that change shapes of the semantic stream",
    )
    _add_knowledge(parser)
    _add_forgetting(parser)
    add_form_arguments(parser)
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="read the training images of a `datasets` data set while training, without downloading it first; needs "
        "--max_steps",
    )
    parser.add_argument(
        "--shuffle-buffer",
        type=int,
        metavar="N",
        help="with --streaming: draw from this many rows that each worker holds undecoded; 0 for the stored order "
        "(default: 1000)",
    )
    parser.add_argument(
        "--regions",
        help="regions data set (Parquet shards) of the training images; self: what the starting point finds in them, "
        "so that it is not unlearned; none (default: self with --model, unless its semantics are reset)",
    )
    parser.add_argument(
        "--unkept-regions",
        choices=("ignore", "teach"),
        help="regions whose caption failed the pool's filter: CLIP's view of them teaches all the same, or they are "
        "left out (default: ignore)",
    )
    parser.add_argument(
        "--exhaustive",
        action=argparse.BooleanOptionalAction,
        help="all objects of the annotated names have a box, as in COCO, so a region without one is none of them "
        "(default: where other names compete and there is no names split)",
    )
    parser.add_argument(
        "--pseudo-boxes",
        choices=("objects", "ignore", "none"),
        help="what certain regions that lie on no annotated box are to the localization stream, so that it does not "
        "learn unnamed objects as background: objects, neither (see ignore_weight of the config), or background "
        "(default: objects; ignore where the detector is not class-agnostic)",
    )
    parser.add_argument(
        "--pseudo-box-score", type=float, metavar="T", help="proposal score of certain regions (default: 0.4)"
    )
    parser.add_argument("--pool", help="prototype pool folder")
    parser.add_argument("--vocabulary", help="vocabulary folder with the training names (default: the model's names)")
    parser.add_argument("--deploy-vocabulary", help="vocabulary folder of evaluation and of the saved model")
    parser.add_argument(
        "--text-model",
        metavar="NAME",
        help="CLIP that embeds --captions, and names of the data set that the vocabulary lacks (default: the one that "
        "made the vocabulary)",
    )
    parser.add_argument(
        "--training-names",
        choices=("annotated", "all"),
        help="names that compete in training: of the training annotations, or of the whole vocabulary (default: all "
        "with --model and no names split, else annotated)",
    )
    parser.add_argument("--image-size", type=int, help="train on squares of this side in pixels")
    parser.add_argument("--no-augmentation", action="store_true", help="no flip, scale, crop or colour changes")
    parser.add_argument("--blur", type=float, default=0.0, help="augment by Gaussian blur of a radius up to this")
    parser.add_argument("--noise", type=float, default=0.0, help="augment by Gaussian noise up to this (of 0..255)")


def _add_knowledge(parser):
    """What the run may use, and what its parts had seen."""
    add = parser.add_argument
    add(
        "--names-split",
        help='JSON {"base": {id: name}, "novel": {...}}, or none (default DATA/names.json, if any): only annotations '
        "of base names are trained on, and evaluation reports both groups",
    )
    add("--setting", choices=list(SETTINGS), help="with a names split: what may be used (default: V-OVD)")
    add("--captions", metavar="FILE", help="captions of the training images, as COCO has them: C-OVD, WS-OVD")
    add(
        "--image-labels",
        metavar="FILE",
        help="COCO file whose boxes are not read: names that are somewhere in an image: WS-OVD",
    )
    add(
        "--seen",
        nargs="+",
        default=[],
        metavar="PART=NAMES",
        help="""names whose boxes the detector, the backbone or the proposer had learned, if that is not recorded, such
        as 'proposer=cat,"salt, pepper"' or backbone=none""",
    )
    add("--allow-seen-novel", action="store_true", help="go on although some of them are novel; it is recorded")


def _add_forgetting(parser):
    """What keeps a fine-tune from forgetting, and shows whether it did."""
    add = parser.add_argument
    add("--held-out-data", metavar="DATA", help="validation data of names that are not trained on (default: --data)")
    add("--replay-data", metavar="DATA", help="images of an earlier data set that are trained on too")
    add("--replay-regions", metavar="DIR", help="their regions data set")
    add(
        "--replay-image-labels",
        metavar="FILE",
        help="names that are somewhere in them, as --image-labels has them: images without boxes that teach in WS-OVD",
    )
    add("--replay-images", type=int, metavar="N", help="so many of them, drawn at random (default: all)")


def _check_required(args):
    absent = [f"--{name}" for name in ("data", "output_dir") if not getattr(args, name)]
    if not (args.model or args.detector or args.config):
        absent.append("a starting point (--model, --detector or --config)")
    if absent:
        raise ValueError(f"give {' and '.join(absent)}, on the command line or in a recipe (--recipe)")


def _check_apart(args):
    """Refuse an output folder in which something is read that the run would replace."""
    from decodetr.utils.outputs import apart
    from decodetr.utils.shipped import resolve

    places = ("data", "held_out_data", "replay_data", "regions", "replay_regions", "captions", "image_labels")
    places += ("replay_image_labels",)
    inputs = {name: getattr(args, name) for name in (*places, "names_split", "config", "recipe")}
    models = ("model", "detector", "pool", "vocabulary", "deploy_vocabulary", "text_model")
    inputs |= {name: resolve(getattr(args, name)) for name in models if getattr(args, name)}
    options = {f"--{name.replace('_', '-')}": path for name, path in inputs.items() if isinstance(path, str)}
    written = ("config.json", "README.md", "training_config.yaml", "forgetting.json", "captions.safetensors")
    apart("--output_dir", args.output_dir, options, written)


def run(args):
    """Train, evaluate, save. `args.training_arguments` are the command-line words for DeCoDetrTrainingArguments,
    `args.words` all words."""
    if args.recipe:
        from decodetr.cli.recipe import parse_with_recipe

        args = parse_with_recipe(args.words, add_arguments)
    _check_required(args)
    _check_apart(args)
    from decodetr.train import TrainingRun
    from decodetr.training.preflight import check

    training = check(args)
    with claim(training.output_dir if process_rank() == 0 else None, "decodetr train"):
        return TrainingRun(args, training).run()
