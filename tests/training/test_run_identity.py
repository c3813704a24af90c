"""A checkpoint belongs to one run: what decides its result is beside it, and no other run goes on from it."""

import json
from pathlib import Path

import pytest
from helpers.streamed_data import data_of, rows_of, streamed
from helpers.tiny_models import tiny_model
from helpers.trainings import make_parts, make_trainer, train_command

from decodetr import DeCoDetrForObjectDetection, DeCoDetrTrainer, DeCoDetrTrainingArguments
from decodetr.annotations.stream import AnnotationStream
from decodetr.cli import main
from decodetr.training.features.feature_cache import FeatureCache
from decodetr.training.options.options import TrainOptions
from decodetr.training.results.checkpoints import RUN, mark, problem, to_resume
from decodetr.training.results.identity import dataset_identity, differences
from decodetr.training.start.starting_point import start_identity
from decodetr.utils.model_identity import config_settings

RUN_A = {"start": {"weights": "a"}, "settings": {"learning_rate": 1e-4, "seed": 1}, "length": {"max_steps": 6}}
RUN_B = {**RUN_A, "settings": {"learning_rate": 5e-4, "seed": 1}}


def _checkpoint(folder, step, run=RUN_A):
    folder = Path(folder) / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if run is not None:
        (folder / RUN).write_text(json.dumps(run))
    mark(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return str(folder)


def test_only_checkpoints_of_the_run_are_gone_on_with(tmp_path, caplog):
    own, other = _checkpoint(tmp_path, 2, RUN_B), _checkpoint(tmp_path, 6, RUN_A)
    assert to_resume("last", tmp_path, RUN_B) == to_resume("auto", tmp_path, RUN_B) == own
    assert "checkpoint-6 is left out: it is of another run" in caplog.text
    assert to_resume("last", tmp_path, RUN_A) == other
    with pytest.raises(ValueError, match=r"settings.learning_rate: 0.0001 there, 0.0005 here\n.*settings, data and"):
        to_resume(other, tmp_path, RUN_B)


@pytest.mark.parametrize("word", ["last", "auto"])
def test_a_folder_of_another_run_alone_is_refused_with_what_differs(tmp_path, word):
    _checkpoint(tmp_path, 6)
    other = {**RUN_B, "start": {"weights": "b"}}
    with pytest.raises(ValueError, match="are of another run") as error:
        to_resume(word, tmp_path, other)
    assert 'start.weights: "a" there, "b" here' in str(error.value) and "learning_rate: 0.0001" in str(error.value)
    assert "seed" not in str(error.value) and "--overwrite" in str(error.value)


def test_a_longer_run_is_the_same_run_but_does_not_begin_beside_a_shorter_one(tmp_path, caplog):
    folder = _checkpoint(tmp_path, 6)
    longer = {**RUN_A, "length": {"max_steps": 9}}
    assert to_resume("last", tmp_path, longer) == to_resume(folder, tmp_path, longer) == folder
    with pytest.raises(ValueError, match="length.max_steps: 6 there, 9 here"):
        to_resume(None, tmp_path, longer)
    assert to_resume(None, tmp_path, RUN_A) is None
    assert "checkpoints of this very run, the newest checkpoint-6" in caplog.text


def test_a_run_is_told_once_and_the_next_one_again(scenes, tmp_path, caplog):
    (tmp_path / "checkpoint-9").mkdir()
    for count in (1, 2):
        trainer = make_trainer(scenes, tmp_path, max_steps=1, save_strategy="no")
        trainer.checkpoint_to_resume("auto")  # before what takes long
        trainer.train("auto")
        assert caplog.text.count("checkpoint-9 is left out") == count


def test_a_run_does_not_begin_beside_checkpoints_of_another(tmp_path):
    _checkpoint(tmp_path, 6)
    with pytest.raises(ValueError, match=r"checkpoints of another run, and a new one would mix with them"):
        to_resume(None, tmp_path, RUN_B)
    assert to_resume(None, tmp_path, RUN_B, overwrite=True) is None
    assert to_resume("auto", tmp_path, RUN_B, overwrite=True) is None
    _checkpoint(tmp_path / "old", 3, run=None)  # of a version that did not say
    with pytest.raises(ValueError, match="nothing says which run it is of"):
        to_resume("last", tmp_path / "old", RUN_A)


@pytest.mark.parametrize(
    "file, content",
    [
        ("complete.json", ""),
        ("complete.json", "[]"),
        ("complete.json", "[" * 100_000),
        ("trainer_state.json", "[]"),
        ("trainer_state.json", "{}"),
        ("run.json", ""),
    ],
)
def test_damaged_marks_are_named_and_the_one_before_is_taken(tmp_path, caplog, file, content):
    whole, damaged = _checkpoint(tmp_path, 2), Path(_checkpoint(tmp_path, 4))
    (damaged / file).write_text(content)
    assert to_resume("auto", tmp_path, RUN_A) == whole
    assert "checkpoint-4 is left out" in caplog.text and file in caplog.text + str(problem(damaged))
    with pytest.raises(ValueError, match=file):
        to_resume(str(damaged), tmp_path, RUN_A)


def test_tables_are_compared_as_they_are_not_to_the_last_digit():
    run = {"model": {"pool": {"rows": 2, "embeddings": [1.0, 2.0, 3.0, 40.0]}}}
    close = {"model": {"pool": {"rows": 2, "embeddings": [1.0000001, 2.0, 3.0, 40.00001]}}}
    other = {"model": {"pool": {"rows": 2, "embeddings": [1.1, 2.0, 3.0, 40.0]}}}
    assert differences(run, close) == [] and len(differences(run, other)) == 1


def test_a_saved_and_loaded_model_has_the_settings_of_the_one_before(tmp_path):
    model = tiny_model()
    settings = config_settings(model.config.to_dict())
    assert settings["nms_iou"] is None and settings["detector_config"]["backbone_config"]
    model.save_pretrained(tmp_path)
    for saved in (model, DeCoDetrForObjectDetection.from_pretrained(tmp_path)):
        assert differences({"model": settings}, {"model": config_settings(saved.config.to_dict())}) == []


def test_a_run_is_the_same_where_its_backbone_or_its_stream_lies_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)

    def started(backbone):
        return start_identity(TrainOptions(backbone=backbone))

    def name_of_stream(place):
        stream = AnnotationStream(data_of(rows_of(1)).to_iterable_dataset(), f"{place} (train)")
        return dataset_identity(streamed(stream))["stream"]

    for backbone in ("here", "here/model.safetensors"):
        assert started(backbone) == started(str(tmp_path / backbone)) != started("resnet50.tv_in1k")
    before = started("here")
    names = [name_of_stream(place) for place in ("here", tmp_path / "here", "owner/here")]
    assert names[0] == names[1] == "here (train)" != names[2]
    (tmp_path / "here" / "model.safetensors").write_bytes(b"others")
    assert started("here") != before
    assert started("resnet50.tv_in1k") == {"weights": "random", "backbone": "resnet50.tv_in1k"}


def test_a_trainer_knows_data_names_pool_and_settings_of_its_run(scenes, tmp_path):
    first = make_trainer(scenes, tmp_path)
    again = make_trainer(scenes, tmp_path, max_steps=9, logging_steps=7, per_device_train_batch_size=2,
                     gradient_accumulation_steps=2, save_steps=3)  # fmt: skip
    assert [line.split(":")[0].strip() for line in differences(first.identity(), again.identity())] == [
        "length.max_steps"
    ]
    changed = {
        "settings.learning_rate": make_trainer(scenes, tmp_path, learning_rate=2e-3),
        "settings.streams": make_trainer(scenes, tmp_path, streams="localization"),
        "settings.images a step": make_trainer(scenes, tmp_path, per_device_train_batch_size=2),
        "model.nms_iou": make_trainer(scenes, tmp_path, config={"nms_iou": 0.5}),
        "data.augmentation": make_trainer(scenes, tmp_path, augment=False),
    }
    for key, trainer in changed.items():
        lines = differences(first.identity(), trainer.identity())
        assert lines and all(line.strip().startswith(key) for line in lines), (key, lines)
    model, train, _, processor, deployed = make_parts(scenes)
    train.coco = train.coco.select_images([image["image_id"] for image in train.coco.images[1:]])
    train.names = train.names[::-1]
    model.set_vocabulary(model.vocabulary.select(train.names))
    args = DeCoDetrTrainingArguments(output_dir=str(tmp_path), max_steps=4, report_to="none", use_cpu=True)
    other = DeCoDetrTrainer(model, args, train, processing_class=processor, deployment_vocabulary=deployed)
    found = "".join(differences(first.identity(), other.identity()))
    assert "data.annotations" in found and "model.training names.content" in found


def test_the_command_refuses_the_checkpoints_of_other_settings_and_says_when_no_step_is_left(
    scenes,
    tmp_path,
    capsys,
    caplog,
):
    output, other = tmp_path / "run", ["--learning_rate", "2e-3"]
    more = ["--save_steps", "1", "--val-annotations", "none", "--streams", "semantic"]
    assert main(train_command(scenes, output, *more, "--max_steps", "2")) == 0
    before = (output / "checkpoint-2" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(train_command(scenes, output, *more, *other, "--max_steps", "1")) == 1
    assert "has a finished run; give another --output, --overwrite to replace it" in capsys.readouterr().err
    assert (
        main(train_command(scenes, output, *more, *other, "--max_steps", "4", "--resume_from_checkpoint", "last")) == 1
    )
    assert "settings.learning_rate: 0.0001 there, 0.002 here" in capsys.readouterr().err
    assert (output / "checkpoint-2" / "model.safetensors").read_bytes() == before
    assert main(train_command(scenes, output, *more, "--max_steps", "2", "--resume_from_checkpoint", "last")) == 0
    assert "no step was trained" in caplog.text
    assert (
        main(train_command(scenes, output, *more, *other, "--max_steps", "1", "--overwrite_output_dir", "true")) == 0
    )
    assert sorted(folder.name for folder in output.glob("checkpoint-*")) == ["checkpoint-1"]


def test_an_interrupted_run_says_what_goes_on_from_where(scenes, tmp_path, monkeypatch, capsys, caplog):
    output = tmp_path / "run"
    words = train_command(scenes, output, "--save_steps", "1", "--val-annotations", "none", "--streams", "semantic")
    step, stop_at = DeCoDetrTrainer.training_step, 0

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == stop_at:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DeCoDetrTrainer, "training_step", interrupted)
    assert main([*words, "--max_steps", "4"]) == 130
    assert f"Stopped after 0 steps; {output} has no complete checkpoint yet" in caplog.text
    stop_at = 2
    assert main([*words, "--max_steps", "4"]) == 130
    said = "Stopped after 2 steps; the same command goes on from"
    assert f"{said} {output / 'checkpoint-2'}" in caplog.text and "interrupted" in capsys.readouterr().err
    stop_at = None
    again, trained = [], DeCoDetrTrainer.training_step
    monkeypatch.setattr(
        DeCoDetrTrainer, "training_step", lambda self, *a, **k: again.append(0) or trained(self, *a, **k)
    )
    assert main([*words, "--max_steps", "4"]) == 0
    assert len(again) == 2 and (output / "checkpoint-4").is_dir() and (output / "README.md").is_file()
    assert main([*words, "--max_steps", "4"]) == 1 and len(again) == 2
    (output / "training_args.bin").unlink()
    assert main([*words, "--max_steps", "4", "--overwrite"]) == 1
    assert "has a model that no run of `decodetr train` wrote there" in capsys.readouterr().err


def test_cached_features_of_another_detector_or_other_names_are_refused(scenes, tmp_path):
    trainer = make_trainer(scenes, tmp_path, streams="semantic", cache_features=True)
    cache, args = trainer.train_dataset, trainer.args
    assert isinstance(cache, FeatureCache)
    model = make_parts(scenes)[0]
    model.set_vocabulary(model.vocabulary.select(model.vocabulary.names[1:]))
    with pytest.raises(ValueError, match="features of another model: they differ in names"):
        DeCoDetrTrainer(model, args, cache)
    model = make_parts(scenes)[0]
    next(model.detector.parameters()).data.add_(1.0)
    with pytest.raises(ValueError, match="differ in detector"):
        DeCoDetrTrainer(model, args, cache)
