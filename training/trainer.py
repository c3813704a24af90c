"""DeCoDetrTrainer: `transformers.Trainer`, and what training DeCo-DETR needs besides (docs/architecture.md).

It adds lambda_align(t) (paper 3.2), parameter groups and gradient clipping per stream, so that isolation is exact,
the momentum step of the pool after each optimizer step (paper 3.4, 3.5), every loss term in the log,
streaming evaluation, and the swap between training names and deployment names.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm
from transformers import set_seed
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput

from decodetr.evaluation.output_evaluator import OutputEvaluator, results_of, rules_of
from decodetr.processing import detection_collate
from decodetr.processing.streamed_dataset import StreamedDetectionDataset
from decodetr.training.callbacks import PoolMomentum, chosen_callbacks
from decodetr.training.checks.pairs import CAPTIONS_NEED
from decodetr.training.checks.trainer_data import check_before_training, check_evaluated, check_names
from decodetr.training.data import dataloading
from decodetr.training.features.feature_cache import FeatureCache, cache_of_run, feature_collate
from decodetr.training.fsdp import check_sharded, keep_class_name, load_weights, total_norm
from decodetr.training.loss_terms import LossTerms
from decodetr.training.options import fields
from decodetr.training.options.arguments import ALIGN_SHAPES, DeCoDetrTrainingArguments
from decodetr.training.planning import memory
from decodetr.training.results import checkpoints
from decodetr.training.results.hub import PushingTrainer
from decodetr.training.results.identity import run_identity, settings_identity
from decodetr.training.results.loggers import PoolMaps, TensorBoardFolder
from decodetr.training.results.pictures import EvaluationPictures, write_sheet
from decodetr.training.results.predictions import KeptPredictions
from decodetr.training.running_statistics import share_statistics
from decodetr.training.searching import SearchingTrainer
from decodetr.training.start.timm_backbone import freeze_backbone, keep_frozen
from decodetr.training.streams import freeze_other, frozen, learning, parameter_groups, set_learning, stream_of

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection, DeCoDetrObjectDetectionOutput, Vocabulary
    from decodetr.training.ema import WeightAverage

logger = logging.getLogger(__name__)


class DeCoDetrTrainer(SearchingTrainer, PushingTrainer, dataloading.LoadingTrainer):
    """
    Trainer of [`DeCoDetrForObjectDetection`].

    Args:
        model: its vocabulary holds the training names.
        args ([`DeCoDetrTrainingArguments`]): what training does.
        train_dataset, eval_dataset ([`DetectionDataset`]): `class_labels` of training data index the training names.
            With `cache_features`, `train_dataset` may also be a [`FeatureCache`] of the same detector and names.
        processing_class ([`DeCoDetrImageProcessor`]): post-processes detections in evaluation and is saved with
            the model.
        deployment_vocabulary ([`Vocabulary`], *optional*): the names of evaluation and of the saved model. Default:
            the training names.
        novel_names (`list[str]`, *optional*): splits the evaluation into novel and base.
        groups (*optional*): function of annotations and the model's names that gives the `groups` of the evaluator.
        model_init (*optional*): function that makes the model, instead of `model`: called once here and at each
            `train`, as in a search for hyper-parameters. The detector must always be the same with `cache_features`.
        start (*optional*): what the model's weights are, as JSON: a checkpoint belongs to runs of the same start.
        names_learned (`bool`): False where the semantic stream has random weights that this run does not train:
            evaluation then says nothing of names.
        kwargs: of `transformers.Trainer`.

    Raises:
        ValueError: arguments that mean nothing in detection, or do not go together.
    """

    model: "DeCoDetrForObjectDetection"
    args: DeCoDetrTrainingArguments
    data_collator: Callable[[list], dict[str, Any]]
    resumed_from: str | None
    weight_average: "WeightAverage | None"
    _predicted: KeptPredictions | None

    def __init__(
        self,
        model: "DeCoDetrForObjectDetection | None" = None,
        args: DeCoDetrTrainingArguments | None = None,
        train_dataset: "Dataset | None" = None,
        *,
        model_init: "Callable[..., DeCoDetrForObjectDetection] | None" = None,
        start: object = None,
        names_learned: bool = True,
        deployment_vocabulary: "Vocabulary | None" = None,
        novel_names: list[str] | None = None,
        groups: "Callable[[CocoAnnotations, list[str]], dict[str, list[str]]] | None" = None,
        data_collator: Callable[[list], dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        args = DeCoDetrTrainingArguments(output_dir="tmp_trainer") if args is None else args
        fields.check_arguments(args, model, model_init, kwargs)
        dataloading.check_loading(args, train_dataset)
        self.args, self.train_dataset = args, None
        if model is None:
            set_seed(args.seed)
            self.model_init = model_init
            model = fields.accepted(super().call_model_init())
        check_names(train_dataset, model.vocabulary.names)
        if train_dataset is not None:  # else it is evaluated alone
            fields.check_weights(model)
        self.training_vocabulary = model.vocabulary
        self.deployment_vocabulary = deployment_vocabulary
        self.novel_names, self.groups, self.names_learned = novel_names, groups, names_learned
        self.weight_average = self.resumed_from = self._predicted = None
        self._frozen = []
        self._model_class = type(model)  # FSDP changes it
        self._prepare(model)
        self._identity = run_identity(args, model, train_dataset, start, deployment_vocabulary)
        collate = self._train_collate = data_collator or detection_collate
        if args.cache_features and train_dataset is not None:
            if isinstance(train_dataset, FeatureCache):
                train_dataset.check(model)
            else:
                train_dataset = cache_of_run(model, train_dataset, collate, args)
            self._train_collate = feature_collate
        coding = train_dataset.coding if isinstance(train_dataset, FeatureCache) else None
        self._coding = None if coding is None else coding.to(args.device)
        if isinstance(train_dataset, StreamedDetectionDataset):
            self._train_collate = partial(dataloading.collate_or_skip, self._train_collate)
        super().__init__(model, args, data_collator=collate, train_dataset=train_dataset, **kwargs)
        check_sharded(self)
        # forward takes **kwargs for the detector, not a batch-wide item count: let the Trainer average micro-batches.
        self.model_accepts_loss_kwargs = False
        self._loss_terms = LossTerms()
        self._pool_sums = self._parameters = None
        self._align_weight: float | None = None
        self._pool_momentum = PoolMomentum(self)
        for callback in (self._pool_momentum, *chosen_callbacks(self, self._coding)):
            self.add_callback(callback)
        self.callback_handler.callbacks[:0] = [TensorBoardFolder(self), PoolMaps(self)]
        if isinstance(train_dataset, StreamedDetectionDataset):
            self.add_callback(dataloading.StreamedTraining(train_dataset))
        if model_init is not None:
            self.model_init = model_init

    def _prepare(self, model):
        """Freeze what does not learn."""
        args = self.args
        if args.gradient_checkpointing or getattr(args, "activation_checkpointing", False):
            memory.check_checkpointing(model.detector)
        learned = learning(model)
        freeze_other(model, args.streams)
        if args.freeze_backbone:
            freeze_backbone(model.detector)
        # Into the same list: `train` frees what it has at the end, of a model that `model_init` made meanwhile too.
        self._frozen[:] = [parameter for parameter in learned if not parameter.requires_grad]

    def call_model_init(self, trial: Any = None) -> "DeCoDetrForObjectDetection":
        """A new model by `model_init`, with the names and frozen parts of this run."""
        model = fields.accepted(super().call_model_init(trial))
        set_learning(self._frozen, True)  # of the model before, which may be this one
        fields.check_weights(model)
        self._prepare(model)
        if isinstance(self.train_dataset, FeatureCache):
            self.train_dataset.check(model)
        self.training_vocabulary = model.vocabulary
        self._pool_momentum.start(model)
        return model

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train. Afterwards the model has the averaged weights, if there is an average.

        Args:
            resume_from_checkpoint: a folder, "last", "auto" or None (what the arguments say): `checkpoints.to_resume`.
            args, kwargs: of `transformers.Trainer.train`.

        Raises:
            OutOfMemory: with advice. ValueError: the checkpoint, or what `output_dir` has, is of another run. An
                evaluation lacks names or the metric that is asked for.
        """
        check_before_training(self)
        word = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        self.resumed_from = self.checkpoint_to_resume(word)
        checkpoints.begun()
        had = 0 if self.resumed_from is None else checkpoints.step_of(self.resumed_from)
        with frozen(self._frozen), memory.advice(self, "training"):
            result = super().train(self.resumed_from, *args, **kwargs)
            share_statistics(self)
        if self.state.global_step == had:
            logger.warning(
                "%s has %d steps already, all that max_steps or num_train_epochs ask for: no step was trained; larger "
                "ones go on.",
                self.resumed_from or "a new run",
                had,
            )
        if self.weight_average is not None:
            self.weight_average.adopt()
            self.weight_average = None
        return result

    def identity(self) -> dict[str, Any]:
        """What tells this run from another (`training.results.identity`), with the arguments as they are now."""
        return self._identity | settings_identity(self.args)

    def checkpoint_to_resume(self, word: str | bool | None) -> str | None:
        """The checkpoint folder that "last", "auto", a folder or None stands for, None for the beginning. See
        `checkpoints.to_resume`. Checkpoints of other runs are removed with `overwrite_output_dir`."""
        args, run = self.args, self.identity()
        folder = checkpoints.to_resume(word, args.output_dir, run, args.overwrite_output_dir)
        if args.overwrite_output_dir:
            if args.should_save:
                checkpoints.remove_strange(args.output_dir, None if folder is None else run)
            self.accelerator.wait_for_everyone()
        return folder

    def _run_epoch(self, *, epoch, train_dataloader, **kwargs):
        # Resumed at its end: the library would take one step more.
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        dataloading.set_epoch(train_dataloader, epoch)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    # Data

    def get_train_dataloader(self) -> "DataLoader":
        """The train loader. Cached features have a separate collate function."""
        eval_collate, self.data_collator = self.data_collator, self._train_collate
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = eval_collate

    @contextlib.contextmanager
    def other_data(
        self, groups: "Callable[[CocoAnnotations, list[str]], dict[str, list[str]]] | None" = None
    ) -> Iterator[None]:
        """Inside, data that are not the run's own are evaluated: without its novel names, by other `groups`."""
        before = self.novel_names, self.groups
        self.novel_names, self.groups = None, groups
        self.forget_eval_loader()
        try:
            yield
        finally:
            self.novel_names, self.groups = before
            self.forget_eval_loader()

    def forget_eval_loader(self) -> None:
        """With persistent workers the Trainer keeps one loader for whatever data set is evaluated."""
        getattr(self, "_eval_dataloaders", {}).pop("eval", None)

    # Loss

    def align_weight(self) -> float:
        """lambda_align(t) of paper 3.2 at the current step, from start to end: half a cosine, or another shape."""
        start, end = self.args.align_weight_start, self.args.align_weight_end
        if end is None:
            end = self.model.config.align_weight
        progress = min(self.state.global_step / max(self.state.max_steps - 1, 1), 1.0)
        return end + (start - end) * ALIGN_SHAPES[self.args.align_weight_shape](progress)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> "torch.Tensor | tuple[torch.Tensor, DeCoDetrObjectDetectionOutput]":
        """L_det + lambda_KL L_distill + lambda_align(t) L_align of the chosen streams (paper 3.1)."""
        bare = self.model  # what `model` wraps on several processes
        if self.args.streams == "semantic":
            if bare.detector.training and "labels" in inputs:
                bare.detector.eval()  # Trainer calls model.train(). What is frozen keeps its statistics
        elif self.args.freeze_backbone:
            keep_frozen(bare.detector)
        if self._coding is not None and "semantic_features" in inputs:
            inputs = {**inputs, "semantic_features": self._coding.read(inputs["semantic_features"])}
        localization_only = self.args.streams == "localization"
        outputs = model(**inputs, localization_only=localization_only, losses_only=not return_outputs)
        terms = dict(outputs.loss_dict)
        loss = 0.0
        if self.args.streams != "semantic":
            loss = loss + terms["loss_det"]
        if self.args.streams != "localization":
            loss = loss + bare.config.distill_weight * terms["loss_distill"]
            self._align_weight = self.align_weight()  # for the log, which comes after the step was counted
            loss = loss + self._align_weight * terms["loss_align"]
            self._collect_text_embeds(bare, inputs)
        self._loss_terms.add(terms)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of every loss term since the last log, lambda_align and the pool's mean cosine."""
        if "loss" in logs and (means := self._loss_terms.means(gather_object)):
            logs.update(means)
            if self._align_weight is not None:
                logs["align_weight"] = self._align_weight
            model = self.model
            if self.args.streams != "localization" and model.config.pool_update != "frozen":
                logs["pool_mean_cosine"] = model.prototype_pool.mean_cosine()
            self._loss_terms.clear()
        super().log(logs, start_time)

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with groups for backbone, rest of the detector and semantic stream, each with and without weight
        decay."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        groups = parameter_groups(model, decayed, self.args)
        cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer: torch.optim.Optimizer | None = cls(groups, **kwargs)
        return self.optimizer

    def _clip_grad_norm(self, model):
        # One norm over both streams would let the gradient of one scale the steps of the other.
        self.accelerator.unscale_gradients()
        if self._parameters is None:  # found once: the walk takes longer than parts of a step over cached features
            self._parameters = {False: [], True: []}
            for name, p in self.model.named_parameters():
                self._parameters[stream_of(name) == "semantic"].append(p)
        norms = []
        for semantic, limit in ((False, self.args.max_grad_norm), (True, self.args.semantic_max_grad_norm)):
            parameters = [p for p in self._parameters[semantic] if p.grad is not None]
            if parameters:
                norms.append(nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf")))
        return total_norm(norms)

    # Pool

    def _collect_text_embeds(self, model, inputs):
        if model.config.pool_update == "frozen":
            if any("caption_embeds" in label for label in inputs.get("labels", ())):
                raise ValueError(f"caption_embeds in the labels: {CAPTIONS_NEED}")
            return
        source = inputs["semantic_features"] if "semantic_features" in inputs else None
        labels = [source] if source is not None else inputs["labels"]
        names = ("region_text_embeds", "caption_embeds")
        embeds = [label[name] for label in labels for name in names if name in label]
        device, d = model.prototype_pool.prototypes.device, model.config.embedding_dim
        embeds = torch.cat([*embeds, torch.zeros(0, d, device=device)])
        sums = model.prototype_pool.assignment_sums(embeds, model.tables().scales.teacher_temperature)
        self._pool_sums = sums if self._pool_sums is None else self._pool_sums + sums

    def forget_sums(self) -> None:
        """Forget what a step that failed has collected: `auto_find_batch_size` starts again after it."""
        self._pool_sums = self._parameters = None
        self._loss_terms.clear()

    def step_pool(self) -> None:
        """Apply the momentum step to what was collected since the last one. All processes end with the same pool."""
        if self._pool_sums is None:
            return
        sums, self._pool_sums = self._pool_sums, None
        if self.accelerator.num_processes > 1:
            dist.all_reduce(sums)
        if sums.any():  # where no caption was seen, the rule would only shrink the prototypes
            self.model.update_prototypes(sums)

    # Vocabulary life cycle: training names in training, deployment names in evaluation and in everything that is saved

    @contextlib.contextmanager
    def deployed(self) -> "Iterator[DeCoDetrForObjectDetection]":
        """Inside, the model has the deployment names."""
        model = self.model
        if self.deployment_vocabulary is None:
            yield model
            return
        model.set_vocabulary(self.deployment_vocabulary)
        try:
            yield model
        finally:
            model.set_vocabulary(self.training_vocabulary)

    # Saving and loading

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has its averaged weights, if there is an average."""
        return self.weight_average.applied() if self.weight_average is not None else contextlib.nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model with its deployment names and, but in a checkpoint, its averaged weights."""
        checkpoint = output_dir if _internal_call else None
        if checkpoint is not None:
            share_statistics(self)  # a run that goes on from it has them everywhere
            if self.args.should_save:
                checkpoints.begin(checkpoint, self.identity())
            self.accelerator.wait_for_everyone()
        keep_class_name(self.model, self._model_class)
        with self.deployed(), self.averaged() if checkpoint is None else contextlib.nullcontext():
            super().save_model(output_dir, _internal_call=True)  # else the library's push
        if checkpoint is not None and self.weight_average is not None:
            self.weight_average.save(checkpoint, write=self.args.should_save)
        if not _internal_call:
            self.send("Model save")

    def _save_rng_state(self, output_dir):
        # The last files of a checkpoint before trainer_state.json. Every process writes one.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.mark(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        self._load_saved(resume_from_checkpoint)

    def _load_best_model(self):
        self._load_saved(self.state.best_model_checkpoint)
        if self.weight_average is not None:
            self.weight_average.load(self.state.best_model_checkpoint)

    def _load_saved(self, folder):
        # Through from_pretrained: save_pretrained renames weights of some detectors (o_proj is out_proj on disk), and
        # Trainer's own load_state_dict would leave those as they are without a word.
        with self.deployed() as model:
            load_weights(model, self._model_class.from_pretrained(folder).state_dict())

    # Evaluation

    def predict(self, test_dataset: "Dataset", *args: Any, **kwargs: Any) -> PredictionOutput:
        """
        Detect in a data set, and measure.

        Args:
            test_dataset (DetectionDataset). args, kwargs: of `transformers.Trainer.predict`.

        Returns:
            PredictionOutput: `predictions`, a list with a dict for each image, in the order of the data set:
            "image_id", "scores" (n,), "labels" (n,), which index `names`, "boxes" (n, 4) xyxy in pixels of the
            original image, "localization" (the same of the boxes alone, whatever their name), tensors on the CPU, and
            "names" of the deployment vocabulary; `label_ids`, as many dicts with "image_id", "class_labels", "boxes"
            (relative cx, cy, w, h) and "orig_size", and `metrics`, as of `evaluate`.
        """
        self._predicted = KeptPredictions()
        try:
            return super().predict(test_dataset, *args, **kwargs)
        finally:
            self._predicted = None

    def evaluation_loop(
        self,
        dataloader: "DataLoader",
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """AP of the deployment names, streamed: only the best detections of each image are kept, on the CPU."""
        dataset = dataloader.dataset
        check_evaluated(dataset, self.processing_class)
        of_run = metric_key_prefix.startswith("eval") and (self.is_in_train or self.state.global_step)
        pictures = EvaluationPictures(dataset.coco, self.args.eval_pictures if of_run else 0)
        with memory.advice(self, "evaluation"), self.averaged(), self.deployed() as model:
            rules = rules_of(dataset.coco, self.args.eval_max_detections)
            evaluator = OutputEvaluator(
                dataset.coco,
                model.vocabulary.names,
                self.novel_names,
                **rules,
                groups=self.groups(dataset.coco, model.vocabulary.names) if self.groups else None,
            )
            share_statistics(self)
            model.eval()
            silent = self.args.disable_tqdm or not self.is_world_process_zero()
            for batch in tqdm(dataloader, desc=description, unit="batch", disable=silent):
                batch = self._prepare_inputs(batch)
                labels = batch.pop("labels")
                with torch.no_grad(), self.compute_loss_context_manager():
                    outputs = model(**batch, min_score=0.0)  # AP counts the least score
                ids = [int(label["image_id"]) for label in labels]
                sizes = [tuple(label["orig_size"].tolist()) for label in labels]
                results = results_of(outputs, self.processing_class, sizes, rules["max_detections"])
                evaluator.update(ids, results)
                if self._predicted is not None:
                    self._predicted.update(ids, results, labels, model.vocabulary.names)
                pictures.update(ids, results if self.names_learned else [boxes["localization"] for boxes in results])
            for kept in (evaluator, pictures, self._predicted):
                if kept is not None and self.accelerator.num_processes > 1:
                    kept.merge(gather_object)
            names = model.vocabulary.names if self.names_learned else ["object"]
        if self.is_world_process_zero() and (sheet := pictures.sheet(names)) is not None:
            step, callbacks = self.state.global_step, self.callback_handler.callbacks
            write_sheet(sheet, self.args.output_dir, step, metric_key_prefix, callbacks)
        measured = evaluator.compute()
        self.evaluated = None if self.is_in_train else evaluator  # for who wants to know more than metrics
        if not self.names_learned:
            measured = {name: value for name, value in measured.items() if name.startswith("class_agnostic_")}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        found = truth = None
        if self._predicted is not None:
            found, truth = self._predicted.in_order([image["image_id"] for image in dataset.coco.images])
        return EvalLoopOutput(predictions=found, label_ids=truth, metrics=metrics, num_samples=len(dataset))
