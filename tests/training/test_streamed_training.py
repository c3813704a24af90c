"""DeCoDetrTrainer and `decodetr train` on streamed data: resumed, on two processes, and what is refused."""

import json

import datasets
import pytest
import torch
from helpers.data_forms import NAMES
from helpers.processes import run_pair
from helpers.streamed_data import PROCESSOR, data_of, rows_of, stream_of, streamed
from helpers.streamed_training import record_batches, train_one_of_two, trainer_of
from helpers.tiny_models import tiny_model
from torch.utils.data import IterableDataset

from decodetr import DeCoDetrForObjectDetection
from decodetr.annotations.hub_dataset import read_dataset
from decodetr.cli import main
from decodetr.processing import DetectionAugmentation, DetectionDataset


@pytest.mark.parametrize(
    "args, message",
    [
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True would give images the labels of"),
        ({"max_steps": -1}, "streamed training data have no length: give the number of steps, --max-steps"),
        ({"streams": "semantic", "cache_features": True}, "cache_features keeps features of all images"),
    ],
)
def test_arguments_that_do_not_go_with_streams(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, streamed(stream_of(rows_of(2))), **args)


def test_other_iterable_data_with_a_length(tmp_path):
    items = list(streamed(stream_of(rows_of(5)), shuffle_buffer=0))
    with pytest.raises(ValueError, match="give the number of steps"):
        trainer_of(tmp_path, IterableOnly(items), max_steps=-1)
    trainer = trainer_of(tmp_path, IterableWithLength(items), max_steps=-1, num_train_epochs=1)
    seen = record_batches(trainer)
    assert trainer.train().global_step == 3 and trainer.args.accelerator_config.dispatch_batches is False
    assert [image_id for image_id, *_ in seen] == [100, 101, 102, 103, 104]


class IterableOnly(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class IterableWithLength(IterableOnly):
    def __len__(self):
        return len(self.items)


@pytest.mark.parametrize("stopped, steps, workers, accumulation", [(1, 3, 0, 2), (4, 5, 2, 1)])
def test_resume_ends_where_the_uninterrupted_run_ends(tmp_path, stopped, steps, workers, accumulation):
    """Of 7 images in batches of 2: in the middle of the first epoch, and of the second."""
    args = {"max_steps": steps, "save_strategy": "steps", "save_steps": stopped, "learning_rate": 1e-3}
    args |= {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}

    def run(output, **resume):
        dataset = streamed(stream_of(rows_of(7), 2), shuffle_buffer=3, augmentation=DetectionAugmentation(0))
        trainer = trainer_of(output, dataset, **args)
        seen, make = record_batches(trainer), dataset.make_item
        dataset.make_item = lambda *arguments: made.append(arguments[1]) or make(*arguments)
        trainer.train(**resume)
        assert trainer.state.global_step == steps and not dataset.endless
        return seen, {name: value.clone() for name, value in trainer.model.state_dict().items()}

    made = []
    seen, whole = run(tmp_path / "whole")
    made.clear()
    resumed_seen, resumed = run(
        tmp_path / "other", resume_from_checkpoint=str(tmp_path / f"whole/checkpoint-{stopped}")
    )
    assert len(seen) == 2 * steps * accumulation and resumed_seen == seen[2 * stopped * accumulation :]
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
    if not workers:
        assert len({image_id for image_id, *_ in seen[:7]}) == 7
        assert len(made) == len(resumed_seen) + 2  # nothing of what it passed over, and Accelerate's batch ahead


def test_two_processes_see_every_image_once_with_its_own_labels(tmp_path):
    run_pair(train_one_of_two, tmp_path)
    whole = DetectionDataset(read_dataset(data_of(rows_of(8)), "mine"), PROCESSOR, NAMES)
    expected = {
        100 + i: [100 + i, whole[i]["labels"]["boxes"].tolist(), whole[i]["pixel_values"].double().sum().item()]
        for i in range(8)
    }
    for workers in (0, 1):
        found = [json.loads((tmp_path / f"{rank} {workers}.json").read_text()) for rank in (0, 1)]
        assert [len(seen) for seen in found] == [4, 4]
        assert {row[0]: row for seen in found for row in seen} == expected


def test_command_trains_on_a_stream(tmp_path, capsys):
    datasets.DatasetDict({"train": data_of(rows_of(9)), "validation": data_of(rows_of(3, seed=1))}).save_to_disk(
        tmp_path / "data"
    )
    (tmp_path / "names.json").write_text(json.dumps({"base": {"0": NAMES[0]}, "novel": {"1": NAMES[1]}}))
    tiny_model(names=NAMES).save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    words = ["train", "--data", tmp_path / "data", "--model", tmp_path / "model", "--output_dir", tmp_path / "run"]
    words += ["--names-split", tmp_path / "names.json", "--per_device_train_batch_size", "2", "--report_to", "none"]
    words += ["--use_cpu", "true", "--dataloader_pin_memory", "false", "--streaming"]
    words = [str(word) for word in words]
    assert main([*words, "--shuffle-buffer", "4", "--max_steps", "2"]) == 0, capsys.readouterr().err
    assert "eval_AP50_novel" in json.loads((tmp_path / "run/eval_results.json").read_text())
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "run")
    assert model.vocabulary.names == NAMES and model.config.training_info["training_names"] == NAMES[:1]
    capsys.readouterr()
    assert main(words) == 1
    assert "--max-steps N" in capsys.readouterr().err
    for more in (["--train-annotations", "x.json"], ["--replay-data", "x", "--replay-regions", "y"]):
        assert main([*words, "--max_steps", "2", *more]) == 1
        assert "leave out --streaming" in capsys.readouterr().err
