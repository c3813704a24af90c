"""Reports of two runs, for evaluation/test_report_commit.py."""

from pathlib import Path

import numpy as np

from decodetr.annotations.coco import CocoAnnotations
from decodetr.evaluation.analysis import Analysis
from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.report import describe, write_report


def make_report(run):
    """(report, Analysis, facts) of an evaluation of two drawn detections, whose scores tell the runs apart."""
    box = {"category_id": 1, "bbox": [2, 2, 20, 20], "area": 400, "iscrowd": 0}
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 40} for i in (1, 2)],
        "annotations": [{"id": i, "image_id": i, **box} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    coco = CocoAnnotations.from_document(Path("val.json"), document, ".", check_images=False)
    evaluator = DetectionEvaluator(coco, ["cat"])
    score = {"A": 0.25, "B": 0.75}[run]
    found = {"scores": [score], "labels": [0], "boxes": np.array([[2, 2, 22, 22]], np.float32)}
    evaluator.update([1, 2], [found, found])
    analysis = Analysis(evaluator)
    report = {
        "title": f"run {run}",
        "protocol": {"description": "drawn", "run": run},
        "headline": ["AP"],
        "metrics": {"AP": 100 * score},
        "per_name": {"cat": {"group": "", "support": 2, "AP": 100.0, "AP50": 100.0}},
        **describe(analysis),
    }
    return report, analysis, {"run": run}


def write_in_turn(folder):
    """Write two reports into a folder, for ever."""
    runs = [make_report(run) for run in "BA"]
    while True:
        for report, analysis, facts in runs:
            write_report(report, analysis, folder, facts)
