"""A trainer over streamed data, what it is given, and what each of two processes does with it."""

import json
from pathlib import Path

import torch

from decodetr import DeCoDetrTrainer, DeCoDetrTrainingArguments
from helpers.data_forms import NAMES
from helpers.streamed_data import PROCESSOR, rows_of, stream_of, streamed
from helpers.tiny_models import tiny_model


def trainer_of(output, dataset, **args):
    torch.manual_seed(0)
    defaults = {"max_steps": 4, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no"}
    defaults |= {"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}
    arguments = DeCoDetrTrainingArguments(output_dir=str(output), **{**defaults, **args})
    return DeCoDetrTrainer(tiny_model(names=NAMES), arguments, dataset, processing_class=PROCESSOR)


def record_batches(trainer):
    """What the model is given: a list of [image id, boxes, sum of the pixels] per image, filled in training."""
    seen, compute = [], trainer.compute_loss

    def spy(model, inputs, **kwargs):
        for pixels, label in zip(inputs["pixel_values"], inputs["labels"], strict=True):
            seen.append([int(label["image_id"]), label["boxes"].tolist(), pixels.double().sum().item()])
        return compute(model, inputs, **kwargs)

    trainer.compute_loss = spy
    return seen


def train_one_of_two(folder):
    """What each of two processes does: an epoch over 8 images, recorded, without and with a worker."""
    for workers in (0, 1):
        dataset = streamed(stream_of(rows_of(8), 4), shuffle_buffer=3)
        trainer = trainer_of(Path(folder) / "run", dataset, max_steps=2, dataloader_num_workers=workers)
        seen = record_batches(trainer)
        trainer.train()
        assert trainer.args.world_size == 2
        (Path(folder) / f"{trainer.args.process_index} {workers}.json").write_text(json.dumps(seen))
