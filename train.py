"""Train, from a data set to a trained, evaluated, saved and described model: what `decodetr train`, `python train.py`
and `accelerate launch train.py` do.

`TrainingRun.run` is the run from top to bottom: data, model, names, training, report. The command's options are those
of `training/options/options.py`, and the Trainer is in `training/trainer.py`.
"""

import sys

from decodetr.utils.excerpts import some_of
from decodetr.utils.program import run_command

if __name__ == "__main__":  # before the imports below, so that --help is instant
    sys.exit(run_command("train"))

import logging
from collections.abc import Sequence, Set
from dataclasses import replace
from functools import partial

import torch
import transformers

from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.calibrate import before_and_after
from decodetr.modeling_decodetr import Vocabulary
from decodetr.pool_builder.space import describe
from decodetr.processing import DetectionAugmentation, DetectionDataset
from decodetr.processing.detection_dataset import TargetOptions
from decodetr.processing.streamed_dataset import SHUFFLE_BUFFER, StreamedDetectionDataset
from decodetr.training.checks.crowded import crowded
from decodetr.training.data.data import PSEUDO_BOX_SCORE, TrainingData
from decodetr.training.data.detector_boxes import DetectorBoxes
from decodetr.training.data.names import set_names
from decodetr.training.data.replay import ReplayedDataset, replay_dataset
from decodetr.training.data.self_regions import self_regions
from decodetr.training.data.sparse import dataset_of_epochs
from decodetr.training.features.feature_cache import FeatureCache
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.metrics import check_evaluation
from decodetr.training.options.options import TrainOptions
from decodetr.training.options.provenance import OF_A_RUN, PARTS, check_seen, record, seen_before
from decodetr.training.planning.chosen import CHOSEN, set_chosen, situation_of
from decodetr.training.planning.trial import check_room, try_step
from decodetr.training.results.calibration import KeptImages
from decodetr.training.results.checkpoints import to_resume
from decodetr.training.results.forgetting import ForgettingReport
from decodetr.training.results.identity import digest, settings_identity
from decodetr.training.results.learned import doubts
from decodetr.training.results.loggers import kept_open
from decodetr.training.results.model_card import RunResult, write_card
from decodetr.training.results.output import begin
from decodetr.training.results.time_spent import TimeSpent
from decodetr.training.start.space_fit import fit_space
from decodetr.training.start.space_report import describe_space, sample_regions
from decodetr.training.start.starting_point import bare_detector, start_identity, start_model
from decodetr.training.start.thumbnails import choose_thumbnails
from decodetr.training.trainer import DeCoDetrTrainer
from decodetr.utils.devices import machine_name
from decodetr.utils.hub import recorded_place
from decodetr.utils.name_list import read_typed_names
from decodetr.utils.shipped import load_pool, load_vocabulary

logger = logging.getLogger(__name__)

__all__ = ["DeCoDetrTrainer", "DeCoDetrTrainingArguments", "TrainingRun", "main"]


class TrainingRun:
    """
    A run of `decodetr train`.

    Args:
        options (TrainOptions). training (DeCoDetrTrainingArguments): what `preflight.check` made of them.
        given (set[str]): fields of `training` that the user gave. The others may be chosen.
        words (list[str]): of the command line, for the card.
    """

    def __init__(
        self,
        options: TrainOptions,
        training: DeCoDetrTrainingArguments,
        given: Set[str] = frozenset(),
        words: Sequence[str] = (),
    ) -> None:
        self.options, self.training, self.given, self.words = options, training, given, words

    def run(self) -> int:
        """Read, check, train, evaluate, save, describe. Returns the exit status.

        Raises:
            OSError, ValueError: what the user gave does not go together; raised before any step is trained.
        """
        options, training = self.options, self.training
        transformers.set_seed(training.seed)
        start = start_identity(options)

        # Data
        data = TrainingData.read(options, self.training.streams)
        kept, coco = KeptImages.divide(options, training.streams, data.coco)
        data = replace(data, coco=coco)

        # Model
        options = self.options = choose_thumbnails(options, training, data)
        model, processor = start_model(options, data.coco.names)
        self._fit_streams(model.config, data)
        situation = self._situation(data, model.config, processor)
        chosen = set_chosen(training, self.given, situation, start)
        for limit in crowded(model.config, data.coco, data.val, training.eval_max_detections):
            logger.warning("%s", limit)
        # As far as it is known yet: what does not go on is said before anything long.
        known = {"start": start, **settings_identity(training)}
        to_resume(training.resume_from_checkpoint, training.output_dir, known, training.overwrite_output_dir)
        started_from = dict(model.config.training_info or {})
        self._set_tables(model)

        # Names
        deployed = set_names(model, options, data, unused=training.streams == "localization")
        self._fit_space(model)
        random_tables = self._random_tables(model, started_from)
        forgetting = self._forgetting_report(start, data, model, processor, deployed)
        if data.val is not None:
            groups = forgetting.groups(data.val, deployed.names) if forgetting else None
            check_evaluation(training, data.val, deployed.names, data.novel, groups)
        check_room(model, training, situation.drawn or None)
        try_step(model, processor, training)
        if options.uses_own_regions:
            data = replace(data, regions=self._own_regions(model, processor, data))
        elif options.uses_detector_boxes(training.streams):
            data = self._with_detector_boxes(model, processor, data)
            if (seen := self._situation(data, model.config, processor)) != situation:  # in images without a box too
                situation, chosen = seen, set_chosen(training, self.given, seen, start)
        elif training.streams != "localization" and not random_tables:
            self._tell_space(model, data)
        model.config.training_info = self._training_info(model, data, started_from, random_tables, chosen)

        # Training
        trainer = self._trainer(model, processor, data, deployed, start)
        trainer.checkpoint_to_resume(training.resume_from_checkpoint)  # an error comes before what takes long
        if forgetting:
            trainer.groups = forgetting.groups
            measure = partial(_measure, trainer, forgetting, _held_out(data, processor, deployed))
            forgetting.before(partial(measure, "before"))
            transformers.set_seed(training.seed)  # a run that starts again has measured before
        if trainer.is_world_process_zero():
            begin(training.output_dir)
        with kept_open(trainer.callback_handler.callbacks):
            try:
                trained = trainer.train()
            except KeyboardInterrupt:
                self._say_how_to_go_on(trainer.state.global_step)
                raise
            trainer.save_model(_internal_call=True)  # sent once its card has the results
            if kept.fit(trainer, processor):  # after a save, so that an error there cannot lose the trained model
                trainer.save_model(_internal_call=True)
            trainer.save_state()
            trainer.accelerator.wait_for_everyone()  # nobody reads cached features any more
            if trainer.is_world_process_zero() and isinstance(trainer.train_dataset, FeatureCache):
                if not training.cache_folder:
                    trainer.train_dataset.remove()
            _save_metrics(trainer, "train", trained.metrics)

            # Report
            metrics = scores = None
            if data.val is not None:
                metrics, scores = _evaluate(trainer)
            if forgetting:
                forgetting.after(partial(measure, "after", metrics))
        if trainer.is_world_process_zero():
            self._report(
                RunResult(
                    output_dir=training.output_dir,
                    words=self.words,
                    start=options.model or options.detector or options.backbone,
                    config=model.config,
                    image_size=dict(processor.size),
                    names=deployed.names,
                    names_learned=trainer.names_learned,
                    steps=trainer.state.global_step,
                    spent=next(c.spent for c in trainer.callback_handler.callbacks if isinstance(c, TimeSpent)),
                    val=data.val,
                    max_detections=training.eval_max_detections,
                    metrics=metrics,
                    scores=scores,
                    not_calibrated=kept.reason,
                    doubts=self._doubts(trainer.state, metrics, situation, forgetting),
                    forgetting=forgetting,
                    machine=_machine(training.device, training.world_size),
                )
            )
        trainer.send("End of training")
        return 0

    def _situation(self, data, config, processor):
        """What the choice of steps and rates depends on. ValueError where the data teach nothing."""
        images, empty = data.images_of_epoch(self.training.streams, config.class_agnostic)
        return situation_of(self.options, self.training, images, config, processor, empty)

    def _fit_streams(self, config, data):
        """A detector with classes can learn boxes of these alone. Other names are for the semantic stream."""
        training = self.training
        if config.class_agnostic or training.streams == "semantic":
            return
        classes = config.detector_config.id2label.values()
        foreign = [name for name in data.annotated_names or () if name not in classes]
        if not foreign:
            return
        said = f"the detector has classes, and none for {some_of(foreign)}"
        if "streams" in self.given:
            raise ValueError(
                f"--streams {training.streams}: {said}, so it cannot learn their boxes; give --streams semantic, "
                "which leaves the detector as it is, or begin with --detector, which makes it class-agnostic"
            )
        training.streams = "semantic"
        if training.process_index == 0:
            logger.warning("Chosen: --streams semantic. %s, so it stays as it is", said[0].upper() + said[1:])

    # Tables

    def _set_tables(self, model):
        """Set the pool and the vocabulary that the options name."""
        options = self.options
        if options.pool:
            names = load_vocabulary(options.vocabulary) if options.vocabulary else None
            model.set_pool(load_pool(options.pool), names)
        elif options.vocabulary:
            model.set_vocabulary(load_vocabulary(options.vocabulary))

    def _random_tables(self, model, started_from):
        """{"pool" or "vocabulary": "random"} of the tables that nothing made, for the record. A warning if the
        semantic stream learns from them."""
        options, config = self.options, model.config
        found = {}
        for table, key, given in (
            ("pool", "pool_info", options.pool),
            ("vocabulary", "vocabulary_info", options.vocabulary),
        ):
            kept = options.model and started_from.get(table) != "random"
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

    def _fit_space(self, model):
        """Choose temperatures and background for the training names, where captions had to stand in for names."""
        if self.training.streams == "localization" or not self.options.pool or not self.options.regions_folder:
            return
        fitted = fit_space(model.prototype_pool, model.vocabulary, self.options.regions_folder)
        if fitted is None:
            return
        model.set_pool(fitted, model.vocabulary)
        if self.training.process_index == 0:
            logger.warning(
                "For the training names, temperatures were %s", describe(fitted.info["space"]).split("\n")[1]
            )

    def _tell_space(self, model, data):
        """Warn, with figures, where teacher, lookup, names or momentum cannot work in the space of pool and names."""
        embeds = torch.zeros(0, model.config.embedding_dim)
        names, texts = torch.zeros(0, dtype=torch.int64), embeds
        if data.regions is not None:
            embeds, names, texts = sample_regions(data.coco, data.regions, model.vocabulary.names)
        report = describe_space(model, embeds, names, texts)
        for problem in report.problems() if self.training.process_index == 0 else ():
            logger.warning("This cannot work: %s", problem)

    # Data

    def _own_regions(self, model, processor, data, sure=None):
        training, certain = self.training, self.options.pseudo_box_score
        return self_regions(
            model,
            data.coco,
            processor,
            device=training.device,
            batch_size=training.per_device_eval_batch_size,
            num_workers=training.dataloader_num_workers,
            rank=training.process_index,
            processes=training.world_size,
            sure=sure,
            certain=PSEUDO_BOX_SCORE if certain is None else certain,
        )

    def _with_detector_boxes(self, model, processor, data):
        """The data with what the starting detector is sure of, by the classes that it has."""
        options, agnostic = self.options, model.config.class_agnostic
        score = data.pseudo_boxes(self.training.streams, agnostic)["pseudo_box_score"]
        starting = bare_detector(options, model.config.embedding_dim) if options.detector else model
        regions = self._own_regions(starting, processor, data, score)
        seen = DetectorBoxes.count(data.coco, regions)
        use = options.pseudo_boxes or seen.use(agnostic)
        if self.training.process_index == 0:
            logger.warning("%s", seen.describe(score, use))
        transformers.set_seed(self.training.seed)  # as if nothing had been looked at
        if use == "none":
            return data
        return replace(data, regions=regions, options=replace(options, pseudo_boxes=use))

    def _training_dataset(self, model, processor, data):
        options, training, names = self.options, self.training, model.vocabulary.names
        augmented = not (options.no_augmentation or (training.cache_features and training.cache_views == 1))
        augmentation = None
        if augmented:
            augmentation = DetectionAugmentation(training.seed, blur=options.blur, noise=options.noise)
        with training.main_process_first():  # the others find the captions embedded
            weak = data.weak_labels(options.text_model or (model.config.pool_info or {}).get("encoder"), names)
        objects = data.pseudo_boxes(training.streams, model.config.class_agnostic)
        targets = TargetOptions(
            data.regions, augmentation, weak_labels=weak, **(objects if data.regions is not None else {})
        )
        if options.streaming:
            buffer = SHUFFLE_BUFFER if options.shuffle_buffer is None else options.shuffle_buffer
            dataset = StreamedDetectionDataset(
                data.coco, processor, names, targets, shuffle_buffer=buffer, seed=training.seed
            )
        else:
            teaching = data.teaching(training.streams, model.config.class_agnostic)
            dataset = dataset_of_epochs(data.coco, processor, names, targets, teaching=teaching, seed=training.seed)
        if data.replay is None:
            return dataset
        targets = TargetOptions(
            data.replay_regions, augmentation, weak_labels=data.replay_weak_labels(names), **objects
        )
        replayed = replay_dataset(
            data.replay, processor, names, targets, images=options.replay_images, seed=training.seed
        )
        return ReplayedDataset(dataset, replayed)

    def _training_info(self, model, data, started_from, random_tables, chosen):
        """The record of paper 5: the setting, what had been seen before, and what this run used."""
        options, config, names = self.options, model.config, model.vocabulary.names
        looked = data.regions is not None and not options.regions_folder
        declared = {}
        for word in options.seen:
            part, separator, listed = word.partition("=")
            if not separator or part not in PARTS:
                raise ValueError(f"--seen {word}: expected PART=NAMES with one of {', '.join(PARTS)}")
            declared[part] = [] if listed == "none" else read_typed_names(listed, "--seen")
        if not (options.model or options.detector):
            declared = {"detector": [], **declared}
        pool_info = None if data.regions is None or looked else config.pool_info
        seen = seen_before(started_from, pool_info, declared)
        novel_seen = check_seen(seen, data.novel or [], data.setting, options.allow_seen_novel)
        used = {
            # A stream that declares no names can have boxes of all of them.
            "annotated_names": names if data.annotated_names is None else data.annotated_names,
            "training_names": names,
            "data": recorded_place(options.data),
            "regions": "the model's own" if looked else options.regions and recorded_place(options.regions),
            "captions": self._captions(config),
            "image_labels": options.image_labels and recorded_place(options.image_labels),
            "replay_data": options.replay_data and recorded_place(options.replay_data),
            "replay_image_labels": options.replay_image_labels and recorded_place(options.replay_image_labels),
            CHOSEN: chosen or None,
        }
        if data.regions is not None:
            used |= data.pseudo_boxes(self.training.streams, config.class_agnostic)
        earlier = {key: value for key, value in started_from.items() if key not in OF_A_RUN}
        return {**earlier, **random_tables, **record(data.setting, seen, novel_seen, **used)}

    def _captions(self, config):
        """Where captions of whole images came in: the file of --captions, or the pool that was built of them. None."""
        if self.options.captions:
            return recorded_place(self.options.captions)
        count = (config.pool_info or {}).get("image_captions")
        return f"{count} in the pool" if count and self.training.streams != "localization" else None

    # Training

    def _trainer(self, model, processor, data, deployed, start):
        val = data.val
        if val is not None:
            val = DetectionDataset(val, processor, deployed.names, skip_unknown_names=True)
        return DeCoDetrTrainer(
            model,
            self.training,
            self._training_dataset(model, processor, data),
            eval_dataset=val,
            processing_class=processor,
            deployment_vocabulary=deployed,
            novel_names=data.novel,
            start=start,
            # The model knows names if its semantic stream is trained here, or was before.
            names_learned=self.training.streams != "localization" or self.options.goes_on,
        )

    def _say_how_to_go_on(self, step):
        """One line of an interrupted run: which checkpoint there is, and what goes on from it."""
        newest = to_resume("auto", self.training.output_dir)
        if newest is None:
            text = f"{self.training.output_dir} has no complete checkpoint yet: the same command starts again"
        else:
            how = " without --overwrite" if self.training.overwrite_output_dir else ""
            text = f"the same command{how} goes on from {newest}"
        if self.training.process_index == 0:
            logger.warning("Stopped after %d steps; %s", step, text)

    # Before and after

    def _forgetting_report(self, start, data, model, processor, deployed):
        """The report of a fine-tune, or None where nothing can be forgotten or measured."""
        options, training = self.options, self.training
        if not options.goes_on or data.annotated_names is None or (data.val or data.held_out) is None:
            return None
        # What "before" belongs to: the starting point, the images, the names and how they are evaluated.
        sets = [coco.digest() for coco in (data.val, data.held_out) if coco is not None]
        how = [training.eval_max_detections, dict(processor.size), model.config.nms_iou]
        fields = [options.set, deployed.names, data.novel]
        return ForgettingReport(
            training.output_dir,
            data.annotated_names,
            options.held_out_data or options.val_annotations or options.data,
            digest(start, sets, how, fields),
            main=training.process_index == 0,
        )

    def _doubts(self, state, metrics, situation, forgetting):
        pairs = forgetting.pairs() if forgetting else {}
        return doubts(state.log_history, metrics, situation, pairs, self.given, state.global_step)

    def _report(self, result):
        for doubt in result.doubts:
            logger.warning("This run has not learned what it should: %s", doubt)
        card = write_card(result)
        logger.warning("%s is the trained model; %s describes it", result.output_dir, card)


def _held_out(data: TrainingData, processor, deployed: Vocabulary):
    """The data of held-out names that the model has, or None."""
    if data.held_out is None:
        return None
    known = set(deployed.names)
    coco = data.held_out.select([name for name in data.held_out.names if name in known])
    return DetectionDataset(coco, processor, deployed.names, skip_unknown_names=True)


def _measure(trainer, forgetting, held_out, prefix, metrics=None):
    """AP of trained and of held-out names, in percent. `metrics` of the validation data, if they are known."""
    if trainer.eval_dataset is not None and metrics is None:
        metrics = trainer.evaluate(metric_key_prefix=prefix)
    of_held_out = None
    if held_out is not None:
        with trainer.other_data(forgetting.groups):
            of_held_out = trainer.evaluate(held_out, metric_key_prefix=f"{prefix}-held-out")
    return forgetting.measured(metrics, of_held_out)


def _evaluate(trainer):
    """Evaluate the trained model on its validation data: (metrics, what its scores are worth or None)."""
    metrics, scores = trainer.evaluate(), None
    if trainer.names_learned:
        analysis = Analysis(trainer.evaluated.by_name)
        metrics["eval_best_threshold"] = 1.0 if analysis.threshold is None else analysis.threshold  # numbers alone
        scores = before_and_after(analysis, trainer.model.config)
    _save_metrics(trainer, "eval", metrics)
    return metrics, scores


def _machine(device, processes):
    """What a run ran on, for its card."""
    name = machine_name(device)
    return f"{name}, {processes} processes" if processes > 1 else name


def _save_metrics(trainer, part, metrics):
    trainer.log_metrics(part, metrics)
    trainer.save_metrics(part, metrics)


def main(argv: list[str] | None = None) -> int:
    """`decodetr train` with these words, or those of this process. Returns the exit code."""
    return run_command("train", argv)
