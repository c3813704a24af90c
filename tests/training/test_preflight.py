"""`decodetr train` refuses what cannot work before it reads data or a model, all problems at once."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.pool_data import BASE, NOVEL, WHOLE
from helpers.tiny_models import tiny_config, tiny_model

import decodetr.train
import decodetr.training.checks.preflight
from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, Vocabulary
from decodetr.annotations.names_ahead import names_ahead
from decodetr.cli import main


def _train(two_clips, output, *more, start=("--model", "model")):
    """A run of one step; what `more` says wins."""
    return main([
        "train", "--data", str(two_clips / "data"), start[0], str(two_clips / start[1]), "--output_dir", str(output),
        "--names-split", "none", "--max_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none",
        "--save_strategy", "no", "--use_cpu", "true", "--disable_tqdm", "true", "--regions", "none",
        "--val-annotations", "none", *map(str, more),
    ])  # fmt: skip


@pytest.fixture
def refused(two_clips, tmp_path, monkeypatch, capsys):
    """A function: the message of a run that is refused before anything is read and anything is written."""

    def read(*_):
        raise AssertionError("data were read")

    monkeypatch.setattr(decodetr.train.TrainingData, "read", read)

    def message(*more, **options):
        capsys.readouterr()
        assert _train(two_clips, tmp_path / "run", *more, **options) == 1
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    return message


EVALUATED = ("--val-annotations", "VAL", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps",
             "--save_steps", "1")  # fmt: skip


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--metric_for_best_model", "eval_AP50_bose"], "did you mean eval_AP50 or"),
        (["--metric_for_best_model", "eval_loss"], "no metric of an evaluation during training"),
        (["--metric_for_best_model", "AP50_novel"], "there are no novel names to tell apart"),
        (["--metric_for_best_model", "AP50", "--greater_is_better", "false"], "better the higher it is"),
        (["--metric_for_best_model", "recall", "--streams", "localization"], "give one of eval_class_agnostic_AP50"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused(two_clips, refused, more, words):
    evaluated = [str(two_clips / "data/annotations/val.json") if word == "VAL" else word for word in EVALUATED]
    assert words in refused(*evaluated, "--load_best_model_at_end", "true", *more)


@pytest.mark.parametrize(("streams", "metric"), [("joint", "eval_AP50"), ("localization", "eval_class_agnostic_AP50")])
def test_the_best_model_is_chosen_by_a_metric_that_there_is(two_clips, tmp_path, caplog, streams, metric):
    evaluated = [str(two_clips / "data/annotations/val.json") if word == "VAL" else word for word in EVALUATED]
    assert _train(two_clips, tmp_path, *evaluated, "--load_best_model_at_end", "true", "--streams", streams) == 0
    assert f"the best checkpoint by {metric}" in caplog.text
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"].endswith("checkpoint-1") and state["best_metric"] is not None


def test_with_novel_names_the_best_model_is_chosen_by_the_others(two_clips, refused, tmp_path, monkeypatch):
    split = two_clips / "split.json"
    split.write_text(json.dumps({"base": dict(enumerate(BASE)), "novel": dict(enumerate(NOVEL))}))
    seen = {}
    monkeypatch.setattr(decodetr.train.TrainingRun, "run", lambda self: seen.update(args=self.training))
    evaluated = [str(two_clips / "data/annotations/val.json") if word == "VAL" else word for word in EVALUATED]
    words = [*evaluated, "--load_best_model_at_end", "true", "--names-split", split]
    assert _train(two_clips, tmp_path / "run", *words) == 0
    assert seen["args"].metric_for_best_model == "eval_AP50_base" and seen["args"].greater_is_better


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--report_to", "wandb"], "--report-to wandb needs wandb, which is not installed: pip install 'decodetr[wan"),
        (["--report_to", "nope"], "--report-to nope: expected none, all or one of azure_ml"),
        (["--deepspeed", "ds.json"], "--deepspeed needs deepspeed, which is not installed: pip install deepspeed"),
        (["--optim", "adamw_bnb_8bit"], "pip install -U bitsandbytes"),
        (["--optim", "adamx"], "--optim: invalid choice: 'adamx'"),
        (["--fp16", "true"], "--fp16 true needs a GPU"),
        (["--torch_compile_backend", "nope"], "--torch-compile-backend nope: expected one of"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "--lr-scheduler-type cosine_with_min_lr"),
        (["--dataloader_persistent_workers", "true"], "needs --dataloader-num-workers of at least 1"),
        (["--per_device_train_batch_size", "0"], "--per-device-train-batch-size must be at least 1, got 0"),
        (["--learning_rate", "nan"], "--learning-rate must be at least 0, got nan"),
        (["--semantic_learning_rate", "inf"], "--semantic-learning-rate must be at least 0, got inf"),
        (["--blur", "nan"], "--blur must be at least 0, got nan"),
        (["--max_steps", "0", "--num_train_epochs", "0"], "trains nothing"),
        (["--resume_from_checkpoint", "nowhere"], "there is no such folder"),
        (["--max_stesp", "3"], "unrecognized arguments: --max_stesp 3; did you mean '--max_steps'"),
        (["--eval_strategy", "epoch"], "needs validation data: give --val-annotations or --val-share 0.1"),
    ],
)  # fmt: skip
def test_what_this_machine_or_the_library_cannot_do_is_refused(refused, monkeypatch, more, words):
    for module in ("wandb", "deepspeed", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, module, None)
    assert words in refused(*more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data", "./nowhere"], "./nowhere: no such folder"),
        (["--train-annotations", "nowhere.json"], "--train-annotations nowhere.json: no such file"),
        (["--val-annotations", "nowhere.json"], "--val-annotations nowhere.json: no such file"),
        (["--names-split", "nowhere.json"], "--names-split nowhere.json: no such file"),
        (["--vocabulary", "./nowhere"], "the vocabulary './nowhere' cannot be loaded"),
        (["--pool", "./nowhere"], "the pool './nowhere' cannot be loaded"),
        (["--deploy-vocabulary", "./nowhere"], "the vocabulary './nowhere' cannot be loaded"),
        (["--text-model", "./nowhere"], "the text model './nowhere' cannot be loaded"),
        (["--regions", "nowhere"], "--regions nowhere: expected a folder with regions-*.parquet"),
        (["--captions", "nowhere.json"], "--captions nowhere.json: no such file"),
        (["--held-out-data", "nowhere/at/all"], "--held-out-data nowhere/at/all: no such folder"),
        (["--replay-data", "nowhere/at/all"], "--replay-data nowhere/at/all: no such folder"),
    ],
)  # fmt: skip
def test_a_mistyped_place_is_told_at_once(refused, more, words):
    assert words in refused(*more)


@pytest.mark.parametrize(("option", "what"), [("--model", "model"), ("--detector", "detector")])
def test_a_mistyped_starting_point_is_told_at_once(refused, option, what):
    assert f"the {what} " in (error := refused(start=(option, "nowhere"))) and "there is no such folder" in error
    assert "no such file" in refused(start=("--config", "nowhere.yaml"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--streaming", "--max_steps", "-1"], "give the number of steps, --max-steps N"),
        (["--streaming", "--streams", "semantic", "--cache_features", "true"], "leave one out"),
        (["--streaming", "--val-share", "0.1"], "or leave out --streaming"),
        (["--streaming", "--regions", "self"], "--regions self needs a trained starting point"),
        (["--replay-data", "DATA"], "--replay-data and --replay-regions go together"),
        (["--pseudo-boxes", "objects"], "need --regions, and a localization stream"),
        (["--setting", "G-OVD"], "expected novel names to hold back, got none"),
        (["--captions", "CAPTIONS", "--set", "pool_update=frozen"], "captions move the pool, which stays as it is"),
        (["--no-augmentation", "--streams", "semantic", "--cache_features", "true", "--cache_views", "2"],
         "--cache-views 2 needs augmentation"),
        (["--gradient_checkpointing", "true"], "rt_detr_v2 has none in transformers"),
        (["--image-size", "65"], "needs a multiple of 32; give 64 or 96"),
        (["--backbone", "resnet18"], "--backbone needs --config"),
        (["--val-share", "0.2", "--val-annotations", "VAL"], "--val-annotations none to hold training images back"),
        (["--accelerator_config", '{"dispatch_batches": true}'], "label dicts are cut in slices between processes"),
        (["--val-share", "1.5"], "must lie between 0 and 1, got 1.5"),
        (["--set", "num_queries=60"], "its detector has: --set detector_config.num_queries=60"),
        (["--set", "detector_config.num_quries=60"], "did you mean 'num_queries'"),
        (["--set", "nms_uoi=0.5"], "did you mean 'nms_iou'"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(two_clips, refused, more, words):
    captions = two_clips / "captions.json"
    captions.write_text("{}")
    places = {"CAPTIONS": captions, "DATA": two_clips / "data", "VAL": two_clips / "data/annotations/val.json"}
    assert words in refused(*(places.get(word, word) for word in more))


def test_all_problems_are_told_together(refused):
    error = refused("--report_to", "nope", "--pool", "./nowhere", "--image-size", "65", "--backbone", "resnet18")
    assert "5 problems, found before any work was done:" in error
    # A list goes on where its option is given again, and the run of these tests has --report-to none.
    for words in (
        "--report-to none stands alone",
        "--report-to nope",
        "the pool './nowhere'",
        "--image-size 65",
        "--backbone needs --config",
    ):
        assert f"- {words}" in error


def test_an_output_that_is_a_file_is_refused(two_clips, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for place in (file, file / "below"):
        assert _train(two_clips, place) == 1
        assert "expected a folder, got a file" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_options_without_effect_are_said(two_clips, tmp_path, caplog):
    more = ["--freeze_backbone", "true", "--backbone_learning_rate", "1e-5"]
    assert _train(two_clips, tmp_path, *more, "--streams", "localization", "--semantic_learning_rate", "1e-3") == 0
    for option in ("backbone-learning-rate", "semantic-learning-rate"):
        assert f"--{option} has no effect" in caplog.text
    assert "Chosen by default: " in caplog.text and "1 steps on cpu, 1 process" in caplog.text


def test_validation_names_without_an_embedding_are_refused_before_training_data_are_read(two_clips, refused):
    error = refused(
        "--deploy-vocabulary", two_clips / "base", "--val-annotations", two_clips / "data/annotations/val.json"
    )
    assert "2 names of the validation data" in error and "'cup', 'yak'" in error and "--deploy-vocabulary" in error


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "\\u00e9 ]"}], "images": []}', ["a", "é ]"]),
        ('{"info": {"description": "\\"categories\\": [3]"}, "categories":\n[{"name": "a"}]}', ["a"]),
        ('{"images": [{"categories": [1]}], "categories": [{"name": "a"}]}', None),  # which one?
        ('{"categories": [{"id": 1}]}', None),
        ('{"categories": [', None),
        ("", None),
    ],
)
def test_names_of_categories_without_reading_the_file(tmp_path, text, names):
    (tmp_path / "file.json").write_text(text, encoding="utf-8")
    assert names_ahead(tmp_path / "file.json") == names


def test_validation_names_without_an_embedding_are_refused_before_a_step(two_clips, tmp_path, monkeypatch, capsys):
    """Also where the annotation files do not say them ahead."""
    monkeypatch.setattr(decodetr.training.checks.preflight, "names_ahead", lambda file: None)
    monkeypatch.setattr(decodetr.train, "try_step", lambda *_: pytest.fail("a step was tried"))
    more = ["--deploy-vocabulary", two_clips / "base", "--val-annotations", two_clips / "data/annotations/val.json"]
    assert _train(two_clips, tmp_path, *more) == 1
    error = capsys.readouterr().err
    assert "2 names of the validation data" in error and "'cup', 'yak'" in error and "--deploy-vocabulary" in error


def test_a_metric_without_a_value_is_refused_before_a_step(two_clips, tmp_path, monkeypatch, capsys):
    """The novel names of the split have no object in the validation data."""
    document = json.loads((two_clips / "data/annotations/val.json").read_text())
    novel = {row["id"] for row in document["categories"] if row["name"] in NOVEL}
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] not in novel]
    document["info"] = {"image_folder": "val"}
    (two_clips / "data/annotations/few.json").write_text(json.dumps(document))
    split = two_clips / "split.json"
    split.write_text(json.dumps({"base": dict(enumerate(BASE)), "novel": dict(enumerate(NOVEL))}))
    evaluated = [str(two_clips / "data/annotations/few.json") if word == "VAL" else word for word in EVALUATED]
    more = ["--load_best_model_at_end", "true", "--metric_for_best_model", "AP50_novel", "--allow-seen-novel"]
    assert _train(two_clips, tmp_path, *evaluated, *more, "--names-split", split) == 1
    assert "the validation data have no object of novel names" in capsys.readouterr().err
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_disk_without_room_is_refused_with_the_numbers(two_clips, tmp_path, monkeypatch, capsys):
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr("decodetr.utils.preflight.shutil.disk_usage", lambda _: free)
    monkeypatch.setattr(decodetr.train, "try_step", lambda *_: pytest.fail("a step was tried"))
    more = ["--save_strategy", "steps", "--save_steps", "1", "--max_steps", "3"]
    assert _train(two_clips, tmp_path, *more) == 1
    error = capsys.readouterr().err
    assert "and 3 checkpoints of" in error and "1.0 kB are free there" in error and "--save-total-limit 1" in error


# The step


def test_a_model_that_cannot_make_a_step_is_refused_before_the_first(two_clips, tmp_path, monkeypatch, capsys):
    """Some backbones of timm take images of one size alone."""
    backbone = {"model_type": "timm_backbone", "backbone": "test_vit_relpos", "out_indices": [3]}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 32, "num_queries": 5, "num_labels": 1}
    detector = {"model_type": "detr", "backbone_config": backbone, **layers}
    config = {"detector_config": detector, "embedding_dim": 8, "num_coarse_prototypes": 4, "num_fine_prototypes": 0}
    (two_clips / "fixed.yaml").write_text(yaml.safe_dump(config))
    trained = []
    monkeypatch.setattr(
        "decodetr.training.trainer.DeCoDetrTrainer.train", lambda *args, **kwargs: trained.append(args)
    )
    more = ["--vocabulary", two_clips / "vocabulary", "--pool", two_clips / "pool", "--image-size", "64"]
    assert _train(two_clips, tmp_path, *more, start=("--config", "fixed.yaml")) == 1
    error = capsys.readouterr().err
    assert "images of 64 x 64" in error and "detr with the backbone test_vit_relpos" in error
    assert "doesn't match model (160)" in error and "--image-size" in error and not trained


def test_the_tried_step_leaves_nothing_behind(two_clips):
    from decodetr import DeCoDetrTrainingArguments
    from decodetr.training.planning.trial import try_step

    model = DeCoDetrForObjectDetection.from_pretrained(two_clips / "model").eval()
    processor = DeCoDetrImageProcessor.from_pretrained(two_clips / "model")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()
    args = DeCoDetrTrainingArguments(output_dir="run", use_cpu=True, report_to="none")
    try_step(model, processor, args)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(drawn, torch.get_rng_state()) and not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_tried_step_counts_queries_and_places():
    from decodetr import DeCoDetrTrainingArguments
    from decodetr.training.planning.trial import try_step

    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    args = DeCoDetrTrainingArguments(output_dir="run", use_cpu=True, report_to="none")
    for family in ("rt_detr_v2", "d_fine"):
        model = tiny_model(family, detector={"num_queries": 21})
        words = r"has 21 queries, more than images of 64 x 64 have places on its feature maps: 20, .* at most 20"
        with pytest.raises(ValueError, match=words):
            try_step(model, processor, args)
    try_step(tiny_model("rt_detr_v2", detector={"num_queries": 20}), processor, args)


# Another CLIP


def test_a_detector_gets_the_width_of_the_text_model(two_clips, tmp_path):
    more = ["--text-model", two_clips / "other-clip", "--image-size", "64"]
    assert _train(two_clips, tmp_path, *more, start=("--detector", "detector")) == 0
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
    assert model.config.embedding_dim == 12 and set(model.vocabulary.names) == set(WHOLE)


def test_a_config_of_another_width_is_told_the_field(two_clips, refused):
    fields = tiny_config().to_dict()
    kept = ("detector_config", "embedding_dim")
    (two_clips / "config.yaml").write_text(yaml.safe_dump({name: fields[name] for name in kept}))
    error = refused("--text-model", two_clips / "other-clip", start=("--config", "config.yaml"))
    assert "--set embedding_dim=12" in error


def test_another_clip_needs_the_semantics_to_begin_anew(two_clips, refused):
    assert "give --reset-semantics" in refused("--vocabulary", two_clips / "other-vocabulary")
    error = refused("--vocabulary", two_clips / "other-vocabulary", "--reset-semantics")
    assert "give --pool POOL" in error and "--streams localization" in error


@pytest.mark.parametrize("option", ["--vocabulary", "--text-model"])
def test_localization_goes_on_towards_another_clip(two_clips, tmp_path, option):
    """The pool of that CLIP needs this detector first."""
    other = two_clips / ("other-vocabulary" if option == "--vocabulary" else "other-clip")
    assert _train(two_clips, tmp_path, option, other, "--reset-semantics", "--streams", "localization") == 0
    model = DeCoDetrForObjectDetection.from_pretrained(tmp_path)
    assert model.config.embedding_dim == 12 and set(model.vocabulary.names) == set(WHOLE)
    expected = Vocabulary.from_pretrained(two_clips / "other-vocabulary").select(model.vocabulary.names)
    assert torch.allclose(model.vocabulary.embeddings, expected.embeddings, atol=1e-6)
    assert model.config.vocabulary_info["encoder_fingerprint"] == expected.info["encoder_fingerprint"]


# Fields of the detector


def test_fields_of_the_detector_can_be_set(two_clips, tmp_path, capsys):
    assert _train(two_clips, tmp_path / "one", "--set", "detector_config.num_queries=9", "nms_iou=0.5") == 0
    config = DeCoDetrForObjectDetection.from_pretrained(tmp_path / "one").config
    assert config.detector_config.num_queries == 9 and config.nms_iou == 0.5
    more = ["--set", "detector_config.dropout=0.25", "--text-model", two_clips / "clip", "--image-size", "64"]
    assert _train(two_clips, tmp_path / "two", *more, start=("--detector", "detector")) == 0
    assert DeCoDetrForObjectDetection.from_pretrained(tmp_path / "two").config.detector_config.dropout == 0.25
    more = ["--set", "detector_config.num_queries=9", *more[2:]]
    assert _train(two_clips, tmp_path / "three", *more, start=("--detector", "detector")) == 1
    assert "changes shapes of trained weights" in capsys.readouterr().err
    assert _train(two_clips, tmp_path / "four", "--set", "semantic_hidden_dim=24") == 1
    assert "give --reset-semantics" in capsys.readouterr().err


# Time


def test_a_refusal_does_not_read_a_large_file(two_clips, tmp_path, refused):
    """A hundred thousand images are about a minute of reading."""
    image = '{{"id": {0}, "file_name": "{0}.jpg", "width": 640, "height": 480}}'
    box = '{{"id": {0}, "image_id": {0}, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}}'
    large = tmp_path / "large.json"
    with large.open("w") as file:
        file.write('{"images": [' + ",".join(image.format(i) for i in range(100_000)) + '], "annotations": [')
        file.write(",".join(box.format(i) for i in range(100_000)) + '], "categories": [{"id": 1, "name": "cat"}]}')
    started = time.perf_counter()
    assert "--report-to nope" in refused("--train-annotations", large, "--report_to", "nope")
    assert time.perf_counter() - started < 5
