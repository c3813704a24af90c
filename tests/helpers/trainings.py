"""A tiny model, data and a trainer over drawn scenes with the stand-in's artifacts; and `decodetr train` on them."""

import json

import torch
import yaml

from decodetr import (
    DeCoDetrForObjectDetection,
    DeCoDetrImageProcessor,
    DeCoDetrTrainer,
    DeCoDetrTrainingArguments,
    PrototypePool,
    Vocabulary,
)
from decodetr.processing import CocoAnnotations, DetectionAugmentation, DetectionDataset, RegionTable
from helpers.tiny_models import tiny_config


def make_parts(scenes, augment=True):
    """Model with the stand-in's tables, train and validation data, processor, deployment vocabulary."""
    torch.manual_seed(0)
    model = DeCoDetrForObjectDetection(tiny_config())
    model.set_pool(
        PrototypePool.from_pretrained(scenes / "standin/pool"),
        Vocabulary.from_pretrained(scenes / "standin/vocabulary-base"),
    )
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    coco = CocoAnnotations.load(scenes / "annotations/train.json")
    train = DetectionDataset(
        coco,
        processor,
        model.vocabulary.names,
        regions=RegionTable.load(scenes / "standin/regions"),
        augmentation=DetectionAugmentation(seed=0) if augment else None,
    )
    deployed = Vocabulary.from_pretrained(scenes / "standin/vocabulary")
    val = DetectionDataset(CocoAnnotations.load(scenes / "annotations/val.json"), processor, deployed.names)
    return model, train, val, processor, deployed


def make_trainer(scenes, output, augment=True, config=None, **args):
    model, train, val, processor, deployed = make_parts(scenes, augment)
    for name, value in (config or {}).items():
        setattr(model.config, name, value)
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 2,
        "dataloader_pin_memory": False,
        "eval_pictures": 1,
    }
    return DeCoDetrTrainer(
        model,
        DeCoDetrTrainingArguments(output_dir=str(output), **{**defaults, **args}),
        train,
        eval_dataset=val,
        processing_class=processor,
        deployment_vocabulary=deployed,
        novel_names=deployed.names[-20:],
    )


def state_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_command(scenes, output, *more):
    config = tiny_config(num_coarse_prototypes=180, num_fine_prototypes=360)
    fields = {
        key: value
        for key, value in config.to_diff_dict().items()
        if key not in ("id2label", "label2id", "architectures", "transformers_version", "model_type")
    }
    fields["detector_config"] = config.detector_config.to_dict()
    file = output.parent / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps(fields, default=str))))
    standin = scenes / "standin"
    return [
        "train", "--data", str(scenes), "--output_dir", str(output), "--config", str(file), "--image-size", "64",
        "--pool", str(standin / "pool"), "--vocabulary", str(standin / "vocabulary-base"),
        "--deploy-vocabulary", str(standin / "vocabulary"), "--regions", str(standin / "regions"),
        "--per_device_train_batch_size", "4", "--report_to", "none",
        "--use_cpu", "true", "--dataloader_pin_memory", "false", "--eval_pictures", "1", *more,
    ]  # fmt: skip
