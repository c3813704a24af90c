"""`decodetr scenes models`: its commands parse, and what it ships loads and says what was measured."""

import json
import shutil

import pytest
import torch
from helpers.tiny_models import tiny_model
from safetensors.torch import load_file
from torch.nn import functional as F

from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor, PrototypePool, Vocabulary
from decodetr.cli import command_parser, main
from decodetr.scenes import shipped_models as models
from decodetr.scenes.world import NAMES
from decodetr.utils import shipped

MEASURED = {
    **{f"{key}, {size}": 61.9 for key in ("AP50", "AP50_novel", "AP50_base") for size in ("all", 12, 1)},
    **{f"absent, {size}": 0.12 for size in ("all", 12, 1)},
}
SHIPPED = shipped.resolve("scenes-decodetr")  # before a test puts its own in the place
CEILING = {"AP50": 80.0, "AP50_novel": 82.0, "AP50_base": 79.0, "recall_novel": 99.0, "recall_base": 98.0}
CEILING |= {f"{key}, own boxes": 70.0 for key in ("AP50", "AP50_novel", "AP50_base")}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A folder as a finished run leaves it, with tiny models, and hub_cards/ elsewhere."""
    run, cards = tmp_path / "run", tmp_path / "hub_cards"
    monkeypatch.setattr(models, "HUB_CARDS", cards)
    for name in models.TEACHERS:
        (run / "teachers" / name).mkdir(parents=True)
        (run / "teachers" / name / "README.md").write_text(name)
    names = [name.name for name in NAMES]
    info = {"encoder": "scenes-clip", "encoder_fingerprint": "abc", "templates": ["a photo of a {}."]}
    vocabulary = Vocabulary(names, F.normalize(torch.randn(240, 16), dim=-1), info)
    vocabulary.save_pretrained(run / "scenes-vocabulary")
    facts = {"captioner": "scenes-llava", "prompt": "What?", "delta": 0.7, "num_coarse": 5, "num_fine": 7}
    facts |= {
        "regions": 30,
        "kept": 20,
        "distinct_captions": 12,
        "encoder": "scenes-clip",
        "encoder_fingerprint": "abc",
    }
    pool = PrototypePool.random(5, 7, 16)
    pool.info = facts
    pool.save_pretrained(run / "built-2" / "pool")
    model = tiny_model()
    model.set_pool(pool, vocabulary)
    model.config.training_info = {"training_names": names[:180]}
    model.save_pretrained(run / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(run / "model")
    for split in ("val", "test"):
        (run / f"measured-{split}.json").write_text(json.dumps({"measured": MEASURED, "ceiling": CEILING}))
    return run, cards, model


def test_ships_models_in_half_precision_with_exact_tables_and_true_cards(finished, monkeypatch):
    run, cards, model = finished
    (run / "stages.json").write_text(json.dumps({"settings": {"made by": "decodetr scenes models"}, "seconds": {}}))

    def all_done(folder, stages, count, record, run_command):
        stages = list(stages)
        assert len(stages) == count
        return 0, [" ".join(["decodetr", *map(str, words)]) for _, words in stages]

    monkeypatch.setattr(models, "run_stages", all_done)
    assert models.make_models(run, main) == 0
    stored = load_file(cards / "scenes-decodetr" / "model.safetensors")
    assert stored["prototype_pool.prototypes"].dtype == torch.float32
    assert stored["semantic_stream.predictor.weight"].dtype == torch.float16
    shipped = DeCoDetrForObjectDetection.from_pretrained(cards / "scenes-decodetr")
    assert shipped.dtype == torch.float32
    assert torch.equal(shipped.vocabulary.embeddings, model.vocabulary.embeddings)
    weight = model.semantic_stream.predictor.weight
    assert torch.equal(shipped.semantic_stream.predictor.weight, weight.half().float())
    assert not list(cards.rglob("*.py")) and "auto_map" not in (cards / "scenes-decodetr" / "config.json").read_text()
    card = (cards / "scenes-decodetr" / "README.md").read_text()
    assert "| all names | 61.9 |" in card and "99.0 % of the novel" in card and "Boxes of 180 base names" in card
    assert "decodetr train --reset-semantics" in card and str(run) not in card
    assert "5 coarse and 7 fine" in " ".join((cards / "scenes-pool" / "README.md").read_text().split())
    assert (cards / "scenes-clip" / "README.md").read_text() == "scenes-clip"


def test_every_command_of_the_recipe_parses(finished):
    """Arguments of each stage against the parser of its command; `train` also against TrainingArguments."""
    from transformers import HfArgumentParser

    from decodetr.training.options.arguments import DeCoDetrTrainingArguments

    run, _, _ = finished
    for _, words in models._stages(run):
        words = [str(word) for word in words]
        args, rest = command_parser(words[0])[1].parse_known_args(words[1:])
        if words[0] == "train":
            fields = ["--output_dir", args.output_dir, *rest, "--use_cpu", "true"]
            HfArgumentParser(DeCoDetrTrainingArguments).parse_args_into_dataclasses(fields)
        else:
            assert rest == []


def test_the_recipe_makes_a_stream_like_the_shipped_one(finished):
    """Its widths, and where L_distill acts, are no defaults any more."""
    config = DeCoDetrConfig.from_pretrained(SHIPPED)
    run, _, _ = finished
    (words,) = (words for _, words in models._stages(run) if "--reset-semantics" in words)
    said = dict(word.split("=") for word in map(str, words) if "=" in word)
    assert said.pop("distill_at") == "query"
    said = {name: float(value) for name, value in said.items()}
    assert said == {"region_channels": config.region_channels, "semantic_dropout": config.semantic_dropout}
    assert config.semantic_hidden_dim == DeCoDetrConfig(embedding_dim=config.embedding_dim).semantic_hidden_dim


@pytest.mark.slow
def test_the_recipe_runs_in_one_go(tmp_path, monkeypatch):
    """Every stage but the teachers', with few scenes and steps: each finds what the one before it has made."""
    run, cards = tmp_path / "run", tmp_path / "hub_cards"
    for name in models.TEACHERS:
        shutil.copytree(shipped.HUB_CARDS / name, run / "teachers" / name)
    (run / "stages.json").write_text(json.dumps({"settings": {"made by": "decodetr scenes models"}, "seconds": {}}))
    for module in (models, shipped):
        monkeypatch.setattr(module, "HUB_CARDS", cards)
    monkeypatch.setattr(models, "TRAIN_SCENES", 24)
    monkeypatch.setattr(models, "LOCALIZATION", ((5e-4, 1, 3), (4e-4, 1, 2)))
    monkeypatch.setattr(models, "POOL", {"--num-coarse": 20, "--num-fine": 10, "--delta": -1})
    assert models.make_models(run, main) == 0
    seconds = json.loads((run / "stages.json").read_text())["seconds"]
    assert len(seconds) == models.STAGES - 1  # the teachers were there
    shipped_model = DeCoDetrForObjectDetection.from_pretrained(cards / "scenes-decodetr")
    info = shipped_model.config.training_info
    assert info["pseudo_box_score"] == models.PSEUDO_BOX_SCORE and len(info["training_names"]) == 180
    assert len(shipped_model.prototype_pool) == 30 and len(shipped_model.vocabulary) == 240
    measured = json.loads((run / "measured-test.json").read_text())["measured"]
    card = (cards / "scenes-decodetr" / "README.md").read_text()
    assert f"| all names | {measured['AP50_novel, all']:.1f} |" in card and str(run) not in card
