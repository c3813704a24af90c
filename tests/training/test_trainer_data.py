"""What DeCoDetrTrainer refuses before the first step, and what it gives back after the last."""

import pytest
import torch
from helpers.trainings import make_parts, make_trainer, same_state, state_of
from torch.utils.data import ConcatDataset, Subset
from transformers import TrainingArguments

from decodetr import DeCoDetrTrainer
from decodetr.processing import detection_collate


@pytest.mark.parametrize("wrap", [list, lambda data: Subset(data, [0]), lambda data: ConcatDataset([data, data])])
def test_labels_of_other_names_are_refused(scenes, tmp_path, wrap):
    model, train, *_ = make_parts(scenes)
    args = make_trainer(scenes, tmp_path).args
    data = train if wrap is list else wrap(train)
    trainer = DeCoDetrTrainer(model, args, data)
    names, train.names = list(train.names), sorted(train.names)[::-1]
    first = next(i for i, pair in enumerate(zip(train.names, names)) if pair[0] != pair[1])
    words = f"label {first} is '{train.names[first]}' and '{names[first]}' in the model"
    with pytest.raises(ValueError, match=words):
        DeCoDetrTrainer(model, args, data)
    with pytest.raises(ValueError, match=words):  # changed since
        trainer.train()
    train.names = names[:-1]
    with pytest.raises(ValueError, match=f"got {len(names) - 1}; label {len(names) - 1} is nothing and"):
        DeCoDetrTrainer(model, args, data)


def test_an_evaluation_that_cannot_be_made_is_refused_before_the_first_step(scenes, tmp_path):
    model, train, val, processor, _ = make_parts(scenes)
    args = make_trainer(scenes, tmp_path, eval_strategy="steps", eval_steps=1, max_steps=2).args
    for evaluated in (Subset(val, [0]), {"some": Subset(val, [0])}):
        trainer = DeCoDetrTrainer(model, args, train, eval_dataset=evaluated, processing_class=processor)
        with pytest.raises(ValueError, match="got Subset: give a DetectionDataset.* instead of Subset"):
            trainer.train()
        assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match="processing_class=image_processor"):
        DeCoDetrTrainer(model, args, train, eval_dataset=val).train()


def test_batches_that_one_process_would_cut_for_all_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="dispatch_batches=True would give images the labels of others"):
        make_trainer(scenes, tmp_path, accelerator_config={"dispatch_batches": True})
    assert make_trainer(scenes, tmp_path).args.accelerator_config.dispatch_batches is None


def test_dropping_the_last_batch_is_of_training_alone(scenes, tmp_path):
    _, train, val, *_ = make_parts(scenes)
    batch = len(val) + 1
    some = {"dataloader_drop_last": True, "per_device_train_batch_size": batch, "per_device_eval_batch_size": batch}
    trainer = make_trainer(scenes, tmp_path, **some)
    assert len(trainer.get_train_dataloader()) == len(train) // batch < len(train) / batch
    for loader in (trainer.get_eval_dataloader(), trainer.get_test_dataloader(val)):
        assert [len(labels["labels"]) for labels in loader] == [len(val)]
    assert trainer.args.dataloader_drop_last
    assert trainer.evaluate().keys() == make_trainer(scenes, tmp_path).evaluate().keys()
    assert len(trainer.predict(val).predictions) == len(val)


def test_full_batches_alone_of_data_without_one_are_refused_before_the_start(scenes, tmp_path):
    _, train, *_ = make_parts(scenes)
    batch, some = len(train) + 1, {"dataloader_drop_last": True, "max_steps": 1}
    words = (
        rf"--dataloader-drop-last true\) .* {len(train)} training images fill none of {batch} \(--batch-size {batch}\)"
        rf": no step .* --batch-size {len(train)} at most"
    )
    with pytest.raises(ValueError, match=words):
        make_trainer(scenes, tmp_path, per_device_train_batch_size=batch, **some)
    trainer = make_trainer(scenes, tmp_path, per_device_train_batch_size=len(train), **some)
    assert len(trainer.get_train_dataloader()) == 1
    make_trainer(scenes, tmp_path, per_device_train_batch_size=batch)  # where the rest of a batch is used


def test_a_run_of_no_steps_says_so_without_a_checkpoint(scenes, tmp_path, caplog):
    trainer = make_trainer(scenes, tmp_path, max_steps=-1, num_train_epochs=0)
    trainer.train()
    assert "a new run has 0 steps already" in caplog.text and "None has" not in caplog.text


@pytest.mark.parametrize(
    "metric, words",
    [
        (None, "eval_AP50: no metric of an evaluation during training; did you mean eval_a_AP50 or"),
        ("eval_c_AP50", "did you mean eval_a_AP50 or"),
        ("eval_b_AP5", "did you mean eval_b_AP.* or eval_b_AP50"),
        ("a_b_AP5", "did you mean eval_a_b_AP.* or eval_a_b_AP50"),
    ],
)
def test_a_metric_of_none_of_several_data_sets_is_refused_before_the_first_step(scenes, tmp_path, metric, words):
    trainer = _evaluating_several(scenes, tmp_path, metric)
    with pytest.raises(ValueError, match=words):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_metric_of_one_of_several_data_sets_chooses(scenes, tmp_path):
    trainer = _evaluating_several(scenes, tmp_path, "b_class_agnostic_AP50")
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    logged = [entry["eval_b_class_agnostic_AP50"] for entry in trainer.state.log_history if "eval_b_AP50" in entry]
    assert trainer.state.best_metric == logged[0] and "eval_a_b_AP50" in trainer.evaluate()


def _evaluating_several(scenes, output, metric):
    """A trainer of one step with three evaluated data sets, of which `metric` chooses the best checkpoint."""
    strategy = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = make_trainer(scenes, output, **strategy, load_best_model_at_end=True, metric_for_best_model=metric)
    trainer.novel_names = None
    trainer.eval_dataset = dict.fromkeys(("a", "b", "a_b"), trainer.eval_dataset)
    return trainer


def test_what_a_run_freezes_the_next_one_of_the_same_model_teaches(scenes, tmp_path):
    first = make_trainer(scenes, tmp_path, streams="localization", max_steps=1, freeze_backbone=True)
    model = first.model
    whole = {name: p.requires_grad for name, p in model.named_parameters()}
    before = state_of(model.semantic_stream)
    first.train()
    assert same_state(before, state_of(model.semantic_stream))
    first.train()  # and again, which freezes the same
    assert same_state(before, state_of(model.semantic_stream))
    assert all(p.requires_grad for p in model.semantic_stream.parameters()) and any(whole.values())
    args = make_trainer(scenes, tmp_path / "second", max_steps=1).args
    DeCoDetrTrainer(model, args, first.train_dataset, data_collator=detection_collate).train()
    assert not same_state(before, state_of(model.semantic_stream))


def test_a_model_of_which_nothing_learns_is_refused(scenes, tmp_path):
    model, train, *_ = make_parts(scenes)
    model.requires_grad_(False)
    trainer = DeCoDetrTrainer(model, make_trainer(scenes, tmp_path).args, train)
    with pytest.raises(ValueError, match=r"streams=joint, but no parameter .* model.requires_grad_\(True\)"):
        trainer.train()


def test_arguments_of_another_trainer_and_items_of_another_task_are_refused(scenes, tmp_path):
    model, train, *_ = make_parts(scenes)
    with pytest.raises(TypeError, match="expected DeCoDetrTrainingArguments, which have all fields of Training"):
        DeCoDetrTrainer(model, TrainingArguments(str(tmp_path)), train)
    with pytest.raises(ValueError, match=r"got \['image', 'objects'\] without \['labels', 'pixel_values'\]"):
        detection_collate([{"image": torch.zeros(1), "objects": {}}])


def test_an_evaluation_reads_all_queries(scenes, tmp_path, monkeypatch):
    """Also those that the model leaves out by itself, whose least score AP would count."""
    from decodetr.modeling_decodetr import certain_queries

    trainer = make_trainer(scenes, tmp_path)
    everything = trainer.predict(trainer.eval_dataset).predictions
    monkeypatch.setattr(certain_queries, "LEAST_QUERIES", 1)
    monkeypatch.setattr(certain_queries, "MIN_SCORE", 0.999)
    for all_of_it, found in zip(everything, trainer.predict(trainer.eval_dataset).predictions, strict=True):
        assert torch.equal(all_of_it["scores"], found["scores"]) and found["scores"].min() > 1e-11
        assert torch.equal(all_of_it["boxes"], found["boxes"])
