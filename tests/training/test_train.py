"""DeCoDetrTrainer and `decodetr train`: isolation to the bit, resume, streams, pool, vocabulary life cycle."""

import json
import math
import runpy
import subprocess
import sys

import pytest
import torch
from helpers.trainings import make_parts, make_trainer, same_state, state_of, train_command

from decodetr import (
    DeCoDetrForObjectDetection,
    DeCoDetrTrainer,
    DeCoDetrTrainingArguments,
    PrototypePool,
)
from decodetr.cli import main
from decodetr.training.features.feature_cache import FeatureCache, feature_collate


def test_detector_is_bit_equal_whatever_the_semantic_stream_does(scenes, tmp_path):
    states = {}
    for weight in (0.0, 1.0):
        weights = {"align_weight_start": weight, "align_weight_end": weight}
        dropout = {"semantic_dropout": weight / 2}
        trainer = make_trainer(scenes, tmp_path, config=dropout, max_steps=10, **weights)
        trainer.train()
        states[weight] = state_of(trainer.model.detector), state_of(trainer.model.semantic_stream)
    assert same_state(states[0.0][0], states[1.0][0])
    assert not same_state(states[0.0][1], states[1.0][1])


def test_without_isolation_the_streams_meet(scenes, tmp_path):
    states = []
    for weight in (0.0, 1.0):
        trainer = make_trainer(
            scenes, tmp_path, config={"gradient_isolation": False}, align_weight_start=weight, align_weight_end=weight
        )
        trainer.train()
        states.append(state_of(trainer.model.detector))
    assert not same_state(*states)


def test_align_weight_is_a_rising_half_cosine(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, align_weight_start=0.2, align_weight_end=1.0)
    trainer.state.max_steps = 11
    seen = []
    for step in range(11):
        trainer.state.global_step = step
        seen.append(trainer.align_weight())
    assert seen[0] == pytest.approx(0.2) and seen[-1] == pytest.approx(1.0) and seen[5] == pytest.approx(0.6)
    assert seen == sorted(seen) and seen[2] == pytest.approx(1.0 - 0.4 * (1 + math.cos(math.pi * 0.2)))


@pytest.mark.parametrize(
    "streams, moves, stays",
    [("localization", "detector", "semantic_stream"), ("semantic", "semantic_stream", "detector")],
)
def test_only_the_chosen_stream_learns(scenes, tmp_path, streams, moves, stays):
    trainer = make_trainer(scenes, tmp_path, streams=streams)
    before = {name: state_of(getattr(trainer.model, name)) for name in (moves, stays)}
    trainer.train()
    assert same_state(before[stays], state_of(getattr(trainer.model, stays)))  # buffers too: frozen statistics stay
    changed = state_of(getattr(trainer.model, moves))
    assert any(not torch.equal(changed[name], value) for name, value in before[moves].items())


def test_cached_features_give_the_loss_of_the_frozen_detector(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, augment=False, streams="semantic", cache_features=True)
    assert isinstance(trainer.train_dataset, FeatureCache) and trainer.train_dataset.num_bytes > 0
    model, dataset = trainer.model, make_parts(scenes, augment=False)[1]
    model.detector.eval()
    cached = model(**feature_collate([trainer.train_dataset[i] for i in range(4)])).loss_dict
    batch = trainer.data_collator([dataset[i] for i in range(4)])
    direct = model(**batch).loss_dict
    for name in ("loss_align", "loss_distill"):
        assert cached[name].item() == pytest.approx(direct[name].item(), rel=2e-3)  # features are kept in float16
    before = model.semantic_stream.input_projection[1].weight.clone()
    result = trainer.train()
    assert result.global_step == 4 and not torch.equal(before, model.semantic_stream.input_projection[1].weight)


def test_cached_views_are_one_plain_and_the_rest_augmented(scenes, tmp_path):
    once = make_trainer(scenes, tmp_path / "once", streams="semantic", cache_features=True).train_dataset
    thrice = make_trainer(scenes, tmp_path, streams="semantic", cache_features=True, cache_views=3).train_dataset
    assert len(once) < len(thrice) <= 3 * 12
    items = list(thrice)
    views = [items[: len(once)], items[len(once) :]]
    assert all(torch.equal(a["samples"][0], b["samples"][0]) for a, b in zip(once, views[0]))
    plain = {item["samples"][0].double().sum().item() for item in views[0]}
    assert not plain & {item["samples"][0].double().sum().item() for item in views[1]}
    with pytest.raises(ValueError, match="views=2 needs a data set with augmentation"):
        make_trainer(scenes, tmp_path, augment=False, streams="semantic", cache_features=True, cache_views=2)


def test_a_cache_serves_several_runs(scenes, tmp_path):
    cache = make_trainer(scenes, tmp_path, streams="semantic", cache_features=True).train_dataset
    model = make_parts(scenes)[0]
    args = DeCoDetrTrainingArguments(
        output_dir=str(tmp_path), streams="semantic", cache_features=True, max_steps=2, report_to="none", use_cpu=True
    )
    before = state_of(model.semantic_stream)
    trainer = DeCoDetrTrainer(model, args, cache)
    assert trainer.train_dataset is cache and trainer.train().global_step == 2
    assert not same_state(before, state_of(model.semantic_stream))


@pytest.mark.parametrize("mode", ["literal", "frozen"])
def test_pool_moves_as_its_mode_says(scenes, tmp_path, mode):
    trainer = make_trainer(scenes, tmp_path, config={"pool_update": mode}, max_steps=1, augment=False)
    pool = trainer.model.prototype_pool
    pool.prototypes.copy_(torch.nn.functional.normalize(torch.randn(pool.prototypes.shape), dim=-1))
    before = pool.prototypes.clone()
    seen = []
    collect = trainer._collect_text_embeds

    def spy(model, inputs):
        seen.append(torch.cat([label["region_text_embeds"] for label in inputs["labels"]]))
        collect(model, inputs)

    trainer._collect_text_embeds = spy
    trainer.train()
    if mode == "frozen":
        assert torch.equal(pool.prototypes, before)
        return
    expected = PrototypePool(before)
    expected.update(expected.assignment_sums(seen[0], 0.07), momentum=0.99)
    assert torch.allclose(pool.prototypes, expected.prototypes, atol=1e-6)
    assert not torch.equal(pool.prototypes, before)


def test_gradient_accumulation_moves_the_pool_once_per_step(scenes, tmp_path):
    same = {"config": {"pool_update": "literal"}, "max_steps": 2, "augment": False}
    whole = make_trainer(scenes, tmp_path, per_device_train_batch_size=4, **same)
    parts = make_trainer(scenes, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, **same)
    before = whole.model.prototype_pool.prototypes.clone()
    whole.train(), parts.train()
    assert not torch.allclose(whole.model.prototype_pool.prototypes, before, atol=1e-3)
    assert torch.allclose(whole.model.prototype_pool.prototypes, parts.model.prototype_pool.prototypes, atol=1e-6)


def test_streams_are_clipped_apart(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, max_grad_norm=0.5, semantic_max_grad_norm=0.25)
    for name, p in trainer.model.named_parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 100.0 if name.startswith("detector.") else 1e-3)
    small = sum(
        p.grad.square().sum()
        for n, p in trainer.model.named_parameters()
        if p.grad is not None and not n.startswith("detector.")
    ).sqrt()
    trainer._clip_grad_norm(trainer.model)

    def norm(detector):
        named = trainer.model.named_parameters()
        return sum(
            p.grad.square().sum() for n, p in named if p.grad is not None and n.startswith("detector.") == detector
        ).sqrt()

    assert norm(True) == pytest.approx(0.5, rel=1e-3)
    assert norm(False) == pytest.approx(
        min(small.item(), 0.25), rel=1e-3
    )  # the large gradient of the other is no reason


def test_parameter_groups_have_their_rates(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, backbone_learning_rate=1e-5, semantic_learning_rate=1e-2)
    optimizer = trainer.create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, p in trainer.model.named_parameters():
        if not p.requires_grad:
            assert id(p) not in rate
            continue
        expected = 1e-2 if not name.startswith("detector.") else 1e-5 if "backbone" in name else 1e-3
        assert rate[id(p)] == expected, name
        if name.endswith("bias"):
            assert decay[id(p)] == 0.0


def test_logs_every_term_averaged(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path)
    seen = []
    compute = trainer.compute_loss

    def spy(model, inputs, **kwargs):
        loss, outputs = compute(model, inputs, return_outputs=True)
        seen.append({name: term.item() for name, term in outputs.loss_dict.items()})
        return loss

    trainer.compute_loss = spy
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss_align" in entry]
    assert len(logs) == 2
    for name in seen[0]:
        assert logs[1][name] == pytest.approx((seen[2][name] + seen[3][name]) / 2, rel=1e-4), name
    assert {"align_weight", "learning_rate"} <= logs[0].keys() and "pool_mean_cosine" not in logs[0]  # it is frozen


def test_the_logged_align_weight_is_that_of_the_loss(scenes, tmp_path):
    trainer = make_trainer(
        scenes, tmp_path, max_steps=3, logging_steps=1, align_weight_start=0.0, align_weight_end=1.0
    )
    trainer.train()
    logged = [entry["align_weight"] for entry in trainer.state.log_history if "align_weight" in entry]
    assert logged == pytest.approx([0.0, 0.5, 1.0])


def test_resume_ends_where_the_uninterrupted_run_ends(scenes, tmp_path):
    args = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "config": {"semantic_dropout": 0.5}}
    whole = make_trainer(scenes, tmp_path / "whole", **args)
    whole.train()
    resumed = make_trainer(scenes, tmp_path / "other", **args)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert resumed.state.global_step == 6
    assert same_state(state_of(whole.model), state_of(resumed.model))


def test_a_run_resumed_at_its_end_takes_no_step(scenes, tmp_path):
    args = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(scenes, tmp_path, **args)
    whole.train()
    resumed = make_trainer(scenes, tmp_path, **args)
    resumed.train("last")
    assert resumed.state.global_step == 4
    assert same_state(state_of(whole.model), state_of(resumed.model))
    assert not (tmp_path / "checkpoint-5").exists()


def test_vocabulary_life_cycle(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, max_steps=2)
    base = list(trainer.model.vocabulary.names)
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_AP", "eval_AP50", "eval_AP50_novel", "eval_AP50_base", "eval_class_agnostic_AP50"} <= metrics.keys()
    assert trainer.model.vocabulary.names == base
    trainer.save_model(tmp_path / "saved")
    saved = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "saved")
    assert saved.vocabulary.names == trainer.deployment_vocabulary.names and len(base) < len(saved.vocabulary.names)
    assert torch.equal(saved.vocabulary.embeddings, trainer.deployment_vocabulary.embeddings)


@pytest.mark.slow
def test_best_checkpoint_by_any_metric(scenes, tmp_path):
    args = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    trainer = make_trainer(
        scenes, tmp_path, **args, load_best_model_at_end=True, metric_for_best_model="eval_class_agnostic_AR100"
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None and trainer.state.best_metric is not None
    saved = DeCoDetrForObjectDetection.from_pretrained(best)
    assert same_state(state_of(saved.detector), state_of(trainer.model.detector))


@pytest.mark.parametrize(
    "args, message",
    [
        ({"streams": "both"}, "one of joint, localization, semantic"),
        ({"cache_features": True}, "needs streams='semantic'"),
        ({"remove_unused_columns": True}, "drop the labels"),
    ],
)
def test_arguments_refuse(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path), **args)


def test_command_trains_evaluates_saves_and_resumes(scenes, tmp_path, capsys):
    output = tmp_path / "run"
    assert main(train_command(scenes, output, "--max_steps", "2", "--save_steps", "1")) == 0
    metrics = json.loads((output / "eval_results.json").read_text())
    assert "eval_AP50_novel" in metrics
    model = DeCoDetrForObjectDetection.from_pretrained(output)
    assert len(model.vocabulary) == 240 and len(model.config.training_info["training_names"]) == 180
    assert main(train_command(scenes, output, "--max_steps", "3", "--resume_from_checkpoint", "last")) == 0
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 3
    capsys.readouterr()
    assert main(train_command(scenes, tmp_path / "none", "--resume_from_checkpoint", "last")) == 1
    assert "no complete checkpoint-* folder" in capsys.readouterr().err


def test_command_records_pseudo_boxes_and_refuses_them_where_they_do_nothing(scenes, tmp_path, capsys):
    more = ["--max_steps", "1", "--save_strategy", "no", "--val-annotations", "none", "--pseudo-box-score", "0.5"]
    command = train_command(scenes, tmp_path / "run", "--streams", "localization", *more)
    assert main(command) == 0
    info = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "run").config.training_info
    assert info["pseudo_box_score"] == 0.5
    assert main(train_command(scenes, tmp_path / "other", "--streams", "semantic", *more)) == 1
    assert "--pseudo-box-score need --regions, and a localization stream" in capsys.readouterr().err
    i = command.index("--regions")
    assert main(command[:i] + command[i + 2 :]) == 1
    assert "--pseudo-box-score need --regions" in capsys.readouterr().err


@pytest.mark.parametrize("started", ["here", pytest.param("process", marks=pytest.mark.slow)])
def test_arguments_pickle_by_their_importable_name(scenes, tmp_path, monkeypatch, started):
    """Those of `python train.py`, whose own name is __main__."""
    import decodetr.train

    file = decodetr.train.__file__
    words = train_command(scenes, tmp_path / "run", "--max_steps", "1", "--val-annotations", "none")[1:]
    if started == "here":
        monkeypatch.setattr(sys, "argv", [file, *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(file, run_name="__main__")
        assert end.value.code == 0
    else:
        result = subprocess.run([sys.executable, file, *words], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    args = torch.load(tmp_path / "run/training_args.bin", weights_only=False)
    assert type(args).__module__ == "decodetr.training.options.arguments"
