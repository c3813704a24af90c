"""The trainers of `train_step.py`: one batch of drawn scenes, and what makes a step of it: the bare detector under
transformers' Trainer, or DeCoDetrTrainer in one of its modes, from the same weights."""

import copy

from decodetr.speed.catalog import OURS


def prepare(folder, args):
    """Scenes, stand-in teacher, model and data sets. What is in the folder already is read. Returns (model, augmented
    data set, plain data set)."""
    import torch
    from standin import write_standin

    from decodetr import DeCoDetrImageProcessor, PrototypePool, Vocabulary
    from decodetr.processing import CocoAnnotations, DetectionAugmentation, DetectionDataset, RegionTable
    from decodetr.scenes import SceneSettings, write_scenes

    torch.manual_seed(0)
    model = build(args)
    preset = dict(model.config.preprocessing or {})
    if args.image_size:
        preset["size"] = {"height": args.image_size, "width": args.image_size}
    processor = DeCoDetrImageProcessor(**preset)
    settings = SceneSettings(train=args.images, val=1, test=1, image_size=processor.size["height"])
    data, teacher = write_scenes(folder / "scenes", settings), folder / f"teacher-{model.config.embedding_dim}"
    if not teacher.exists():
        write_standin(data, teacher, dim=model.config.embedding_dim)
    coco = CocoAnnotations.load(data / "annotations" / "train.json")
    vocabulary = Vocabulary.from_pretrained(teacher / "vocabulary-base")
    # The pool keeps its size, which decides the time, but not where it came from: the stand-in's names are not its.
    pool = model.prototype_pool
    model.set_pool(PrototypePool(pool.prototypes, pool.level, pool.parent), vocabulary)
    parts = {"regions": RegionTable.load(teacher / "regions")}
    augmented = DetectionDataset(coco, processor, vocabulary.names, augmentation=DetectionAugmentation(0), **parts)
    return model, augmented, DetectionDataset(coco, processor, vocabulary.names, **parts)


def build(args):
    """The model of --model or --config."""
    from harness import read_config

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
    from decodetr.utils.shipped import resolve

    if args.model:
        return DeCoDetrForObjectDetection.from_pretrained(resolve(args.model))
    fields = {"detector_config": OURS[args.config].fields} if args.config in OURS else read_config(args.config)
    return DeCoDetrForObjectDetection(DeCoDetrConfig(**fields))


def training_arguments(cls, folder, args, **fields):
    """What all trainers of this benchmark have in common, as `cls`."""
    return cls(
        output_dir=str(folder / "run"),
        use_cpu=args.device == "cpu",
        bf16=args.bf16,
        per_device_train_batch_size=args.batch_size,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **fields,
    )


def make_trainer(model, dataset, folder, args, data_collator=None, **fields):
    """A DeCoDetrTrainer that is ready to step, with its weights not shared."""
    from decodetr import DeCoDetrTrainer, DeCoDetrTrainingArguments

    arguments = training_arguments(DeCoDetrTrainingArguments, folder, args, align_weight_start=1.0, **fields)
    return ready(DeCoDetrTrainer(copy.deepcopy(model), arguments, dataset, data_collator=data_collator))


def make_bare_trainer(model, folder, args):
    """transformers' Trainer of the detector alone, ready to step, with a copy of the model's weights and the rate,
    decay and clipping that DeCoDetrTrainer has."""
    from transformers import AutoModelForObjectDetection, Trainer, TrainingArguments

    from decodetr import DeCoDetrTrainingArguments

    ours = training_arguments(DeCoDetrTrainingArguments, folder, args)
    same = ("learning_rate", "weight_decay", "max_grad_norm", "optim", "remove_unused_columns")
    arguments = training_arguments(TrainingArguments, folder, args, **{name: getattr(ours, name) for name in same})
    # Built again: the hook in the model's own detector would keep its feature maps alive.
    detector = AutoModelForObjectDetection.from_config(copy.deepcopy(model.config.detector_config))
    detector.requires_grad_(True)  # as that of the model; constructors of the DETR family freeze a ResNet
    detector.load_state_dict(model.detector.state_dict())
    return ready(Trainer(detector, arguments))


def ready(trainer):
    """The trainer, as `Trainer.train` makes it ready for its first step."""
    trainer.model.to(trainer.args.device)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # what Trainer.train sets before its first step
    return trainer


def bare_batch(batch, model):
    """The same images and boxes as the bare detector takes them: one class, nothing of the semantic stream."""
    from decodetr.modeling_decodetr.detectors import class_labels_of_detector

    return {**batch, "labels": class_labels_of_detector(batch["labels"], model.config, model.vocabulary.names)}


def step(trainer, batch):
    """One optimizer step, as `Trainer.train` makes it."""
    trainer.training_step(trainer.model, batch)
    trainer._clip_grad_norm(trainer.model)
    trainer.optimizer.step()
    if hasattr(trainer, "step_pool"):
        trainer.step_pool()
    trainer.model.zero_grad()


def trainer_losses(trainer) -> dict:
    """Mean of the main loss terms over all steps: a mode that learned nothing, or something else, would show here."""
    kept = ("loss_det", "loss_distill", "loss_align")
    return {name: mean for name, mean in trainer._loss_terms.means().items() if name in kept}
