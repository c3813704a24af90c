"""Ceilings: one stream is told the truth, or the teacher alone names annotated boxes."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.evaluations import ROWS, run_eval, write_coco
from helpers.tiny_models import tiny_model
from helpers.tiny_teachers import write_tiny_clip
from pyarrow.parquet import read_table

from decodetr import DeCoDetrConfig
from decodetr.annotations.coco import CocoAnnotations, read_annotated
from decodetr.evaluation.predictors import (
    BoxOracle,
    NameOracle,
    TeacherNamesOracle,
    TeacherOracle,
    annotated,
    best_pairs,
)
from decodetr.modeling_decodetr import Vocabulary

NAMES = ["dog", "yak", "cat"]


@pytest.fixture
def coco(tmp_path):
    return CocoAnnotations.load(write_coco(tmp_path / "data", ["cat", "dog"], ROWS))


def oracle(kind, coco):
    return kind(SimpleNamespace(vocabulary=SimpleNamespace(names=NAMES), config=DeCoDetrConfig()), None, coco)


def outputs(boxes, objectness, names):
    """Of one image: boxes x0, y0, x1, y1 in pixels of 96 x 64, objectness in 0..1, name probabilities (N, K)."""
    corners = torch.tensor(boxes) / torch.tensor([96.0, 64, 96, 64])
    centers = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    objectness = torch.tensor(objectness)
    scores = objectness[:, None] * torch.tensor(names)
    return SimpleNamespace(
        pred_boxes=centers[None], objectness_logits=objectness.logit()[None], logits=scores.logit()[None]
    )


# The cat of image 5 is at [8, 8, 40, 40], the dog at [50, 20, 90, 60].
FOUND = outputs(
    [[9.0, 9, 40, 40], [50.0, 20, 80, 60], [8.0, 8, 40, 40], [0.0, 50, 5, 60]],
    [0.8, 0.5, 1e-13, 0.4],
    [[0.2, 0.2, 0.6], [0.1, 0.7, 0.2], [0.9, 0.05, 0.05], [0.3, 0.1, 0.05]],
)


def test_annotated_boxes_take_the_names_of_the_query_that_fits_best(coco):
    (found,) = oracle(BoxOracle, coco).results(FOUND, coco.images[:1])
    # The third query fits the cat exactly, but it is suppressed.
    assert found["scores"].tolist()[:3] == pytest.approx([0.7, 0.6, 0.2], abs=1e-5) and len(found["scores"]) == 6
    assert [NAMES[label] for label in found["labels"][:2]] == ["yak", "cat"]
    assert found["boxes"][:2].tolist() == [[50, 20, 90, 60], [8, 8, 40, 40]]
    (nothing,) = oracle(BoxOracle, coco).results(FOUND, coco.images[1:2])  # no object
    assert len(nothing["scores"]) == len(nothing["labels"]) == len(nothing["boxes"]) == 0


def test_our_boxes_take_annotated_names(coco):
    (found,) = oracle(NameOracle, coco).results(FOUND, coco.images[:1])
    assert [NAMES[label] for label in found["labels"]] == ["cat", "dog", "dog", "cat"]  # the third keeps its own best
    assert found["scores"].tolist() == pytest.approx([0.8, 0.5, 0.4, 0], abs=1e-5)
    assert found["boxes"][0].tolist() == pytest.approx([9, 9, 40, 40], abs=1e-4)
    (alone,) = oracle(NameOracle, coco).results(FOUND, coco.images[1:2])
    assert [NAMES[label] for label in alone["labels"]] == ["cat", "yak", "dog", "dog"]


def test_the_teacher_alone(coco, tmp_path):
    from decodetr.pool_builder.crops import crop_region
    from decodetr.pool_builder.embedder import ClipEmbedder

    clip = ClipEmbedder(write_tiny_clip(tmp_path / "clip"))
    vocabulary = Vocabulary(NAMES, torch.from_numpy(clip.embed_texts(NAMES)), clip.info)
    teacher = TeacherOracle(clip, vocabulary, coco)
    picture = teacher.prepare(read_annotated(coco.images[0]))
    found, nothing = teacher([picture, picture], [coco.images[0], coco.images[1]])
    assert len(found["scores"]) == 6 and len(nothing["scores"]) == 0
    boxes, categories = annotated(coco, coco.images[0])
    assert boxes.tolist() == [[8, 8, 40, 40], [50, 20, 90, 60]] and categories.tolist() == [0, 1]
    crop = torch.from_numpy(clip.embed_images([crop_region(picture, boxes[1].tolist(), clip.size)]))
    expected = (clip.model.logit_scale.exp() * crop @ vocabulary.embeddings.T).softmax(-1)[0]
    of_dog = found["boxes"][:, 0] == 50
    assert found["scores"][of_dog].tolist() == pytest.approx(sorted(expected.tolist(), reverse=True))


def test_our_boxes_take_the_names_of_the_teacher(coco, tmp_path, monkeypatch):
    from decodetr.pool_builder.crops import crop_region
    from decodetr.pool_builder.embedder import ClipEmbedder

    clip = ClipEmbedder(write_tiny_clip(tmp_path / "clip"))
    vocabulary = Vocabulary(NAMES, torch.from_numpy(clip.embed_texts(NAMES)), clip.info)
    picture = read_annotated(coco.images[0])
    teacher = TeacherNamesOracle(SimpleNamespace(vocabulary=vocabulary, config=DeCoDetrConfig()), None, clip, 3)
    monkeypatch.setattr(teacher, "forward", lambda inputs: FOUND)
    (found,) = teacher([{"pixel_values": torch.zeros(3, 8, 8), "picture": picture}], [coco.images[0]])

    def names_of(box):
        crop = torch.from_numpy(clip.embed_images([crop_region(picture, box, clip.size)]))
        return (clip.model.logit_scale.exp() * crop @ vocabulary.embeddings.T).softmax(-1)[0]

    # The best three of three boxes: the suppressed one is not named, however well it fits.
    boxes = {0.8: [9.0, 9, 40, 40], 0.5: [50.0, 20, 80, 60], 0.4: [0.0, 50, 5, 60]}
    expected = torch.cat([sure * names_of(box) for sure, box in boxes.items()]).sort(descending=True)
    assert found["scores"].tolist() == pytest.approx(expected.values[:3].tolist(), abs=1e-5)
    assert found["labels"].tolist() == (expected.indices[:3] % 3).tolist()
    placed = torch.tensor(list(boxes.values()))[expected.indices[:3] // 3]
    assert torch.allclose(found["boxes"], placed, atol=1e-3)
    # With two boxes at most, the least certain one is not looked at.
    teacher.max_detections = 2
    (found,) = teacher([{"pixel_values": torch.zeros(3, 8, 8), "picture": picture}], [coco.images[0]])
    assert len(found["scores"]) == 2 and found["boxes"][:, 2].min() > 5.1


def test_best_pairs():
    found = best_pairs(torch.tensor([[0.1, 0.6], [0.5, 0.2]]), torch.tensor([[0.0, 0, 1, 1], [2, 2, 3, 3]]), 3)
    assert found["scores"].tolist() == pytest.approx([0.6, 0.5, 0.2]) and found["labels"].tolist() == [1, 0, 1]
    assert found["boxes"][:, 0].tolist() == [0, 2, 2]


@pytest.mark.parametrize("kind", ["boxes", "names", "teacher", "teacher-names"])
@pytest.mark.usefixtures("without_pages")
def test_what_the_split_lacks_no_oracle_is_told(tmp_path, kind):
    """A file with objects of a third name is, for a split of two, the same evaluation as one without them."""
    from decodetr import DeCoDetrImageProcessor

    write_tiny_clip(tmp_path / "clip", dim=16)
    model = tiny_model(names=["cat", "dog", "yak"])
    model.set_vocabulary(Vocabulary.from_text_model(["cat", "dog", "yak"], tmp_path / "clip"))
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    names_split = tmp_path / "names.json"
    names_split.write_text(json.dumps({"base": {"1": "cat"}, "novel": {"2": "dog"}}))
    rows = {**ROWS, 6: [("cat", [20, 20, 60, 60])]}
    others = {**rows, 5: [*ROWS[5], ("yak", [9, 9, 41, 41])], 8: [*ROWS[8], ("yak", [30, 10, 70, 30])]}
    runs = {}
    for folder, names, boxes in (("two", ["cat", "dog"], rows), ("three", ["cat", "yak", "dog"], others)):
        file, output = write_coco(tmp_path / folder, names, boxes), tmp_path / f"{folder} report"
        words = ["--model", tmp_path / "model", "--annotations", file, "--names-split", names_split]
        assert run_eval(*words, "--oracle", kind, "--output", output) == 0
        report = json.loads((output / "report.json").read_text())
        assert report["protocol"]["annotations"] == 4 and report["protocol"]["oracle"] == kind
        metrics = {key: value for key, value in report["metrics"].items() if "class_agnostic" not in key}
        runs[folder] = (metrics, report["errors"], read_table(output / "detections.parquet").to_pylist())
    assert runs["two"] == runs["three"]


def test_commands(coco, split, tmp_path, capsys):
    from decodetr import DeCoDetrImageProcessor

    write_tiny_clip(tmp_path / "clip", dim=16)
    vocabulary = Vocabulary.from_text_model(["cat", "dog"], tmp_path / "clip")
    model = tiny_model(names=["cat", "dog"])
    model.set_vocabulary(vocabulary)
    model.save_pretrained(tmp_path / "model")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--data", tmp_path / "data"]
    assert run_eval(*words, "--oracle", "boxes") == 0
    printed = capsys.readouterr().out
    assert "| oracle | boxes |" in printed and "| AR50 | 100.0 |" in printed and "class_agnostic" not in printed
    assert run_eval(*words, "--oracle", "names") == 0
    assert "| oracle | names |" in capsys.readouterr().out
    assert run_eval(*words, "--oracle", "teacher") == 0  # the CLIP that the vocabulary remembers
    assert "| class | CLIPModel |" in capsys.readouterr().out
    assert run_eval(*words, "--oracle", "teacher-names") == 0
    assert "| oracle | teacher-names |" in capsys.readouterr().out
    vocabulary.save_pretrained(tmp_path / "names")  # a teacher needs no detector
    alone = ["--data", tmp_path / "data", "--oracle", "teacher", "--vocabulary", tmp_path / "names"]
    assert run_eval(*words, "--oracle", "teacher", "--output", tmp_path / "with") == 0
    assert run_eval(*alone, "--output", tmp_path / "alone") == 0
    capsys.readouterr()
    reports = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("with", "alone")]
    assert reports[0]["metrics"] == reports[1]["metrics"] and "the teacher alone" in reports[1]["title"]
    assert run_eval("--data", tmp_path / "data", "--oracle", "teacher") == 1
    assert "--oracle teacher with the --vocabulary of its CLIP" in capsys.readouterr().err
    write_tiny_clip(tmp_path / "other", dim=16, seed=1)
    assert run_eval(*words, "--oracle", "teacher", "--clip", tmp_path / "other") == 1
    assert "is not the vocabulary's" in capsys.readouterr().err
    assert run_eval(*words, "--oracle", "names", "--clip", tmp_path / "clip") == 1
    assert "--clip goes with --oracle teacher or teacher-names" in capsys.readouterr().err
    assert run_eval(*words, "--oracle", "teacher", "--clip", "no/clip") == 1
    assert "the CLIP 'no/clip' cannot be loaded" in capsys.readouterr().err
