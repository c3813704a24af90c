"""A run that trains the boxes alone is measured and chosen by the boxes alone."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_models import tiny_config
from helpers.trainings import make_trainer, train_command

from decodetr import DeCoDetrForObjectDetection, DeCoDetrImageProcessor, DeCoDetrTrainingArguments
from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.training.data.detector_boxes import DetectorBoxes


@pytest.mark.parametrize(
    "streams, asked, metric",
    [
        ("localization", "eval_AP50_base", "eval_class_agnostic_AP50"),
        ("localization", "AP", "class_agnostic_AP50"),
        ("localization", "eval_photos_AP50_novel", "eval_photos_class_agnostic_AP50"),
        ("localization", "eval_class_agnostic_AR100", "eval_class_agnostic_AR100"),
        ("joint", "eval_AP50_base", "eval_AP50_base"),
        ("semantic", "eval_AP50_base", "eval_AP50_base"),
    ],
)
def test_names_do_not_choose_the_checkpoint_where_only_boxes_learn(tmp_path, caplog, streams, asked, metric):
    args = DeCoDetrTrainingArguments(
        output_dir=str(tmp_path), streams=streams, metric_for_best_model=asked, load_best_model_at_end=True,
        save_strategy="steps", eval_strategy="steps", eval_steps=500, use_cpu=True,
    )  # fmt: skip
    assert args.metric_for_best_model == metric and args.greater_is_better
    assert (f"{metric} chooses the best checkpoint" in caplog.text) == (asked != metric)


def test_the_best_boxes_are_kept(scenes, tmp_path):
    args = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 3}
    trainer = make_trainer(
        scenes, tmp_path, **args, streams="localization", load_best_model_at_end=True,
        metric_for_best_model="eval_AP50_base", greater_is_better=False,
    )  # fmt: skip
    values, steps = iter([1.0, 3.0, 2.0]), {}
    evaluate = trainer.evaluate

    def measured(*given, **options):
        metrics = evaluate(*given, **options) | {"eval_class_agnostic_AP50": next(values), "eval_AP50_base": 0.0}
        steps[trainer.state.global_step] = metrics["eval_class_agnostic_AP50"]
        return metrics

    trainer.evaluate = measured
    trainer.train()
    assert steps == {1: 1.0, 2: 3.0, 3: 2.0}
    assert trainer.state.best_metric == 3.0 and trainer.state.best_model_checkpoint.endswith("checkpoint-2")


def test_a_proposer_reports_boxes_and_no_names(scenes, tmp_path):
    more = ["--max_steps", "1", "--save_strategy", "no", "--regions", "none"]
    assert main(train_command(scenes, tmp_path / "run", "--streams", "localization", *more)) == 0
    found = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert "eval_class_agnostic_AP50" in found and "eval_class_agnostic_AR50_novel" in found
    assert not [key for key in found if key.startswith(("eval_AP", "eval_AR"))]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "knows no names yet" in card and "AP50_novel" not in card
    assert main(train_command(scenes, tmp_path / "joint", *more)) == 0
    assert "eval_AP50_novel" in json.loads((tmp_path / "joint" / "eval_results.json").read_text())
    assert "knows no names yet" not in (tmp_path / "joint" / "README.md").read_text()


def test_boxes_are_learned_without_an_embedding_of_any_name(scenes, tmp_path):
    """A bare detector and boxes are enough: neither vocabulary nor text model is asked for."""
    torch.manual_seed(0)
    bare = DeCoDetrForObjectDetection(tiny_config()).detector
    bare.save_pretrained(tmp_path / "bare")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "bare")
    command = ["train", "--detector", str(tmp_path / "bare"), "--data", str(scenes), "--streams", "localization"]
    command += ["--max-steps", "1", "--save-strategy", "no", "--use-cpu", "true", "--output-dir"]
    assert main([*command, str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training_info"]["vocabulary"] == "random"
    assert main([*command, str(tmp_path / "joint"), "--streams", "joint"]) == 1, "names need embeddings"


@pytest.mark.parametrize("use", [None, "ignore", "objects", "none"])
def test_what_the_starting_detector_sees_need_not_be_background(scenes, tmp_path, caplog, monkeypatch, use):
    """It looks with the classes that it has, which the class-agnostic start has lost."""
    torch.manual_seed(0)
    bare = DeCoDetrForObjectDetection(tiny_config(class_agnostic=False)).detector
    with torch.no_grad():
        for name, parameter in bare.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                parameter.fill_(2.0)  # sure of everything
    bare.save_pretrained(tmp_path / "bare")
    DeCoDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "bare")
    keys, seen, loss = ("pseudo_boxes", "ignore_boxes"), set(), DeCoDetrForObjectDetection.forward

    def watched(self, *args, labels=None, **kwargs):
        if labels is not None and self.training:
            seen.update((key, len(label[key])) for label in labels for key in keys if key in label)
        return loss(self, *args, labels=labels, **kwargs)

    monkeypatch.setattr(DeCoDetrForObjectDetection, "forward", watched)
    command = ["train", "--detector", str(tmp_path / "bare"), "--data", str(scenes), "--streams", "localization"]
    command += ["--max-steps", "2", "--save-strategy", "no", "--use-cpu", "true", "--output", str(tmp_path / "run")]
    assert main(command + (["--pseudo-boxes", use] if use else [])) == 0
    assert ("things without a box" in caplog.text) == (use != "none")
    assert ("They are background" in caplog.text) == (use is None), "it finds less than half of the annotated objects"
    expected = {None: set(), "ignore": {"ignore_boxes"}, "objects": {"pseudo_boxes"}, "none": set()}
    assert {key for key, count in seen if count} == expected[use]


def test_who_knows_the_annotated_objects_is_right_about_others(tmp_path):
    """Counted by hand: 5 annotated objects and a crowd in 3 images."""
    box = [10, 10, 20, 20]
    annotations = [
        {"id": n, "image_id": image, "category_id": 1, "bbox": at, "area": 400, "iscrowd": int(n == 6)}
        for n, (image, at) in enumerate(
            [(1, box), (1, [40, 40, 20, 20]), (2, box), (2, [40, 10, 20, 20]), (3, box), (3, [0, 0, 60, 60])], 1
        )
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 64} for n in (1, 2, 3)]
    file = tmp_path / "boxes.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cup"}]})
    )
    coco = CocoAnnotations.load(file, tmp_path, check_images=False)
    rows = {
        1: [[10, 10, 30, 30], [40, 40, 60, 62], [0, 40, 20, 60]],
        2: [[11, 10, 30, 30], [40, 10, 60, 30]],
        3: [[40, 40, 60, 60]],
    }

    class Regions:
        def boxes(self, image_id):
            return np.array(rows[image_id], dtype=np.float32)

    seen = DetectorBoxes.count(coco, Regions())
    assert seen == DetectorBoxes(annotated=5, found=4, others=2, images=2)
    assert seen.use(True) == "objects" and seen.use(False) == "ignore"
    assert [DetectorBoxes(5, found, others=2, images=2).use(True) for found in range(6)] == [
        "none", "none", "none", "ignore", "objects", "objects",
    ]  # fmt: skip
    assert DetectorBoxes(annotated=0, found=0, others=2, images=2).use(True) == "none"
    assert "finds 4 of the 5 annotated objects" in seen.describe(0.4, "objects")
