"""Two runs against each other on resampled images."""

import json

import numpy as np
import pytest
from helpers.detections import random_world
from helpers.evaluations import run_eval

from decodetr.cli import main
from decodetr.evaluation.coco_matching import mean_percent
from decodetr.evaluation.compare import compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An annotation file and two runs: detections, and the same with a third of those of novel names displaced."""
    folder = tmp_path_factory.mktemp("runs")
    coco, predictions = random_world(seed=11, images=30)
    rows = [(i, row) for i, rows in coco.annotations_by_image.items() for row in rows]
    document = {
        "images": [{"id": i["image_id"], "file_name": "x.jpg", "width": 400, "height": 400} for i in coco.images],
        "annotations": [
            {
                "id": n,
                "image_id": i,
                "category_id": row["category"] + 1,
                **{k: row[k] for k in ("bbox", "area", "iscrowd")},
            }
            for n, (i, row) in enumerate(rows, start=1)
        ],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(coco.names)],
    }
    (folder / "val.json").write_text(json.dumps(document))
    rng = np.random.default_rng(0)
    for name in ("good", "bad"):
        results = []
        for image, found in zip(coco.images, predictions):
            for label, score, (x0, y0, x1, y1) in zip(found["labels"], found["scores"], found["boxes"]):
                if name == "bad" and label == 1 and rng.random() < 0.33:
                    x0, x1 = x0 + 500, x1 + 500
                row = {"image_id": image["image_id"], "category_id": label + 1, "score": score}
                results.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0]})
        (folder / f"{name}.json").write_text(json.dumps(results))
        words = ["--detections", folder / f"{name}.json", "--annotations", folder / "val.json"]
        assert run_eval(*words, "--novel-names", "name 1", "--output", folder / name) == 0
    return folder


def test_points_are_those_of_the_reports_and_the_worse_run_is_worse(runs):
    result = compare(runs / "good", runs / "bad", resamples=50, progress=False)
    for which in ("first", "second"):
        metrics = json.loads((runs / {"first": "good", "second": "bad"}[which] / "report.json").read_text())["metrics"]
        for key in ("AP", "AP50", "AP_novel", "AP50_novel", "AP_base", "AP50_base"):
            assert result[key][which] == pytest.approx(metrics[key], abs=1e-6), key
    assert result["AP50_novel"]["difference"] < -5 and result["AP50_novel"]["high"] < 0
    assert result["AP50_novel"]["better"] == 0
    base = result["AP50_base"]
    assert base["difference"] == base["low"] == base["high"] == base["better"] == 0  # paired: the same detections
    assert compare(runs / "good", runs / "bad", resamples=5, progress=False) == compare(
        runs / "good", runs / "bad", resamples=5, progress=False
    )


def test_weights_are_repeated_images(runs):
    """An image that is drawn twice counts as two equal images."""
    from decodetr.evaluation.compare import _read_report, _Run
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator

    run_of = _Run(runs / "good", _read_report(runs / "good"), None)
    coco, predictions = random_world(seed=11, images=30)
    weights = np.zeros(30)
    weights[[0, 4, 7]] = [2, 1, 3]
    copies = [(i, copy) for i in (0, 4, 7) for copy in range(int(weights[i]))]
    ids = [10 * i + copy for i, copy in copies]
    rows = {key: coco.annotations_by_image[coco.images[i]["image_id"]] for key, (i, _) in zip(ids, copies)}
    coco.images, coco.annotations_by_image = [{"image_id": key} for key in ids], rows
    evaluator = DetectionEvaluator(coco, coco.names)
    evaluator.update(ids, [predictions[i] for i, _ in copies])
    whole, metrics = evaluator.compute(), run_of.metrics(weights)
    # Scores of copies are tied, and a tie is broken by the order of the images here and there.
    assert metrics["AP"] == pytest.approx(whole["AP"], abs=0.5) and metrics["AP50"] == pytest.approx(
        whole["AP50"], abs=0.5
    )
    assert np.isnan(run_of.metrics(np.zeros(30))["AP"]) and np.isnan(mean_percent([np.nan]))


def test_command(runs, tmp_path, capsys):
    words = ["eval", "compare", str(runs / "good"), str(runs / "bad"), "--resamples", "20"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| metric | first | second | difference | 95 % interval | second better |" in printed
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(result) == {"AP", "AP50", "AP_novel", "AP50_novel", "AP_base", "AP50_base"}
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000
    moved = tmp_path / "moved.json"
    (runs / "val.json").rename(moved)
    assert main(words) == 1 and "give --annotations FILE" in capsys.readouterr().err
    assert main([*words, "--annotations", str(moved)]) == 0
    moved.rename(runs / "val.json")


def test_runs_of_different_things_are_refused(runs, tmp_path, capsys):
    assert main(["eval", "compare", str(runs / "good"), str(tmp_path)]) == 1
    assert "report.json: no such file" in capsys.readouterr().err
    words = ["--detections", runs / "good.json", "--annotations", runs / "val.json"]
    assert run_eval(*words, "--max-detections", "5", "--output", tmp_path / "few") == 0
    assert main(["eval", "compare", str(runs / "good"), str(tmp_path / "few")]) == 1
    assert "differ in max_detections" in capsys.readouterr().err


def test_other_annotations_and_other_splits_are_refused(runs, tmp_path, capsys):
    document = json.loads((runs / "val.json").read_text())
    document["annotations"][0]["bbox"][0] += 30
    (tmp_path / "moved.json").write_text(json.dumps(document))
    words = ["eval", "compare", str(runs / "good"), str(runs / "bad"), "--annotations", str(tmp_path / "moved.json")]
    assert main(words) == 1 and "not the annotations that" in capsys.readouterr().err
    words = ["--detections", runs / "good.json", "--annotations", runs / "val.json"]
    assert run_eval(*words, "--novel-names", "name 2", "--output", tmp_path / "other") == 0
    assert main(["eval", "compare", str(runs / "good"), str(tmp_path / "other")]) == 1
    assert "names or their groups" in capsys.readouterr().err


def test_a_group_without_objects_and_a_protocol_of_ones_own(runs, tmp_path, capsys):
    """Reports are written all the same, and compare."""
    document = json.loads((runs / "val.json").read_text())
    document["annotations"] = [row for row in document["annotations"] if row["category_id"] != 2]
    (tmp_path / "val.json").write_text(json.dumps(document))
    protocol = tmp_path / "mine.json"
    protocol.write_text(json.dumps({"description": "mine", "novel": {"2": "name 1"}}))
    for name in ("good", "bad"):
        words = ["--detections", runs / f"{name}.json", "--annotations", tmp_path / "val.json"]
        assert run_eval(*words, "--protocol", protocol, "--output", tmp_path / name) == 0
        assert (tmp_path / name / "report.html").is_file()
    capsys.readouterr()
    assert main(["eval", "compare", str(tmp_path / "good"), str(tmp_path / "bad"), "--resamples", "5"]) == 0
    assert "| AP_novel | - | - | - |" in capsys.readouterr().out
