"""Writes the reports of two runs in turn into one folder, until it is killed; see evaluation/test_report_commit.py."""

import sys
from pathlib import Path

import numpy as np


def make_report(run):
    """(report, Analysis, facts) of an evaluation of two drawn detections, whose scores tell the runs apart."""
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.evaluation.analysis import Analysis
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator
    from decodetr.evaluation.report import describe

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


if __name__ == "__main__":
    from decodetr.evaluation.report import write_report

    runs = [make_report(run) for run in "AB"]
    write_report(runs[0][0], runs[0][1], sys.argv[1], runs[0][2])
    sys.stdout.write("go\n")
    sys.stdout.flush()
    while True:
        for report, analysis, facts in runs:
            write_report(report, analysis, sys.argv[1], facts)
