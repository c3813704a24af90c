"""Values of the streaming metrics: by hand, against pycocotools, and as an `evaluate.Metric`."""

import numpy as np
import pytest
import torch
from helpers.detections import BOX, FAR, evaluate, prediction, random_world, truth

from decodetr.evaluation import ENGINES, DetectionEvaluator


@pytest.mark.parametrize("engine", ENGINES)
def test_perfect_and_empty(engine, capsys):
    coco = truth(["cat", "dog"], {1: [("cat", BOX), ("dog", FAR)], 2: [("cat", FAR)], 9: []})
    perfect = [prediction((0, 0.9, BOX), (1, 0.8, FAR)), prediction((0, 0.3, FAR)), prediction()]
    result = evaluate(coco, perfect, novel_names=["dog"], engine=engine)
    for key in ("AP", "AP50", "AP75", "AP_medium", "AR100", "AR50", "AP_novel", "AP50_base"):
        assert result[key] == pytest.approx(100, abs=1e-6), key
    assert np.isnan(result["AP_small"])  # no small objects: undefined, not 0
    nothing = evaluate(coco, [prediction()] * 3, novel_names=["dog"], engine=engine)
    assert nothing["AP"] == nothing["AR100"] == nothing["AP_novel"] == 0
    no_truth = evaluate(truth(["cat"], {1: []}), [prediction((0, 0.9, BOX))], engine=engine)
    assert np.isnan(no_truth["AP"]) and np.isnan(no_truth["AR100"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_hand_calculated(engine):
    coco = truth(["cat"], {1: [("cat", BOX)], 2: [("cat", BOX)]})
    found = [prediction((0, 0.9, BOX), (0, 0.8, FAR)), prediction((0, 0.7, BOX))]
    # Precision 1 up to recall 0.5 (51 of 101 recall points), then 2/3 at recall 1 (50 points).
    expected = 100 * (51 + 50 * 2 / 3) / 101
    result = evaluate(coco, found, engine=engine)
    assert result["AP"] == pytest.approx(expected, abs=1e-4)
    assert result["AR100"] == pytest.approx(100)

    # IoU 0.62 passes the thresholds 0.5, 0.55 and 0.6 of ten.
    coco = truth(["cat"], {1: [("cat", [0, 0, 100, 100])]})
    result = evaluate(coco, [prediction((0, 0.9, [0, 0, 100, 62]))], engine=engine)
    assert result["AP"] == pytest.approx(30) and result["AP50"] == pytest.approx(100) and result["AP75"] == 0


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_the_averaged_recall_of_50_detections_is_not_the_one_at_iou_50(class_agnostic):
    coco = truth(["cat"], {1: [("cat", [0, 0, 100, 100])]})
    found = [prediction((0, 0.9, [0, 0, 100, 62]))]  # passes three thresholds of ten
    for most, averaged in ((49, "AR49"), (50, "AR_50_detections"), (51, "AR51")):
        result = evaluate(coco, found, max_detections=most, class_agnostic=class_agnostic)
        assert result[averaged] == pytest.approx(30) and result["AR50"] == pytest.approx(100)
        assert [key for key in result if key.startswith("AR")] == [averaged, "AR50"]


@pytest.mark.parametrize("engine", ENGINES)
def test_crowds_are_neither_wanted_nor_wrong(engine):
    found = [prediction((0, 0.9, FAR), (0, 0.8, BOX))]
    crowd = evaluate(truth(["cat"], {1: [("cat", BOX), ("cat", FAR, True)]}), found, engine=engine)
    assert crowd["AP"] == pytest.approx(100)
    plain = evaluate(truth(["cat"], {1: [("cat", BOX)]}), found, engine=engine)
    assert plain["AP"] == pytest.approx(50)
    only = evaluate(truth(["cat"], {1: [("cat", FAR, True)]}), found, per_name=True, engine=engine)
    assert np.isnan(only["AP"]) and only["per_name"]["cat"]["support"] == 0


@pytest.mark.parametrize("max_detections", [100, 10, 3])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_engines_agree(max_detections, class_agnostic):
    coco, predictions = random_world(seed=max_detections)
    options = {"max_detections": max_detections, "class_agnostic": class_agnostic}
    fast, reference = (
        evaluate(coco, predictions, novel_names=["name 1", "name 4"], engine=engine, **options) for engine in ENGINES
    )
    assert fast.keys() == reference.keys() and f"AR{max_detections}" in fast
    for key, value in reference.items():
        assert fast[key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
    assert 0 < fast["AP"] < 100


def test_equals_the_summary_of_pycocotools():
    """Not only the same engine twice: results in COCO's own format through its own loader and summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco, predictions = random_world(seed=5)
    rows = [
        {**row, "image_id": image_id, "category_id": row["category"] + 7, "id": 0}
        for image_id, rows in coco.annotations_by_image.items()
        for row in rows
    ]
    for number, row in enumerate(rows, start=1):
        row["id"] = number
    reference = COCO()
    reference.dataset = {
        "images": [{"id": image["image_id"]} for image in coco.images],
        "categories": [{"id": i + 7, "name": name} for i, name in enumerate(coco.names)],
        "annotations": rows,
        "info": {},
    }
    reference.createIndex()
    results = []
    for image, row in zip(coco.images, predictions):
        for label, score, (x0, y0, x1, y1) in zip(row["labels"], row["scores"], np.float32(row["boxes"]).tolist()):
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image["image_id"], "category_id": label + 7, "bbox": box, "score": score})
    evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = evaluate(coco, predictions)
    keys = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", None, None, "AR100"]
    for key, value in zip(keys, 100 * evaluation.stats):
        if key is not None and value >= 0:
            assert ours[key] == pytest.approx(value, abs=1e-6), key


def test_names_not_positions():
    coco = truth(["cat", "dog", "ñandú, grande"], {1: [("cat", BOX), ("ñandú, grande", FAR)], 2: [("dog", BOX)]})
    vocabulary = ["unicorn", "ñandú, grande", "dog", "cat"]
    found = [prediction((3, 0.9, BOX), (1, 0.9, FAR), (0, 0.99, FAR)), prediction((3, 0.9, BOX))]
    result = evaluate(coco, found, vocabulary, novel_names=["ñandú, grande", "unicorn"], per_name=True)
    assert result["AP_novel"] == pytest.approx(100)  # "unicorn" is not in the file: in no mean
    assert result["per_name"]["dog"] == {"AP": 0.0, "AP50": 0.0, "support": 1}
    # "cat": one true and, on image 2, one false detection of the same score; ties keep the order of images.
    assert result["per_name"]["cat"]["AP"] == pytest.approx(100)
    assert result["AP_base"] == pytest.approx(50) and result["AP"] == pytest.approx(200 / 3)


def test_protocol_names_leave_out_the_rest():
    coco = truth(["cat", "dog", "other"], {1: [("cat", BOX), ("dog", FAR), ("other", BOX)]})
    found = [prediction((0, 0.9, BOX), (1, 0.9, FAR))]
    with pytest.raises(ValueError, match=r"1 categories.*\['other'\].*allow-missing-names"):
        evaluate(coco, found, ["cat", "dog"], novel_names=["dog"])
    result = evaluate(coco, found, ["cat", "dog"], novel_names=["dog"], base_names=["cat"])
    assert result["AP"] == result["AP_base"] == result["AP_novel"] == pytest.approx(100)
    result = evaluate(coco, found, ["cat", "dog"], novel_names=["dog"], allow_missing_names=True)
    assert result["AP_base"] == pytest.approx(50)


def test_class_agnostic_recall_by_group():
    coco = truth(["cat", "dog"], {1: [("cat", BOX), ("dog", FAR)], 2: [("dog", BOX)]})
    found = [prediction((0, 0.9, BOX), (0, 0.5, FAR)), prediction()]  # the name is wrong, the place is right
    result = evaluate(coco, found, novel_names=["dog"], class_agnostic=True)
    assert result["AR50"] == pytest.approx(200 / 3)
    assert result["AR50_novel"] == pytest.approx(50) and result["AR50_base"] == pytest.approx(100)
    assert result["AP50"] == pytest.approx(100 * 67 / 101, abs=1e-4)  # recalls 0.00 to 0.66


def test_memory_is_bounded_and_reset_forgets():
    coco = truth(["cat"], {i: [("cat", BOX)] for i in range(4)})
    evaluator = DetectionEvaluator(coco, ["cat"], max_detections=5)
    many = {
        "scores": torch.cat([torch.linspace(0, 0.5, 999), torch.ones(1)]).bfloat16(),
        "labels": torch.zeros(1000, dtype=torch.int64),
        "boxes": torch.tensor(BOX).repeat(1000, 1).half(),
    }
    evaluator.update(torch.arange(4), [many] * 4)
    for _, scores, labels, boxes in evaluator.state():
        assert scores.shape == (5,) and labels.shape == (5,) and boxes.shape == (5, 4)
        assert scores.dtype == np.float32 and scores[0] == 1 and (np.diff(scores) <= 0).all()
        assert all(part.base is None or part.base.size <= 20 for part in (scores, labels, boxes))  # no views of all
    assert evaluator.compute()["AP"] == pytest.approx(100)
    evaluator.reset()
    assert evaluator.state() == []
    with pytest.raises(ValueError, match="4 of 4 images were not evaluated"):
        evaluator.compute()
    evaluator.update([0], [many])
    assert evaluator.compute(partial=True)["AP"] == pytest.approx(100)


def test_merge_drops_padded_samples():
    coco, predictions = random_world(seed=2)
    ids = [image["image_id"] for image in coco.images]
    ranks = [DetectionEvaluator(coco, coco.names) for _ in range(2)]
    for rank, evaluator in enumerate(ranks):
        mine = [*range(rank, len(ids), 2)] + ([0] if rank else [])  # the last batch of rank 1 is padded
        evaluator.update([ids[i] for i in mine], [predictions[i] for i in mine])
    states = [evaluator.state() for evaluator in ranks]
    ranks[0].merge(states)
    assert len(ranks[0].state()) == len(ids)
    assert ranks[0].compute() == pytest.approx(evaluate(coco, predictions), nan_ok=True)


def test_an_image_that_two_processes_have_counts_as_the_first_has_it():
    coco = truth(["cat", "dog"], {1: [("cat", BOX)]})
    ranks = [DetectionEvaluator(coco, coco.names) for _ in range(2)]
    for label, evaluator in enumerate(ranks):
        evaluator.update([1], [prediction((label, 0.5, BOX))])
    states = [evaluator.state() for evaluator in ranks]
    for evaluator in ranks:
        evaluator.merge(states)
        assert evaluator.compute()["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("image_id", "row", "message"),
    [
        (7, prediction(), "image id 7 is not in the annotation file"),
        (2, prediction(), "image id 2 was already evaluated"),
        (1, prediction((2, 0.5, BOX)), r"image 1: labels \[2\] are not in the vocabulary of 2 names"),
        (1, prediction((-1, 0.5, BOX)), r"labels \[-1\]"),
        (1, prediction((0, float("nan"), BOX)), "image 1: NaN"),
        (1, prediction((0, 0.5, [0, 0, float("inf"), 1])), "NaN or infinite"),
        (1, prediction((0, 0.5, [10, 10, 5, 20])), "negative size"),
        (1, {"scores": [0.5], "labels": [0, 1], "boxes": [BOX]}, "expected n scores"),
        (1, {"scores": [0.5], "boxes": [BOX]}, r"missing \['labels'\]"),
    ],
)
def test_bad_input_is_refused(image_id, row, message):
    evaluator = DetectionEvaluator(truth(["cat", "dog"], {1: [], 2: []}), ["cat", "dog"])
    evaluator.update([2], [prediction((0, 0.5, BOX))])
    with pytest.raises(ValueError, match=message):
        evaluator.update([image_id], [row])


def test_a_file_of_base_names_alone_has_no_novel_metrics():
    """As the training part of an open-vocabulary data set is."""
    evaluator = DetectionEvaluator(truth(["cat"], {1: [("cat", BOX)]}), ["cat"], ["dog"], base_names=["cat"])
    evaluator.update([1], [prediction((0, 0.5, BOX))])
    metrics = evaluator.compute()
    assert metrics["AP50_base"] == pytest.approx(100) and np.isnan(metrics["AP50_novel"])
    with pytest.raises(ValueError, match="none of the 1 novel names"):
        DetectionEvaluator(truth(["cat"], {1: []}), ["cat"], ["dog"], base_names=["horse"])


def test_bad_arguments_are_refused():
    coco = truth(["cat"], {1: [("cat", BOX)]})
    with pytest.raises(ValueError, match="none of the 1 novel names"):
        DetectionEvaluator(coco, ["cat"], ["Cat"])
    with pytest.raises(ValueError, match="several categories called"):
        DetectionEvaluator(truth(["cat", "cat"], {1: []}), ["cat"])
    with pytest.raises(ValueError, match="engine must be one of"):
        DetectionEvaluator(coco, ["cat"], engine="coco")


def test_evaluate_metric(tmp_path):
    from decodetr.evaluation.detection_metric import DetectionMetric

    coco, predictions = random_world(seed=3)
    references = []
    for image in coco.images:
        rows = coco.annotations_by_image[image["image_id"]]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]
        references.append({"image_id": image["image_id"], "boxes": corners})
        for key, column in (("labels", "category"), ("area", "area"), ("iscrowd", "iscrowd")):
            references[-1][key] = [row[column] for row in rows]
    metric = DetectionMetric(coco.names, ["name 1"], max_detections=10, cache_dir=str(tmp_path))
    for start in range(0, len(predictions), 7):
        metric.add_batch(predictions=predictions[start : start + 7], references=references[start : start + 7])
    expected = evaluate(coco, predictions, novel_names=["name 1"], max_detections=10)
    assert metric.compute() == pytest.approx(expected, abs=1e-6, nan_ok=True)

    # Areas and crowd flags are optional; tensors are welcome; the object can be used again.
    boxes = torch.tensor([BOX])
    metric.add(
        prediction={"scores": torch.tensor([0.9]), "labels": torch.tensor([1]), "boxes": boxes},
        reference={"image_id": 4, "labels": torch.tensor([1]), "boxes": boxes},
    )
    result = metric.compute()
    assert result["AP_novel"] == pytest.approx(100) and np.isnan(result["AP_base"])
    metric.add_batch(predictions=[prediction()] * 2, references=[{"image_id": 4, "labels": [], "boxes": []}] * 2)
    with pytest.raises(ValueError, match="image id 4 was added twice"):
        metric.compute()
    for wrong, message in (
        ({"area": [1.0]}, "2 entries under area, got 1"),
        ({"iscrowd": [0, 7]}, "expected iscrowd 0 or 1"),
    ):
        reference = {"image_id": 4, "labels": [0, 0], "boxes": [BOX, FAR], **wrong}
        with pytest.raises(ValueError, match=message):
            metric.add(prediction=prediction(), reference=reference)
    with pytest.raises(ValueError, match=r"image '4 \(reference\)': box .* negative size"):
        metric.add(prediction=prediction(), reference={"image_id": 4, "labels": [0], "boxes": [[9, 9, 1, 1]]})


@pytest.mark.parametrize("engine", ENGINES)
def test_objects_of_another_size_are_ignored(engine):
    """Neither wanted nor wrong: the large object takes no part in AP_small, found or not."""
    small, large = [10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 250.0, 250.0]
    coco = truth(["cat"], {1: [("cat", small), ("cat", large)]})
    found = evaluate(coco, [prediction((0, 0.9, large), (0, 0.8, small))], engine=engine)
    assert found["AP_small"] == found["AP_large"] == pytest.approx(100) and np.isnan(found["AP_medium"])
    missed = evaluate(coco, [prediction((0, 0.8, small))], engine=engine)
    assert missed["AP_small"] == pytest.approx(100) and missed["AP_large"] == 0
