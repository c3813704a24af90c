"""LVIS' federated evaluation: hand-made cases, and the numbers of LVIS' own package."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from decodetr.annotations.coco import CocoAnnotations
from decodetr.cli import main
from decodetr.evaluation import ENGINES
from decodetr.evaluation.analysis import KINDS, Analysis
from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.thresholds import best_thresholds
from decodetr.training.options.metrics import check_evaluation

BOX, FAR = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 60.0, 60.0]  # xywh


def lvis_file(folder, images, annotations, frequencies="rcf"):
    """A file as LVIS publishes them; images are (id, absent ids, not exhaustive ids), annotations (image, id, box)."""
    document = {
        "images": [
            {"id": i, "coco_url": f"http://x/val2017/{i:012d}.jpg", "width": 300, "height": 300}
            | {"neg_category_ids": absent, "not_exhaustive_category_ids": vague}
            for i, absent, vague in images
        ],
        "annotations": [
            {"id": number, "image_id": i, "category_id": c, "bbox": list(box), "area": float(box[2] * box[3])}
            for number, (i, c, box) in enumerate(annotations, start=1)
        ],
        "categories": [{"id": c, "name": f"n{c}", "frequency": f} for c, f in enumerate(frequencies, start=1)],
    }
    file = folder / "lvis.json"
    file.write_text(json.dumps(document))
    return file


def evaluate(file, found, engine=ENGINES[0], max_detections=300):
    """found: image -> rows (category id, score, xywh)."""
    coco = CocoAnnotations.load(file, check_images=False)
    groups = {
        group: [name for name, frequency in zip(coco.names, coco.frequencies) if frequency == group[0]]
        for group in ("rare", "common", "frequent")
    }
    options = {"groups": groups, "federated": True, "engine": engine, "max_detections": max_detections}
    evaluator = DetectionEvaluator(coco, coco.names, **options)
    for image in coco.images:
        rows = found.get(image["image_id"], [])
        boxes = [[x, y, x + w, y + h] for _, _, (x, y, w, h) in rows]
        prediction = {"labels": [c - 1 for c, *_ in rows], "scores": [row[1] for row in rows], "boxes": boxes}
        evaluator.update([image["image_id"]], [prediction])
    return evaluator.compute(per_name=True)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "absent, vague, expected",
    [
        ([2], [], 50),  # verified to be absent: the better detection of n2 in image 2 is wrong
        ([], [], 100),  # nobody has looked: it does not count
        ([2], [2], 100),  # looked, but not for every object
    ],
)
def test_what_nobody_has_verified_does_not_count(tmp_path, engine, absent, vague, expected):
    file = lvis_file(tmp_path, [(7, absent, vague), (3, [], [])], [(3, 2, BOX)])
    result = evaluate(file, {3: [(2, 0.5, BOX)], 7: [(2, 0.9, FAR)]}, engine)
    assert result["AP"] == pytest.approx(expected, abs=1e-6) and result["AP_common"] == result["AP"]
    assert np.isnan(result["AP_rare"])  # no annotation: in no mean


@pytest.mark.parametrize("engine", ENGINES)
def test_objects_of_a_name_that_is_not_exhaustive_are_found_or_missed(tmp_path, engine):
    """The exemption is for mistakes only, and a box that sticks out of the image is exempt too."""
    file = lvis_file(tmp_path, [(1, [], [1])], [(1, 1, BOX), (1, 1, FAR)])
    found = {1: [(1, 0.9, [-500.0, -500.0, 2000.0, 90.0]), (1, 0.8, BOX)]}
    result = evaluate(file, found, engine)
    assert result["AP"] == pytest.approx(100 * 51 / 101, abs=1e-6)  # one of two, nothing wrong
    assert result["AR300"] == pytest.approx(50)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flat", [[100.0, 100.0, 0.0, 60.0], [100.0, 100.0, 60.0, 0.0]])
def test_what_has_no_area_is_not_looked_at(tmp_path, engine, flat):
    """LVIS' package takes neither annotations nor detections without area, whether a name is exhaustive or not."""
    file = lvis_file(tmp_path, [(1, [], [1]), (2, [2], [])], [(1, 1, BOX), (1, 2, BOX), (2, 3, BOX), (2, 1, flat)])
    found = {1: [(1, 0.9, flat), (1, 0.8, BOX), (2, 0.9, flat), (2, 0.8, BOX)]}
    found |= {2: [(1, 0.95, FAR), (2, 0.95, flat), (3, 0.9, flat), (3, 0.8, BOX)]}
    result = evaluate(file, found, engine)
    assert result["AP"] == pytest.approx(100, abs=1e-6) == result["AR300"]
    assert {name: row["support"] for name, row in result["per_name"].items()} == {"n1": 1, "n2": 1, "n3": 1}


def test_what_has_no_area_is_in_no_figure(tmp_path):
    """Nor in errors, calibration and thresholds."""
    file = lvis_file(tmp_path, [(1, [2], [1])], [(1, 1, BOX), (1, 3, BOX)])
    coco, box, flat = CocoAnnotations.load(file, check_images=False), [10, 10, 60, 60], [100, 100, 100, 160]
    evaluator = DetectionEvaluator(coco, coco.names, federated=True)
    rows = [(0, 0.9, flat), (0, 0.6, box), (1, 0.9, flat), (2, 0.8, flat), (2, 0.7, box)]
    labels, scores, boxes = zip(*rows)
    evaluator.update([1], [{"labels": labels, "scores": scores, "boxes": boxes}])
    analysis = Analysis(evaluator)
    errors = analysis.errors()
    assert {kind: row["count"] for kind, row in errors.items()} == dict.fromkeys([*KINDS, "missed"], 0)
    assert sum(row["count"] for row in analysis.calibration()["all"]["bins"]) == 2
    assert best_thresholds(analysis)["names"]["n3"]["precision"] == 1.0


def test_what_may_be_there_without_annotation_is_no_confusion(tmp_path):
    """The better detection on the object of n2 says n1, of which not every object is annotated here: nobody knows
    whether it is right. In the other image n1 is verified to be absent."""
    file = lvis_file(tmp_path, [(1, [], [1]), (2, [1], [])], [(1, 1, FAR), (1, 2, BOX), (2, 2, BOX)])
    coco, box, far = CocoAnnotations.load(file, check_images=False), [10, 10, 60, 60], [100, 100, 160, 160]
    evaluator = DetectionEvaluator(coco, coco.names, federated=True)
    evaluator.update([1], [{"labels": [0, 1, 0], "scores": [0.9, 0.8, 0.7], "boxes": [box, box, far]}])
    evaluator.update([2], [{"labels": [0, 1], "scores": [0.9, 0.8], "boxes": [box, box]}])
    analysis = Analysis(evaluator)
    (row,) = analysis.confusion()
    assert (row["name"], row["taken_for"], row["count"], row["share"]) == ("n2", "n1", 1, 0.5)
    assert analysis.errors()["classification"]["count"] == 1


def random_lvis(folder, seed, images=60, names=12):
    rng = np.random.default_rng(seed)
    rows, annotations, found = [], [], {}
    for i in rng.permutation(5 * images)[:images].tolist():
        present = set(rng.integers(1, names + 1, rng.integers(0, 4)).tolist())
        others = sorted(set(range(1, names + 1)) - present)
        absent = sorted(rng.choice(others, 3, replace=False).tolist())
        rows.append((i, absent, sorted(c for c in present if rng.random() < 0.4)))
        found[i] = []
        for c in present:
            for _ in range(rng.integers(1, 4)):
                box = np.round([*rng.uniform(0, 150, 2), *rng.uniform(5, 150, 2)], 1).tolist()
                annotations.append((i, c, box))
                for _ in range(2):
                    near = np.float32(np.abs(np.array(box) + rng.normal(0, 5, 4)) + 1).tolist()
                    found[i].append((c if rng.random() < 0.8 else int(rng.integers(1, names + 1)), near))
        for _ in range(6):
            far = np.float32([*rng.uniform(0, 150, 2), *rng.uniform(5, 150, 2)]).tolist()
            far[2] *= rng.random() > 0.3  # some without area
            found[i].append((int(rng.integers(1, names + 1)), far))
        if rng.random() < 0.3:  # a name that the package takes to be neither there nor absent
            annotations.append((i, int(rng.integers(1, names + 1)), [5.0, 5.0, 0.0, 9.0]))
        # As an xyxy float32 array would give it back, with ties of the score.
        found[i] = [(c, float(np.float32(round(rng.random(), 2))), _through_corners(box)) for c, box in found[i]]
    return lvis_file(folder, rows, annotations, "rrrcccccffff"), found


def _through_corners(box):
    x, y, w, h = np.float64(np.float32([box[0], box[1], box[0] + box[2], box[1] + box[3]]))
    return [x, y, w - x, h - y]


@pytest.mark.parametrize("max_detections", [300, 8])
@pytest.mark.parametrize("engine", ENGINES)
def test_equals_the_lvis_package(tmp_path, monkeypatch, engine, max_detections):
    lvis = pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis 0.5.3 was written for numpy below 1.24
    file, found = random_lvis(tmp_path, seed=max_detections)
    results = [
        {"image_id": i, "category_id": c, "score": score, "bbox": box}
        for i, rows in found.items()
        for c, score, box in rows
    ]
    truth = lvis.LVIS(str(file))
    reference = lvis.LVISEval(truth, lvis.LVISResults(truth, results, max_dets=max_detections), "bbox")
    reference.params.max_dets = max_detections
    reference.run()
    ours = evaluate(file, found, engine, max_detections)
    keys = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large"}
    keys |= {"APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent", f"AR@{max_detections}": f"AR{max_detections}"}
    for theirs, key in keys.items():
        assert ours[key] == pytest.approx(100 * reference.results[theirs], abs=1e-6), key
    assert 5 < ours["AP"] < 95


def test_the_command_counts_federated_and_by_frequency(tmp_path, capsys):
    """Half of what is found is nobody's business."""
    images = [(7, [2], []), (3, [], [])]
    file = lvis_file(tmp_path, images, [(3, 1, BOX), (3, 2, BOX), (7, 3, FAR)])
    rows = [(3, 1, 0.9, BOX), (7, 1, 0.95, BOX), (3, 2, 0.8, BOX), (7, 2, 0.9, BOX), (7, 3, 0.5, FAR)]
    found = [{"image_id": i, "category_id": c, "score": s, "bbox": b} for i, c, s, b in rows]
    (tmp_path / "found.json").write_text(json.dumps(found))
    words = ["eval", "--detections", str(tmp_path / "found.json"), "--annotations", str(file), "--protocol", "ov-lvis"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for key, value in (("AP_rare", "100.0"), ("AP_common", "50.0"), ("AP_frequent", "100.0"), ("AP_novel", "100.0")):
        assert f"| {key} | {value} |" in printed
    assert "| differs from published set | 3 names instead of 1,203;" in printed and "| federated | True |" in printed


def test_a_file_without_an_area_is_refused(tmp_path, capsys):
    """None of its annotations would count, and every metric would be empty."""
    file = lvis_file(tmp_path, [(3, [], [])], [(3, 1, BOX)])
    document = json.loads(file.read_text())
    document["annotations"][0]["area"] = 0
    file.write_text(json.dumps(document))
    (tmp_path / "found.json").write_text(json.dumps([]))
    assert main(["eval", "--detections", str(tmp_path / "found.json"), "--annotations", str(file)]) == 1
    assert "lvis.json: expected objects with an area above 0, as LVIS' rules count" in capsys.readouterr().err
    coco = CocoAnnotations.load(file, check_images=False)
    with pytest.raises(ValueError, match="lvis.json: expected objects with an area above 0"):
        check_evaluation(SimpleNamespace(eval_max_detections=None), coco, coco.names)  # before a run's first step


def test_a_federated_file_of_any_protocol_has_groups_of_frequencies(tmp_path, capsys):
    file = lvis_file(tmp_path, [(3, [], [])], [(3, 1, BOX), (3, 2, FAR)])
    found = [{"image_id": 3, "category_id": 1, "score": 0.9, "bbox": BOX}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert main(["eval", "--detections", str(tmp_path / "found.json"), "--annotations", str(file)]) == 0
    printed = capsys.readouterr().out
    for key, value in (("AP_rare", "100.0"), ("AP_common", "0.0"), ("AP_frequent", "-")):
        assert f"| {key} | {value} |" in printed


def test_images_that_are_left_out_take_their_lists_along(tmp_path):
    """As a protocol of annotated images, or a part of LVIS, needs it; the digest sees the lists."""
    coco = CocoAnnotations.load(lvis_file(tmp_path, [(7, [2], []), (3, [1], [3])], [(3, 2, BOX)]), check_images=False)
    part = coco.select_images([3])
    assert list(part.federation) == [3] and [lists.tolist() for lists in part.federation[3]] == [[0], [2]]
    evaluator = DetectionEvaluator(part, part.names, federated=True)
    box = [BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]
    evaluator.update([3], [{"scores": [0.9, 0.8], "labels": [1, 0], "boxes": [box, box]}])
    assert evaluator.compute()["AP"] == pytest.approx(100)
    other = lvis_file(tmp_path, [(7, [2], []), (3, [], [3])], [(3, 2, BOX)])
    assert CocoAnnotations.load(other, check_images=False).digest() != coco.digest() != part.digest()
