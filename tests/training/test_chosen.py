"""Commands that say no length and no rates: what they choose is said, recorded, obeyed, and the same when resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.pool_data import WHOLE
from helpers.tiny_models import tiny_config

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, PrototypePool, Vocabulary
from decodetr.cli import main
from decodetr.training.options.options import TrainOptions
from decodetr.training.planning import chosen as module
from decodetr.training.planning.choices import NEW, PRETRAINED, TRAINED
from decodetr.training.planning.chosen import CHOSEN, situation_of


def _words(two_clips, output, *more):
    return [
        "train", "--data", str(two_clips / "data"), "--model", str(two_clips / "model"), "--output_dir", str(output),
        "--names-split", "none", "--regions", "none", "--val-annotations", "none", "--streams", "semantic",
        "--cache_features", "true", "--report_to", "none", "--use_cpu", "true", "--disable_tqdm", "true",
        *map(str, more),
    ]  # fmt: skip


def _state(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def _recorded(folder):
    return DeCoDetrConfig.from_pretrained(folder).training_info.get(CHOSEN)


def _arguments(folder):
    return torch.load(folder / "training_args.bin", weights_only=False)


def test_what_is_chosen_is_used_said_and_recorded(two_clips, tmp_path, caplog):
    assert main(_words(two_clips, tmp_path)) == 0
    found, used = _recorded(tmp_path), _arguments(tmp_path)
    assert found["cache_views"] == 2 and found["per_device_train_batch_size"] == 8
    for name, value in found.items():
        assert getattr(used, name) == value, name
    assert _state(tmp_path)["global_step"] == found["max_steps"] > 10
    (said,) = [record.message for record in caplog.records if record.message.startswith("Chosen for ")]
    assert f"--max-steps {found['max_steps']} " in said and "a trained semantic stream over cached features" in said
    assert f"max steps: {found['max_steps']}" in (tmp_path / "README.md").read_text()
    lines = [entry["step"] for entry in _state(tmp_path)["log_history"] if "loss_align" in entry]
    assert lines[0] == 1 and len(lines) >= 20  # a short run has a curve too


def test_a_stream_that_a_localization_run_left_random_is_new():
    def semantics(info, **start):
        config = tiny_config()
        config.training_info = info
        training = SimpleNamespace(streams="joint", cache_features=False, world_size=1, gradient_accumulation_steps=1)
        processor = SimpleNamespace(size={"height": 64, "width": 96})
        found = situation_of(TrainOptions(**start), training, 7, config, processor)
        assert (found.width, found.side, found.images) == (32, 96, 7)
        return found.detector, found.semantics

    assert semantics({"pool": "random"}, model="m") == (TRAINED, NEW)
    assert semantics({"pool_info": {}}, model="m") == semantics(None, model="m") == (TRAINED, TRAINED)
    assert semantics(None, model="m", reset_semantics=True) == semantics(None, detector="d") == (PRETRAINED, NEW)
    assert semantics(None, config="c") == (NEW, NEW)


def test_words_and_recipes_are_obeyed(two_clips, tmp_path, caplog):
    recipe = {"max_steps": 3, "semantic_learning_rate": 1e-4, "lr_scheduler_type": "linear", "cache-views": 1}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    more = ["--recipe", tmp_path / "mine.yaml", "--learning-rate=5e-5", "--per_device_train_batch_size", "2"]
    assert main(_words(two_clips, tmp_path / "run", *more, "--warmup_steps", "0", "--align_weight_start", "0.5")) == 0
    assert _recorded(tmp_path / "run") is None and "Chosen for " not in caplog.text
    used = _arguments(tmp_path / "run")
    assert (used.max_steps, used.semantic_learning_rate, used.learning_rate) == (3, 1e-4, 5e-5)
    assert (used.lr_scheduler_type, used.warmup_steps, used.per_device_train_batch_size) == ("linear", 0, 2)


def test_a_default_that_is_given_is_given(two_clips, tmp_path):
    """Words are looked for, not values."""
    more = "--learning_rate 1e-4 --lr_scheduler_type linear --num_train_epochs 3 --cache_views 1".split()
    assert main(_words(two_clips, tmp_path, *more)) == 0
    used = _arguments(tmp_path)
    assert (used.semantic_learning_rate, used.lr_scheduler_type, used.max_steps) == (None, "linear", -1)
    assert _recorded(tmp_path).keys() == {"per_device_train_batch_size", "align_weight_start", "warmup_steps"}


def test_a_run_goes_on_with_what_it_chose(two_clips, tmp_path, monkeypatch, capsys):
    """Also when it is made longer, and by a version that would choose otherwise; another run does not."""
    output, saving = tmp_path / "run", ["--save_strategy", "steps", "--save_steps", "2"]
    assert main(_words(two_clips, output, *saving, "--max_steps", "4")) == 0
    first = _recorded(output)
    assert first["warmup_steps"] == 0
    choose = module.choose
    monkeypatch.setattr(module, "choose", lambda *_: {**choose(*_), "semantic_learning_rate": 0.5, "warmup_steps": 3})
    longer = [*saving, "--max_steps", "6", "--resume_from_checkpoint", "last"]
    assert main(_words(two_clips, output, *longer)) == 0
    assert _state(output)["global_step"] == 6 and _recorded(output) == first
    assert main(_words(two_clips, output, *longer, "--seed", "7")) == 1
    error = capsys.readouterr().err
    assert "settings.seed: 42 there, 7 here" in error
    assert f"semantic_learning_rate: {first['semantic_learning_rate']} there, 0.5 here" in error


def test_a_run_that_has_not_learned_says_so_and_its_card_too(two_clips, tmp_path, caplog):
    more = ["--reset-semantics", "--semantic_learning_rate", "1e-9", "--max_steps", "8", "--cache_views", "1"]
    assert main(_words(two_clips, tmp_path, *more)) == 0
    warned = [record.message for record in caplog.records if "has not learned" in record.message]
    assert any("loss_align (names)" in text for text in warned) and "--semantic-learning-rate" in warned[0]
    assert "## Not learned" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_another_clip_takes_the_old_ones_temperatures_with_it(two_clips, tmp_path, caplog):
    """A model of one CLIP, tuned for its cosines, becomes one of another width by flags alone."""
    model = DeCoDetrForObjectDetection.from_pretrained(two_clips / "model")
    tuned = {"background_threshold": 0.95, "name_temperature": 0.02, "nms_iou": 0.6, "distill_weight": 3.0}
    for name, value in tuned.items():
        setattr(model.config, name, value)
    model.save_pretrained(tmp_path / "tuned")
    (tmp_path / "tuned/preprocessor_config.json").write_text(
        (two_clips / "model/preprocessor_config.json").read_text()
    )
    names = Vocabulary.from_pretrained(two_clips / "other-vocabulary")
    pool = PrototypePool.random(3, 0, 12, torch.Generator().manual_seed(0))
    pool.info = {key: names.info[key] for key in ("encoder", "encoder_fingerprint")}
    pool.save_pretrained(tmp_path / "pool")
    tables = ["--pool", tmp_path / "pool", "--vocabulary", two_clips / "other-vocabulary"]
    more = ["--reset-semantics", "--max_steps", "1", "--set", "distill_weight=2.0"]
    words = _words(two_clips, tmp_path / "run", *tables, *more)
    words[words.index("--model") + 1] = str(tmp_path / "tuned")
    assert main(words) == 0
    config, default = DeCoDetrConfig.from_pretrained(tmp_path / "run"), DeCoDetrConfig()
    assert (config.embedding_dim, config.nms_iou, config.distill_weight) == (12, 0.6, 2.0)
    for name in ("background_threshold", "name_temperature"):
        assert getattr(config, name) == getattr(default, name)
        assert (
            f"{name} {getattr(default, name)} (the model's {tuned[name]} was for its own pool; --set keeps it)"
            in caplog.text
        )
    assert "distill_weight" not in caplog.text
    for name, value in {"region_channels": 96, "semantic_hidden_dim": 512, "semantic_dropout": 0.3}.items():
        assert getattr(config, name) == value
        assert f"{name} {value} (the model's semantic stream has {getattr(model.config, name)}; " in caplog.text
    assert set(DeCoDetrForObjectDetection.from_pretrained(tmp_path / "run").vocabulary.names) == set(WHOLE)


def test_semantics_that_begin_anew_begin_with_what_the_pool_says(two_clips, tmp_path):
    """Also of the same CLIP; a run that goes on keeps what the model has."""
    tuned = ["--set", "background_threshold=0.95", "--max_steps", "1"]
    assert main(_words(two_clips, tmp_path / "one", *tuned)) == 0
    for more, kept in (["--reset-semantics"], None), (["--reset-semantics", *tuned], 0.95), ([], 0.95):
        words = _words(two_clips, tmp_path / str(len(more)), "--max_steps", "1", *more)
        words[words.index("--model") + 1] = str(tmp_path / "one")
        assert main(words) == 0
        assert DeCoDetrConfig.from_pretrained(tmp_path / str(len(more))).background_threshold == kept


@pytest.mark.parametrize("views, code", [([], 0), (["--cache_views", "1"], 1)])
def test_blur_needs_a_view_that_is_not_refused_before_it_is_chosen(two_clips, tmp_path, views, code):
    assert main(_words(two_clips, tmp_path, "--blur", "0.5", "--max_steps", "1", *views)) == code
