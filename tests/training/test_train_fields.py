"""Every argument of a training run is obeyed, refused, or documented as one without effect."""

import dataclasses
import inspect

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_models import tiny_batch, tiny_model
from helpers.trainings import make_parts, make_trainer, train_command
from peft import LoraConfig, get_peft_model
from transformers import Trainer

from decodetr import DeCoDetrImageProcessor, DeCoDetrTrainer, DeCoDetrTrainingArguments
from decodetr.cli import main
from decodetr.training.options import fields
from decodetr.training.options.options import TrainOptions
from decodetr.training.results.predictions import KeptPredictions
from decodetr.training.start.starting_point import start_model

DOCS = (ROOT / "docs" / "training_options.md").read_text(encoding="utf-8")
OBEYED = set(
    "self model args data_collator train_dataset eval_dataset processing_class model_init callbacks optimizers "
    "optimizer_cls_and_kwargs".split()
)
REFUSED = {"compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"}
OTHER = {  # a value that is not the default, of each refused field
    "remove_unused_columns": True,
    "label_names": ["labels"],
    "label_smoothing_factor": 0.3,
    "prediction_loss_only": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "optim_target_modules": ["all-linear"],
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "neftune_noise_alpha": 5.0,
    "include_num_input_tokens_seen": "all",
    "parallelism_config": object(),
}


def test_every_field_has_one_place():
    places = (fields.DECIDES, fields.LENGTH, fields.BATCH, fields.RUNNING, fields.WITHOUT_EFFECT, set(fields.REFUSED))
    known = [name for place in places for name in place]
    assert len(known) == len(set(known))
    here = {field.name for field in dataclasses.fields(DeCoDetrTrainingArguments)}
    assert here - set(known) == set(), "say in training/options/fields.py what these are to a run"


@pytest.mark.parametrize("name", sorted(fields.REFUSED))
def test_a_field_without_a_meaning_is_refused(tmp_path, name):
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    setattr(args, name, OTHER[name])
    with pytest.raises(ValueError, match=f"{name}=.*has no meaning here"):
        fields.check_fields(args)
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize("name", sorted(fields.WITHOUT_EFFECT))
def test_a_field_without_an_effect_is_documented(name):
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize(
    "given, message",
    [
        ({"label_smoothing_factor": 0.3}, "no classes to smooth"),
        ({"train_sampling_strategy": "group_by_length"}, "images have no length"),
        ({"optim": "lomo"}, "makes new parameter groups"),
        ({"cache_views": 2}, "needs cache_features=True"),
    ],
)
def test_arguments_are_refused_when_they_are_made(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)


def test_every_argument_of_the_librarys_trainer_is_known():
    assert set(inspect.signature(Trainer.__init__).parameters) == OBEYED | REFUSED


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_callable_that_nothing_would_call_is_refused(tmp_path, name):
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=f"DeCoDetrTrainer has no {name}: "):
        DeCoDetrTrainer(tiny_model(), args, **{name: lambda *given: {}})
    assert f"`{name}`" in DOCS


def test_a_model_inside_adapters_is_refused(tmp_path):
    adapted = get_peft_model(tiny_model("detr"), LoraConfig(r=2, target_modules=["q_proj"]))
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for given in ({"model": adapted}, {"model_init": lambda: adapted}):
        with pytest.raises(ValueError, match=r"got a PeftModel of PEFT .* model.merge_and_unload\(\)"):
            DeCoDetrTrainer(args=args, **given)
    merged = adapted.merge_and_unload().requires_grad_(True)
    assert DeCoDetrTrainer(merged, args).model is merged
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_an_optimizer_of_ones_own_is_used(scenes, tmp_path):
    args = make_trainer(scenes, tmp_path).args
    model, train = make_parts(scenes)[:2]
    trainer = DeCoDetrTrainer(model, args, train, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.5}))
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD and {group["lr"] for group in optimizer.param_groups} == {0.5}
    own = torch.optim.Adam(model.parameters(), lr=0.25)
    assert DeCoDetrTrainer(model, args, train, optimizers=(own, None)).create_optimizer() is own


def test_the_first_prediction_of_an_image_that_comes_again_is_kept():
    def part(value):
        scores = torch.tensor([value])
        truth = {key: scores for key in ("class_labels", "boxes", "orig_size")}
        return {"scores": scores, "localization": {"scores": scores}}, truth

    results, labels = zip(*map(part, (0.1, 0.2, 0.3)))
    kept = KeptPredictions()
    kept.update([7, 8, 7], results, labels, ["cat"])
    kept.update([8], results[2:], labels[2:], ["cat"])
    found, truth = kept.in_order([8, 7])
    assert [float(row["scores"]) for row in found] == pytest.approx([0.2, 0.1])
    assert [float(row["localization"]["scores"]) for row in found] == pytest.approx([0.2, 0.1])
    assert [float(row["boxes"]) for row in truth] == pytest.approx([0.2, 0.1])


def test_predict_gives_detections_and_metrics(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path)
    data = trainer.eval_dataset
    found = trainer.predict(data)
    assert [row["image_id"] for row in found.predictions] == [image["image_id"] for image in data.coco.images]
    first, image = found.predictions[0], data.coco.images[0]
    assert first["boxes"].shape == (len(first["scores"]), 4) and len(first["scores"]) == len(first["labels"]) == 100
    assert (first["boxes"] <= torch.tensor([image["width"], image["height"]] * 2) * 1.5).all()
    assert first["names"] == trainer.deployment_vocabulary.names and len(first["localization"]["scores"]) == 12
    truth = [label["class_labels"].tolist() for label in found.label_ids]
    assert truth == [data[i]["labels"]["class_labels"].tolist() for i in range(len(data))]
    metrics = trainer.evaluate()
    same = {key: value for key, value in found.metrics.items() if "_AP" in key or "_AR" in key}
    assert same and all(
        metrics[key.replace("test_", "eval_")] == pytest.approx(v, nan_ok=True) for key, v in same.items()
    )
    assert trainer.predict(data, metric_key_prefix="late").metrics.keys() >= {"late_AP50"}


def test_captions_are_refused_where_the_pool_stays(tmp_path):
    model = tiny_model(pool_update="frozen")
    batch = tiny_batch(regions=True)
    items = [{"pixel_values": p, "labels": {**label, "caption_embeds": torch.ones(1, 16)}}
             for p, label in zip(batch["pixel_values"], batch["labels"])]  # fmt: skip
    args = DeCoDetrTrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    with pytest.raises(ValueError, match="captions move the pool, which stays as it is here"):
        DeCoDetrTrainer(model, args, items).train()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--captions", "c.json", "--names-split", "none", "--set", "pool_update=frozen"], "captions move the pool"),
        (["--captions", "c.json", "--names-split", "none", "--streams", "localization"], "--captions is for the sem"),
        (["--image-labels", "l.json", "--names-split", "none", "--streams", "localization"], "--image-labels is for"),
        (["--no-exhaustive", "--streams", "localization"], "--exhaustive is for the semantic stream"),
        (["--shuffle-buffer", "5"], "--shuffle-buffer is for --streaming"),
        (["--blur", "1", "--no-augmentation"], "leave out --no-augmentation"),
        (
            ["--noise", "1", "--streams", "semantic", "--cache_features", "true", "--cache_views", "1"],
            "give --cache-views 2",
        ),
        (["--replay-images", "5"], "--replay-images is a part of --replay-data"),
        (["--held-out-data", "d"], "--held-out-data shows what a --model forgets"),
        (["--pseudo-boxes", "none", "--pseudo-box-score", "0.3"], "leave one out"),
        (["--val-share", "0.1"], "has validation images already"),
    ],
)
def test_options_of_the_command_that_would_do_nothing_are_refused(scenes, tmp_path, capsys, more, message):
    assert main(train_command(scenes, tmp_path / "run", "--max_steps", "1", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_bfloat16_needs_no_second_flag_where_there_is_only_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda *_: False)
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), bf16=True, report_to="none")
    assert args.use_cpu and args.device.type == "cpu" and args.mixed_precision == "bf16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_not_trained(scenes, tmp_path, dtype):
    """They would be wrong without a word: an average of them hardly moves."""
    model, train, val, processor, _ = make_parts(scenes, augment=False)
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    name = str(dtype).removeprefix("torch.")
    match = rf"weights in float32 to train, got some in {name}, .*give model.float\(\), and bf16=True"
    with pytest.raises(ValueError, match=match):
        DeCoDetrTrainer(model.to(dtype), args, train, processing_class=processor)
    with pytest.raises(ValueError, match=match):
        DeCoDetrTrainer(model_init=lambda: model, args=args, train_dataset=train, processing_class=processor)
    DeCoDetrTrainer(model, args, eval_dataset=val, processing_class=processor)  # evaluates
    trainer = DeCoDetrTrainer(model.float(), args, train, processing_class=processor)
    trainer.model.to(dtype)
    with pytest.raises(ValueError, match=match):
        trainer.train()


def test_a_model_that_was_saved_in_half_precision_starts_in_float32(tmp_path):
    tiny_model("detr").bfloat16().save_pretrained(tmp_path)
    DeCoDetrImageProcessor().save_pretrained(tmp_path)
    model, _ = start_model(TrainOptions(data="", output_dir="", model=str(tmp_path)), None)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
