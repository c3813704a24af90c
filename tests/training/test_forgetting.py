"""Fine-tuning without forgetting: AP before and after, the model's own regions, replay, names that are new."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pool_data import BASE, NOVEL
from helpers.settings_runs import two_steps

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor
from decodetr.evaluation.loop import evaluate_model
from decodetr.processing import CocoAnnotations, DetectionAugmentation, RegionTable
from decodetr.processing.detection_dataset import TargetOptions
from decodetr.training.data.replay import ReplayedDataset, replay_dataset
from decodetr.training.data.self_regions import self_regions
from decodetr.training.results.forgetting import ForgettingReport


@pytest.fixture(scope="module")
def sure(world, tmp_path_factory):
    """The world's model, with an objectness that makes its boxes regions."""
    model = DeCoDetrForObjectDetection.from_pretrained(world / "model")
    with torch.no_grad():
        for head in (model.detector.model.decoder.class_embed or [])[-1:]:
            head.bias.fill_(1.0)
    folder = tmp_path_factory.mktemp("sure")
    model.save_pretrained(folder)
    DeCoDetrImageProcessor.from_pretrained(world / "model").save_pretrained(folder)
    return folder


def _load(folder):
    return DeCoDetrForObjectDetection.from_pretrained(folder).eval()


def _data(world):
    return CocoAnnotations.load(world / "data/annotations/train.json")


def test_groups_and_table():
    class Coco:
        names = ["a", "b", "c", "unknown"]

    report = ForgettingReport("nowhere", ["a", "x"], "data")
    assert report.groups(Coco, ["c", "b", "a", "x"]) == {"trained": ["a"], "held_out": ["b", "c"]}
    assert report.groups(Coco, ["a"]) == {"trained": ["a"]}
    report.content = {
        "before": {"AP50_trained": 50.0, "AP50_held_out": 40.25, "AP_trained": 30.0},
        "after": {"AP50_trained": 61.5, "AP50_held_out": 39.0, "AP_held_out": 20.0},
    }
    assert report.table().splitlines()[2:] == [
        "| AP50, names with annotations in training | 50.0 | 61.5 | +11.5 |",
        "| AP50, held-out names | 40.2 | 39.0 | -1.2 |",
    ]
    assert report.has_held_out()


def test_a_fine_tune_reports_both_ends(world, sure, tmp_path):
    """Before and after are what an evaluation of the two models says; held-out names are those without annotation."""
    annotations = str(world / "data/annotations/train.json")
    more = ("--model", str(sure), "--val-annotations", annotations, "--learning_rate", "1e-3")
    assert two_steps(world, tmp_path, *more) == 0
    report, coco = json.loads((tmp_path / "forgetting.json").read_text()), _data(world)
    assert set(report["trained_names"]) == set(BASE)
    processor = DeCoDetrImageProcessor.from_pretrained(sure)
    for end, folder in (("before", sure), ("after", tmp_path)):
        model = _load(folder)
        per_name = evaluate_model(model, processor, coco, model.vocabulary.names, progress=False)["per_name"]
        for group, names in (("trained", BASE), ("held_out", NOVEL)):
            expected = np.mean([per_name[name]["AP50"] for name in names if name in per_name])
            assert report[end][f"AP50_{group}"] == pytest.approx(expected, abs=1e-3), (end, group)
    card = (tmp_path / "README.md").read_text()
    assert "## Before and after" in card and "| AP50, held-out names |" in card
    assert "The starting point and the trained model; held-out names: " in card


@pytest.mark.slow
def test_a_run_that_starts_again_trains_the_same(world, sure, tmp_path):
    """What was measured before is kept, and measuring moves no random number."""
    more = ("--model", str(sure), "--val-annotations", str(world / "data/annotations/train.json"))
    assert two_steps(world, tmp_path, *more) == 0
    first, report = _load(tmp_path).state_dict(), json.loads((tmp_path / "forgetting.json").read_text())
    report["before"]["AP50_trained"] = 12.5
    (tmp_path / "forgetting.json").write_text(json.dumps(report))
    more += ("--overwrite",)
    assert two_steps(world, tmp_path, *more) == 0
    assert json.loads((tmp_path / "forgetting.json").read_text())["before"]["AP50_trained"] == 12.5
    second = _load(tmp_path).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert two_steps(world, tmp_path, *more, "--names-split", "none") == 0  # other names: measured again
    assert json.loads((tmp_path / "forgetting.json").read_text())["before"].get("AP50_trained") != 12.5


def test_held_out_data(world, sure, tmp_path):
    """A data set of its own for held-out names; without its names in training there is nothing else to measure."""
    held_out = tmp_path / "held_out/annotations"
    held_out.mkdir(parents=True)
    (held_out / "val.json").write_text((world / "data/annotations/train.json").read_text())
    (tmp_path / "held_out/val").symlink_to(world / "data/train")
    more = ("--model", str(sure), "--held-out-data", str(tmp_path / "held_out"))
    assert two_steps(world, tmp_path / "run", *more) == 0
    report = json.loads((tmp_path / "run/forgetting.json").read_text())
    assert set(report["before"]) == set(report["after"]) == {"AP_held_out", "AP50_held_out"}
    assert report["data"] == str(tmp_path / "held_out")


def test_own_regions_teach_what_the_model_says(world, sure):
    """Boxes are the model's, apart from annotated ones; as CLIP's distribution, an embedding gives its own scores."""
    model, coco = _load(sure), _data(world)
    processor = DeCoDetrImageProcessor.from_pretrained(sure)
    model.train().detector.eval()  # frozen, as a run has it
    modes = [module.training for module in model.modules()]
    table = self_regions(model, coco, processor, batch_size=3)
    assert len(table) > 10 and [module.training for module in model.modules()] == modes
    model.eval()
    entry = next(image for image in coco.images if len(table.get(image["image_id"])["boxes"]) > 1)
    found = table.get(entry["image_id"])
    from decodetr.processing import read_image

    inputs = processor(read_image(entry["path"]), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_prototype_weights=True)
        log_probs, _ = model.semantic_stream.name_log_probs(outputs.semantic_embeds, model.tables())
    boxes = outputs.pred_boxes[0] * torch.tensor([entry["width"], entry["height"]] * 2)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = corners.clamp(min=torch.zeros(4), max=torch.tensor([entry["width"], entry["height"]] * 2).float())
    query = torch.cdist(torch.from_numpy(found["boxes"]), corners).argmin(1)
    assert torch.allclose(torch.from_numpy(found["boxes"]), corners[query], atol=1e-3)
    assert torch.allclose(torch.from_numpy(found["proposal_scores"]), outputs.objectness_logits[0, query].sigmoid())
    temperature = model.tables().scales.name_temperature
    logits = torch.from_numpy(found["image_embeds"]) @ model.vocabulary.embeddings.T / temperature
    own = log_probs[0, query]
    assert torch.allclose(logits.log_softmax(-1), own - own.logsumexp(-1, keepdim=True), atol=2e-2)
    pool = model.prototype_pool.prototypes[outputs.prototype_weights[0, query].argmax(-1)]
    assert torch.allclose(torch.from_numpy(found["text_embeds"]), pool, atol=1e-3)  # kept in float16


def test_processes_share_the_images_and_have_all_regions(world, sure, monkeypatch):
    import decodetr.training.data.self_regions as module

    coco, processor = _data(world), DeCoDetrImageProcessor.from_pretrained(sure)
    whole = self_regions(_load(sure), coco, processor)
    models = [_load(sure), _load(sure)]  # not in threads: loading is not made for them
    both, folders, tables = threading.Barrier(2, timeout=60), [], {}

    def broadcast(values):
        folders.extend(value for value in values if value)
        both.wait()
        return folders

    monkeypatch.setattr(module, "broadcast_object_list", broadcast)
    monkeypatch.setattr(module, "wait_for_everyone", both.wait)

    def run(rank):
        tables[rank] = self_regions(models[rank], coco, processor, rank=rank, processes=2)

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    [rank.start() for rank in ranks], [rank.join() for rank in ranks]
    (folder,) = map(Path, folders)
    assert [len(list(folder.glob("*.arrow"))), len(tables[1])] == [2, len(whole)]
    for image_id in whole.image_ids:
        found = [table.get(image_id) for table in (whole, tables[0], tables[1])]
        assert np.allclose(found[1]["boxes"], found[0]["boxes"], atol=1e-3)
        assert all(np.array_equal(found[1][name], found[2][name]) for name in found[1])
    del tables[0]
    assert not folder.exists()  # with the table of the first process


@pytest.mark.parametrize(
    "more, message",
    [
        (("--regions", "self", "--reset-semantics"), "--regions self needs a trained starting point"),
        (("--replay-data", "data"), "--replay-data and --replay-regions go together"),
    ],
)
def test_what_does_not_go_together(world, tmp_path, capsys, more, message):
    assert two_steps(world, tmp_path, *more) == 1
    assert message in capsys.readouterr().err


def test_replay(world, tmp_path):
    """Images that have regions come back, without annotations of other names, augmented with the others."""
    coco, regions = _data(world), RegionTable.load(world / "regions")
    processor = DeCoDetrImageProcessor(size={"height": 64, "width": 64})
    drawn = replay_dataset(coco, processor, BASE[:1], TargetOptions(regions), images=3, seed=1)
    assert len(drawn) == 3 and {image["image_id"] for image in drawn.coco.images} <= set(regions.image_ids)
    again = replay_dataset(coco, processor, BASE[:1], TargetOptions(regions), images=3, seed=1)
    assert drawn.coco.images == again.coco.images
    assert all((item["labels"]["class_labels"] == 0).all() for item in drawn)
    targets = TargetOptions(regions, DetectionAugmentation(0))
    parts = [replay_dataset(coco, processor, BASE[:1], targets, images=3, seed=1) for _ in range(2)]
    joined = ReplayedDataset(*parts)
    joined.set_epoch(3)
    assert joined.targets.augmentation is targets.augmentation and len(joined) == 6
    assert torch.equal(joined[4]["pixel_values"], joined[1]["pixel_values"])
    plain = joined.without_augmentation()
    assert torch.equal(plain[4]["pixel_values"], drawn[1]["pixel_values"])
    assert not torch.equal(joined[4]["pixel_values"], plain[4]["pixel_values"])
    more = ("--replay-data", str(world / "data"), "--replay-regions", str(world / "regions"), "--replay-images", "4")
    assert two_steps(world, tmp_path, *more, "--streams", "semantic", "--cache_features", "true") == 0
    assert _load(tmp_path).config.training_info["replay_data"] == str(world / "data")


def test_new_names_join_the_old_ones(world, tmp_path, capsys):
    """A category that the model has no name for is embedded by the text model that made the others."""
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "train").symlink_to(world / "data/train")
    document = json.loads((world / "data/annotations/train.json").read_text())
    document["categories"][0]["name"] = "crème brûlée, burnt"
    (data / "annotations/train.json").write_text(json.dumps(document))
    more = ("--data", str(data), "--val-share", "0.3")
    assert two_steps(world, tmp_path / "run", *more) == 0
    model, old = _load(tmp_path / "run"), _load(world / "model")
    assert model.vocabulary.names == [*old.vocabulary.names, "crème brûlée, burnt"]
    n = len(old.vocabulary)
    assert torch.equal(model.vocabulary.embeddings[:n], old.vocabulary.embeddings)
    assert model.vocabulary.embeddings[n].norm() == pytest.approx(1, abs=1e-5)
    metrics = json.loads((tmp_path / "run/eval_results.json").read_text())
    assert "eval_AP50_trained" in metrics


def test_categories_without_a_box_are_not_trained_names(world, tmp_path):
    """A subset that lists all categories: those that it has no object of are held out, and not taken for absent."""
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "train").symlink_to(world / "data/train")
    document = json.loads((world / "data/annotations/train.json").read_text())
    cat = next(row["id"] for row in document["categories"] if row["name"] == BASE[0])
    (data / "annotations/val.json").write_text(json.dumps(document))
    (data / "val").symlink_to(world / "data/train")
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] == cat]
    (data / "annotations/train.json").write_text(json.dumps(document))
    val = ("--val-annotations", str(data / "annotations/val.json"))
    assert two_steps(world, tmp_path / "run", "--data", str(data), *val) == 0
    report = json.loads((tmp_path / "run/forgetting.json").read_text())
    assert report["trained_names"] == BASE[:1] and "AP50_held_out" in report["before"]
    assert _load(tmp_path / "run").config.training_info["annotated_names"] == BASE[:1]


def test_a_share_for_validation_keeps_novel_names(world, tmp_path):
    assert two_steps(world, tmp_path, "--val-share", "0.3") == 0
    assert "eval_AP50_novel" in json.loads((tmp_path / "eval_results.json").read_text())
