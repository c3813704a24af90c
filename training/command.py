"""`decodetr train`: from a COCO-format folder to a trained, evaluated and saved model.

Apart from train.py, because a Trainer subclass must import torch and transformers at the top, and `--help` must not.
Own arguments have dashes; every field of `DeCoDetrTrainingArguments` (and so of `transformers.TrainingArguments`) is
accepted too and has its one default there.
"""

import argparse
from pathlib import Path

from decodetr.processing.sources import DATA_HELP, add_form_arguments, form_of

EPILOG = """Every field of DeCoDetrTrainingArguments and transformers.TrainingArguments is accepted too, for example
--streams joint|localization|semantic  --cache_features true  --max_steps 1000  --learning_rate 4e-4
--semantic_learning_rate 1e-3  --align_weight_start 0  --align_weight_end 1  --per_device_train_batch_size 16
--eval_strategy steps --eval_steps 500 --metric_for_best_model eval_AP50_base --load_best_model_at_end true
--resume_from_checkpoint last (or a checkpoint folder)  --report_to tensorboard"""


def add_arguments(parser):
    """Add the arguments of `decodetr train`; TrainingArguments are parsed from what remains."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--train-annotations", help="annotation file (default DATA/annotations/train.json)")
    parser.add_argument(
        "--val-annotations", help="annotation file, or none (default DATA/annotations/val.json, if it exists)"
    )
    parser.add_argument(
        "--names-split",
        help='JSON {"base": {id: name}, "novel": {...}}, or none (default DATA/names.json, if any): only annotations '
        "of base names are trained on, and evaluation reports both groups",
    )
    parser.add_argument("--output_dir", "--output-dir", required=True, help="checkpoints and the trained model")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--model", help="start from a saved DeCo-DETR")
    start.add_argument("--detector", help="start from a saved DETR-family detector")
    start.add_argument("--config", help="start from a DeCoDetrConfig in JSON or YAML, random weights")
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
        help="fields of the DeCoDetrConfig that differ from the starting point's, such as background_cosine=0.3; "
        "with --reset-semantics also those that change shapes of the semantic stream",
    )
    add_form_arguments(parser)
    parser.add_argument("--regions", help="regions data set (Parquet shards) of the training images")
    parser.add_argument(
        "--pseudo-box-score",
        type=float,
        help="with --regions: those of at least this proposal score that lie on no annotated box are objects to the "
        "localization stream, so that it does not learn unnamed objects as background",
    )
    parser.add_argument("--pool", help="prototype pool folder")
    parser.add_argument("--vocabulary", help="vocabulary folder with the training names (default: the model's names)")
    parser.add_argument("--deploy-vocabulary", help="vocabulary folder of evaluation and of the saved model")
    parser.add_argument("--image-size", type=int, help="train on squares of this side in pixels")
    parser.add_argument("--no-augmentation", action="store_true", help="no flip, scale, crop or colour changes")
    parser.add_argument("--blur", type=float, default=0.0, help="augment by Gaussian blur of a radius up to this")
    parser.add_argument("--noise", type=float, default=0.0, help="augment by Gaussian noise up to this (of 0..255)")


def names_split_file(data, names_split=None):
    """The names split of a command: `names_split` if given, else DATA/names.json; None without one or for "none"."""
    if names_split == "none":
        return None
    file = Path(names_split or Path(data) / "names.json")
    if names_split and not file.is_file():
        raise FileNotFoundError(f"--names-split {file}: no such file; give the JSON file of base and novel names")
    return file if file.is_file() else None


def run(args):
    """Train, evaluate, save. `args.training_arguments` are the command-line words for DeCoDetrTrainingArguments."""
    import transformers

    from decodetr.evaluation.protocols import read_split
    from decodetr.modeling_decodetr import Vocabulary
    from decodetr.processing import DetectionAugmentation, DetectionDataset, RegionTable
    from decodetr.processing.shipped import resolve
    from decodetr.processing.sources import has_part, load_annotations
    from decodetr.train import DeCoDetrTrainer, DeCoDetrTrainingArguments
    from decodetr.training.starting_point import start

    parser = transformers.HfArgumentParser(DeCoDetrTrainingArguments)
    (training,) = parser.parse_args_into_dataclasses(["--output_dir", args.output_dir, *args.training_arguments])
    if args.pseudo_box_score is not None and (not args.regions or training.streams == "semantic"):
        raise ValueError("--pseudo-box-score needs --regions, and a localization stream in training (--streams).")
    transformers.set_seed(training.seed)
    split_file = names_split_file(args.data, args.names_split)
    base, novel = read_split(split_file) if split_file else (None, None)
    coco = load_annotations(args.data, "train", args.train_annotations, **form_of(args))
    if base is not None:
        coco = coco.select(base)
    model, processor = start(args)
    if args.pool:
        from decodetr import PrototypePool

        known = Vocabulary.from_pretrained(resolve(args.vocabulary)) if args.vocabulary else None
        model.set_pool(PrototypePool.from_pretrained(resolve(args.pool)), known)
    elif args.vocabulary:
        model.set_vocabulary(Vocabulary.from_pretrained(resolve(args.vocabulary)))
    deployed = model.vocabulary
    if args.deploy_vocabulary:
        deployed = Vocabulary.from_pretrained(resolve(args.deploy_vocabulary))
    model.set_vocabulary(model.vocabulary.select(coco.names))
    regions = RegionTable.load(args.regions) if args.regions else None
    augmented = not (args.no_augmentation or (training.cache_features and training.cache_views == 1))
    augmentation = DetectionAugmentation(training.seed, blur=args.blur, noise=args.noise) if augmented else None
    train_dataset = DetectionDataset(
        coco,
        processor,
        model.vocabulary.names,
        regions=regions,
        augmentation=augmentation,
        pseudo_box_score=args.pseudo_box_score,
    )
    eval_dataset = None
    if args.val_annotations != "none" and (args.val_annotations or has_part(args.data, "val")):
        val = load_annotations(args.data, "val", args.val_annotations, **form_of(args))
        eval_dataset = DetectionDataset(val, processor, deployed.names, skip_unknown_names=True)
    model.config.training_info = {**(model.config.training_info or {}), "training_names": coco.names}
    if args.pseudo_box_score is not None:
        model.config.training_info["pseudo_box_score"] = args.pseudo_box_score
    trainer = DeCoDetrTrainer(
        model,
        training,
        train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        deployment_vocabulary=deployed,
        novel_names=novel,
    )
    resume = training.resume_from_checkpoint
    if resume in ("last", "true", "True"):
        resume = transformers.trainer_utils.get_last_checkpoint(training.output_dir)
        if resume is None:
            raise FileNotFoundError(
                f"--resume_from_checkpoint last: {training.output_dir} has no checkpoint-* folder."
            )
    result = trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    return 0
