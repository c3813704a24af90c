"""What each of two processes does in training/test_train_distributed.py: RUNS of the trainer, in turn, and what came
out into a folder. The tests do the same in one process with twice the batch.

Weights are compared, so Adam has a large epsilon (else it makes a whole step of any rounding of a gradient that should
be zero), dropout is off, and the family has no batch norm that learns.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainer, DeCoDetrTrainingArguments
from decodetr.processing import DetectionDataset
from helpers.tiny_models import tiny_config
from helpers.trainings import make_parts, make_trainer

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
FSDP = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["DetrDecoderLayer"]}}
# Samples are projected, so that the weights that read them are kept in the span.
CACHED = {"streams": "semantic", "cache_features": True, "cache_query_bytes": 260}
_SAVED = {"save_strategy": "steps", "save_steps": 2}
# name: (arguments, whether the second half of each batch has no boxes and no regions)
RUNS = {
    "ddp": ({"ema_decay": 0.9}, False),
    "ddp, nothing on rank 1": ({}, True),
    "ddp, checkpointing": ({"gradient_checkpointing": True, "ema_decay": 0.9}, False),
    "fsdp": ({**FSDP, "ema_decay": 0.9, **_SAVED}, False),
    "ddp, cached": (CACHED, False),
    "fsdp, cached": ({**FSDP, **CACHED}, False),
}


class Halved(torch.utils.data.Dataset):
    """Items of which the third and fourth of every four have neither boxes nor regions."""

    def __init__(self, dataset):
        self.items = [dataset[i] for i in range(len(dataset))]
        for i, item in enumerate(self.items):
            if i % 4 >= 2:
                labels = item["labels"]
                empty = {key: labels[key][:0] for key in labels if key not in ("image_id", "orig_size")}
                item["labels"] = {**labels, **empty}

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def trainer(scenes, output, name, batch, single=False, pretend=True):
    """The trainer of a run; `single` leaves out what needs several processes."""
    model, train, val, processor, deployed = make_parts(scenes, augment=False)
    pool, vocabulary = model.prototype_pool, model.vocabulary
    torch.manual_seed(0)
    model = DeCoDetrForObjectDetection(tiny_config("detr", detector=NO_DROPOUT, pool_update="literal"))
    model.set_pool(pool, vocabulary)
    options, empty = RUNS[name]
    options = {key: value for key, value in options.items() if not (single and key.startswith("fsdp"))}
    arguments = DeCoDetrTrainingArguments(
        output_dir=str(output),
        **{"max_steps": 4, "save_strategy": "no", "logging_steps": 1, "report_to": "none", **options},
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=2,
        learning_rate=1e-2,
        adam_epsilon=0.1,
        max_grad_norm=0.5,
        semantic_max_grad_norm=0.5,
        train_sampling_strategy="sequential",
        eval_pictures=4,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    if arguments.fsdp and pretend:
        pretend_gpus(arguments)
    return DeCoDetrTrainer(
        model,
        arguments,
        Halved(train) if empty else train,
        eval_dataset=val,
        processing_class=processor,
        deployment_vocabulary=deployed,
        novel_names=deployed.names[-20:],
    )


def pretend_gpus(arguments):
    """Accelerate 1.15 has no FSDP for CPU processes, though torch has: it looks at this word alone."""
    assert arguments.device.type == "cpu"  # and so the arguments have set up the state
    AcceleratorState._reset_state()
    PartialState().distributed_type = DistributedType.MULTI_GPU


def run(scenes, output, name, batch, single=False):
    """Train, evaluate, save to OUTPUT; returns (trainer, metrics)."""
    trained = trainer(scenes, output, name, batch, single)
    assert ("cached" in name) == (getattr(trained.train_dataset, "coding", None) is not None)
    trained.train()
    metrics = trained.evaluate()
    trained.save_model()
    return trained, metrics


def main(scenes, folder, *names):
    torch.set_num_threads(1)
    for name in names or RUNS:
        output = Path(folder) / name
        trained, metrics = run(Path(scenes), output, name, batch=2)
        assert trained.accelerator.num_processes == 2
        kind = str(trained.accelerator.distributed_type)
        found = {"metrics": metrics, "logs": trained.state.log_history, "kind": kind}
        if name == "fsdp":
            resumed = trainer(Path(scenes), Path(folder) / "resumed", name, batch=2)
            resumed.train(str(output / "checkpoint-2"))
            resumed.save_model()
            kinds = {type(parameter).__name__ for parameter in resumed.model.parameters()}
            assert kinds == {"DTensor"}, kinds
            try:
                trainer(Path(scenes), Path(folder) / "refused", name, batch=2, pretend=False)
            except ValueError as error:
                found["refused"] = str(error)
        torch.save(found, Path(folder) / f"{name} {os.environ['RANK']}.pt")


def learning_batch_norms(scenes, folder):
    """Train a family whose batch norms learn, with evaluations, the best model at the end, and a padded last batch.
    What each process has goes to FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trained = make_trainer(
        Path(scenes),
        Path(folder) / "run",
        **often,
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=3,
        load_best_model_at_end=True,
        metric_for_best_model="class_agnostic_AR100",
    )
    drifted, sharing = [], trained._maybe_log_save_evaluate
    trained._maybe_log_save_evaluate = lambda *args, **kw: (drifted.append(_statistics(trained)), sharing(*args, **kw))
    trained.train()
    logs = [entry for entry in trained.state.log_history if "eval_AP" in entry]
    best = trained.state.best_metric, trained.state.best_model_checkpoint
    # A user's own evaluation, and what its detections are, after steps that nothing has shared.
    trained.model.train()
    trained.model(**trained._prepare_inputs(next(iter(trained.get_train_dataloader()))))
    predicted = trained.predict(trained.eval_dataset)
    found = {"logs": logs, "best": best, "drifted": drifted, "statistics": _statistics(trained)}
    found |= {"metrics": predicted.metrics, "scores": [row["scores"] for row in predicted.predictions]}
    torch.save(found, Path(folder) / f"{os.environ['RANK']}.pt")


def short_of_boxes_and_images(scenes, folder):
    """With a family that gives no denoising terms for a batch without boxes: evaluate and predict fewer images than a
    batch has, then train where the second process sees no box. What each process has goes to FOLDER/RANK.pt."""
    torch.set_num_threads(1)
    trained = make_trainer(
        Path(scenes),
        Path(folder) / "run",
        augment=False,
        max_steps=2,
        logging_steps=1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=8,
        train_sampling_strategy="sequential",
    )
    few, terms = few_images(trained), []
    found = {"metrics": trained.evaluate(few), "rows": trained.predict(few).predictions}
    trained.train_dataset = Halved(trained.train_dataset)
    trained.model.register_forward_hook(lambda model, args, outputs: terms.append(outputs.loss_dict))
    trained.train()
    terms = [{name: float(term) for name, term in of_step.items()} for of_step in terms]
    logs = [entry for entry in trained.state.log_history if "loss_det" in entry]
    torch.save({**found, "terms": terms, "logs": logs}, Path(folder) / f"{os.environ['RANK']}.pt")


def few_images(trained):
    """The first three of a trainer's validation images, as a data set."""
    val = trained.eval_dataset
    coco = val.coco.select_images([image["image_id"] for image in val.coco.images[:3]])
    return DetectionDataset(coco, trained.processing_class, val.names)


def _statistics(trained):
    named = trained.model.named_buffers()
    return {name: buffer.clone() for name, buffer in named if name.endswith(("running_mean", "running_var"))}


if __name__ == "__main__":
    main(*sys.argv[1:])
