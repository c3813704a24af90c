"""A training run, from a data set to a trained, evaluated, saved and described model: `decodetr train`.

The command's arguments are in `cli/train.py`, the Trainer is in `training/trainer.py`.
"""

import logging
import sys
from functools import partial

import torch
import transformers

from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.calibrate import before_and_after
from decodetr.processing import DetectionAugmentation, DetectionDataset
from decodetr.processing.streamed_dataset import StreamedDetectionDataset
from decodetr.training.arguments import DeCoDetrTrainingArguments
from decodetr.training.calibration import ScoreCalibration
from decodetr.training.checkpoints import to_resume
from decodetr.training.chosen import CHOSEN, given_fields, set_chosen, situation_of
from decodetr.training.data import TrainingData
from decodetr.training.forgetting import ForgettingReport
from decodetr.training.identity import digest, settings_identity
from decodetr.training.learned import doubts
from decodetr.training.metrics import check_evaluation
from decodetr.training.model_card import write_card
from decodetr.training.names import set_names
from decodetr.training.options import goes_on
from decodetr.training.provenance import OF_A_RUN, PARTS, check_seen, record, seen_before
from decodetr.training.replay import ReplayedDataset, replay_dataset
from decodetr.training.self_regions import self_regions
from decodetr.training.space_report import describe_space, sample_regions
from decodetr.training.starting_point import start, start_identity
from decodetr.training.trainer import DeCoDetrTrainer
from decodetr.training.trial import check_room, try_step
from decodetr.utils.hub import recorded_place
from decodetr.utils.name_list import read_names
from decodetr.utils.shipped import load_pool, load_vocabulary

logger = logging.getLogger(__name__)

__all__ = ["DeCoDetrTrainer", "DeCoDetrTrainingArguments", "TrainingRun", "main"]


class TrainingRun:
    """
    Reads, checks and builds; `run` does the rest.

    Args:
        args: of the command. training (DeCoDetrTrainingArguments): what `training.preflight.check` made of it.

    Raises:
        OSError, ValueError: what the user gave does not go together; said before any step is trained.
    """

    def __init__(self, args, training):
        self.args, self.training = args, training
        transformers.set_seed(self.training.seed)
        self.start = start_identity(args)
        self.data = TrainingData(args)
        self.calibration = ScoreCalibration(args, training.streams, self.data)
        self.model, self.processor = start(args, self.data.coco.names)
        self.chosen = self._choose()
        # As far as it is known yet: what does not go on is said before anything long.
        known = {"start": self.start, **settings_identity(self.training)}
        to_resume(self.training.resume_from_checkpoint, args.output_dir, known, self.training.overwrite_output_dir)
        self.started_from = dict(self.model.config.training_info or {})
        self._set_tables()
        self.deployed = set_names(self.model, args, self.data)
        self._random = self._random_tables()
        if self.data.val is not None:
            report = self._report()
            groups = report.groups(self.data.val, self.deployed.names) if report else None
            check_evaluation(training, self.data.val, self.deployed.names, self.data.novel, groups)
        check_room(self.model, training, None if args.streaming else len(self.data.coco))
        try_step(self.model, self.processor, training)
        if self._looks_itself():
            self.data.regions = self._self_regions()
        elif training.streams != "localization" and not self._random:
            self._tell_space()
        self.pseudo_boxes = self.data.pseudo_boxes(self.training.streams, self.model.config.class_agnostic)
        self.model.config.training_info = self._training_info()
        self.trainer = self._trainer()
        self.forgetting = self._forgetting()

    def run(self):
        """Train, evaluate, save, describe. Returns the exit status."""
        trainer = self.trainer
        trainer.checkpoint_to_resume(self.training.resume_from_checkpoint)  # an error comes before what takes long
        if self.forgetting:
            self.forgetting.before(partial(self._measure, "before"))
            transformers.set_seed(self.training.seed)  # a run that starts again has measured before
        try:
            result = trainer.train()
        except KeyboardInterrupt:
            self._say_how_to_go_on()
            raise
        self.calibration.fit(trainer, self.processor)
        trainer.save_model()
        trainer.save_state()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        metrics = scores = None
        if self.data.val is not None:
            metrics = trainer.evaluate()
            if self.names_learned():
                analysis = Analysis(trainer.evaluated)
                metrics["eval_best_threshold"] = analysis.threshold
                scores = before_and_after(analysis, self.model.config)
            trainer.log_metrics("eval", metrics)
            trainer.save_metrics("eval", metrics)
        if self.forgetting:
            self.forgetting.after(partial(self._measure, "after", metrics))
        self.doubts = self._doubts(metrics)
        if trainer.is_world_process_zero():
            for doubt in self.doubts:
                logger.warning("This run has not learned what it should: %s", doubt)
            card = write_card(self, metrics, result.metrics, scores)
            logger.warning("%s is the trained model; %s describes it", self.training.output_dir, card)
        return 0

    def _doubts(self, metrics):
        pairs = self.forgetting.pairs() if self.forgetting else {}
        state, given = self.trainer.state, given_fields(self.args)
        return doubts(state.log_history, metrics, self.situation, pairs, given, state.global_step)

    def _say_how_to_go_on(self):
        """One line of an interrupted run: which checkpoint there is, and what goes on from it."""
        newest = to_resume("auto", self.training.output_dir)
        if newest is None:
            text = f"{self.training.output_dir} has no complete checkpoint yet: the same command begins anew"
        else:
            text = f"the same command with --resume_from_checkpoint auto goes on from {newest}"
        if self.training.process_index == 0:
            logger.warning("Stopped after %d steps; %s", self.trainer.state.global_step, text)

    # Tables and data

    def _choose(self):
        """Set the fields of the training arguments that nobody gave; returns them."""
        images = self.data.images_with_something(self._looks_itself())
        self.situation = situation_of(self.args, self.training, images, self.model.config, self.processor)
        return set_chosen(self.args, self.training, self.situation, self.start)

    def _set_tables(self):
        """Pool and vocabulary of the command line."""
        args = self.args
        if args.pool:
            self.model.set_pool(load_pool(args.pool), load_vocabulary(args.vocabulary) if args.vocabulary else None)
        elif args.vocabulary:
            self.model.set_vocabulary(load_vocabulary(args.vocabulary))

    def _random_tables(self):
        """{"pool" or "vocabulary": "random"} of the tables that nothing made, for the record; a warning if the
        semantic stream learns from them."""
        args, info, config = self.args, self.started_from, self.model.config
        found = {}
        for table, key, given in (
            ("pool", "pool_info", args.pool),
            ("vocabulary", "vocabulary_info", args.vocabulary),
        ):
            kept = args.model and info.get(table) != "random"
            if not (given or kept or getattr(config, key)):
                found[table] = "random"
        for table, what in (("pool", "prototypes"), ("vocabulary", "name embeddings")):
            unused = table == "pool" and config.pool_use == "none"
            if table in found and self.training.streams != "localization" and not unused:
                logger.warning(
                    "the model starts with random %s, and the semantic stream learns to compare with them: they mean "
                    "nothing; give --%s. (With --streams localization they are not used.)",
                    what,
                    table,
                )
        return found

    def _tell_space(self):
        """Warn, with figures, where teacher, lookup, names or momentum cannot work in the space of pool and names."""
        data, embeds = self.data, torch.zeros(0, self.model.config.embedding_dim)
        names, texts = torch.zeros(0, dtype=torch.int64), embeds
        if data.regions is not None:
            embeds, names, texts = sample_regions(data.coco, data.regions, self.model.vocabulary.names)
        report = describe_space(self.model, embeds, names, texts)
        for problem in report.problems() if self.training.process_index == 0 else ():
            logger.warning("This cannot work: %s", problem)

    def _looks_itself(self):
        """Whether the starting point's own view of the images is what keeps it from forgetting."""
        args = self.args
        return goes_on(args) and not args.streaming and args.regions in (None, "self")

    def _self_regions(self):
        training, model = self.training, self.model
        options = {"device": training.device, "batch_size": training.per_device_eval_batch_size}
        options["num_workers"] = training.dataloader_num_workers
        options |= {"rank": training.process_index, "processes": training.world_size}
        return self_regions(model, self.data.coco, self.processor, **options)

    def _training_dataset(self):
        args, data, names, seed = self.args, self.data, self.model.vocabulary.names, self.training.seed
        augmented = not (args.no_augmentation or (self.training.cache_features and self.training.cache_views == 1))
        augmentation = DetectionAugmentation(seed, blur=args.blur, noise=args.noise) if augmented else None
        make = DetectionDataset
        if args.streaming:
            buffer = {} if args.shuffle_buffer is None else {"shuffle_buffer": args.shuffle_buffer}
            make = partial(StreamedDetectionDataset, seed=seed, **buffer)
        with self.training.main_process_first():  # the others find the captions embedded
            weak = data.weak_labels(args.text_model or (self.model.config.pool_info or {}).get("encoder"), names)
        options, replayed = self.pseudo_boxes
        options = {"augmentation": augmentation, "weak_labels": weak, **options}
        dataset = make(data.coco, self.processor, names, regions=data.regions, **options)
        if data.replay is None:
            return dataset
        options = {"augmentation": augmentation, "images": args.replay_images, "seed": seed, **replayed}
        options["weak_labels"] = data.replay_weak_labels(names)
        return ReplayedDataset(
            dataset, replay_dataset(data.replay, self.processor, names, data.replay_regions, **options)
        )

    def _training_info(self):
        """The record of PAPER.md 5: the setting, what had been seen before, and what this run used."""
        args, data, config, names = self.args, self.data, self.model.config, self.model.vocabulary.names
        declared = {}
        for word in args.seen:
            part, separator, names = word.partition("=")
            if not separator or part not in PARTS:
                raise ValueError(f"--seen {word}: expected PART=NAMES with one of {', '.join(PARTS)}")
            declared[part] = [] if names == "none" else read_names(names)
        pool_info = None if data.regions is None or self._looks_itself() else config.pool_info
        trained = args.model or args.detector
        seen = seen_before(self.started_from, pool_info, declared if trained else {"detector": [], **declared})
        novel_seen = check_seen(seen, data.novel or [], data.setting, args.allow_seen_novel)
        used = {
            # A stream that declares no names can have boxes of all of them.
            "annotated_names": names if data.annotated_names is None else data.annotated_names,
            "training_names": names,
            "data": recorded_place(args.data),
            "regions": "the model's own" if self._looks_itself() else args.regions and recorded_place(args.regions),
            "captions": self._captions(),
            "image_labels": args.image_labels and recorded_place(args.image_labels),
            "replay_data": args.replay_data and recorded_place(args.replay_data),
            "replay_image_labels": args.replay_image_labels and recorded_place(args.replay_image_labels),
        }
        earlier = {key: value for key, value in self.started_from.items() if key not in OF_A_RUN}
        used |= {CHOSEN: self.chosen or None, **self.pseudo_boxes[0]}
        return {**earlier, **self._random, **record(data.setting, seen, novel_seen, **used)}

    def _captions(self):
        """Where captions of whole images came in: the file of --captions, or the pool that was built of them; None."""
        if self.args.captions:
            return recorded_place(self.args.captions)
        count = (self.model.config.pool_info or {}).get("image_captions")
        return f"{count} in the pool" if count and self.training.streams != "localization" else None

    # Training

    def _trainer(self):
        val = self.data.val
        if val is not None:
            val = DetectionDataset(val, self.processor, self.deployed.names, skip_unknown_names=True)
        return DeCoDetrTrainer(
            self.model,
            self.training,
            self._training_dataset(),
            eval_dataset=val,
            processing_class=self.processor,
            deployment_vocabulary=self.deployed,
            novel_names=self.data.novel,
            start=self.start,
            names_learned=self.names_learned(),
        )

    def names_learned(self):
        """Whether the model will know names: its semantic stream is trained here, or was before."""
        return self.training.streams != "localization" or goes_on(self.args)

    # Before and after

    def _report(self):
        """The report of a fine-tune, or None where nothing can be forgotten or measured."""
        args, data = self.args, self.data
        if not goes_on(args) or data.annotated_names is None or (data.val or data.held_out) is None:
            return None
        source = args.held_out_data or args.val_annotations or args.data
        main = self.training.process_index == 0
        return ForgettingReport(
            self.training.output_dir, data.annotated_names, source, self._start_digest(), main=main
        )

    def _forgetting(self):
        """The report of a fine-tune, and what it measures on; None without one."""
        data, report = self.data, self._report()
        if report is None:
            return None
        self.held_out = None
        if data.held_out is not None:
            known = set(self.deployed.names)
            coco = data.held_out.select([name for name in data.held_out.names if name in known])
            self.held_out = DetectionDataset(coco, self.processor, self.deployed.names, skip_unknown_names=True)
        self.trainer.groups = report.groups
        return report

    def _start_digest(self):
        """What "before" belongs to: the starting point, the images, the names and how they are evaluated."""
        sets = [coco.digest() for coco in (self.data.val, self.data.held_out) if coco is not None]
        how = [self.training.eval_max_detections, dict(self.processor.size), self.model.config.nms_iou]
        fields = [self.args.set, self.deployed.names, self.data.novel]
        return digest(self.start, sets, how, fields)

    def _measure(self, prefix, metrics=None):
        """AP of trained and of held-out names, in percent; `metrics` of the validation data, if they are known."""
        found, trainer = {}, self.trainer
        if self.data.val is not None:
            if metrics is None:
                metrics = trainer.evaluate(metric_key_prefix=prefix)
            found = {key.partition("_")[2]: value for key, value in metrics.items()}
        if self.held_out is not None:
            split, trainer.novel_names = trainer.novel_names, None  # of the run's own data
            trainer.forget_eval_loader()
            metrics = trainer.evaluate(self.held_out, metric_key_prefix=f"{prefix}-held-out")
            trainer.forget_eval_loader()
            trainer.novel_names = split
            held_out = {key.partition("_")[2]: value for key, value in metrics.items()}
            found = {key: value for key, value in found.items() if not key.endswith("held_out")}
            found |= {key: value for key, value in held_out.items() if key.endswith("held_out")}
        return {key: value for key, value in found.items() if key.endswith(("_trained", "_held_out"))}


def main(argv=None):
    """`decodetr train`, `python -m decodetr.train` and `accelerate launch train.py` are the same program."""
    from decodetr.cli import main as command

    return command(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    # Through the import, so that pickled arguments name decodetr.train and not __main__.
    from decodetr.train import main

    raise SystemExit(main())
