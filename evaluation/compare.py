"""Compare two runs: is one better than the other, or were the images kind to it?

Both runs are scored on the same resampled images (paired bootstrap), a thousand times. The interval of the difference
says what another draw of images could have shown. It says nothing about other seeds of a training.
"""

from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from decodetr.annotations.sources import load_annotations
from decodetr.evaluation.coco_matching import mean_percent
from decodetr.evaluation.detection_evaluator import DetectionEvaluator
from decodetr.evaluation.detections import feed_detections, load_detections
from decodetr.evaluation.figures import draw_differences
from decodetr.evaluation.matches import match_detections
from decodetr.evaluation.resampled_ap import ResampledAP
from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, reading, write_json
from decodetr.utils.shipped import expect_file

_PARTS = {"protocol", "per_name", "max_detections", "source", "images"}
_KEYS = ("annotations_digest", "protocol", "images", "annotations", "max_detections", "federated")


def compare(
    first: str | Path,
    second: str | Path,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
    annotations: str | None = None,
) -> dict:
    """
    Paired bootstrap over images.

    Args:
        first, second: folders that `decodetr eval --output` wrote, of the same images and names.
        resamples, seed: of the bootstrap.
        annotations: the annotation file, if it lies elsewhere than when the runs were made.

    Returns:
        dict: {metric: {"first", "second" (percent), "difference", "low", "high" (95 % interval of the difference,
        points), "better" (share of the resamples in which the second one is better)}} of AP and AP50, all and by
        group.

    Raises:
        FileNotFoundError: no such run. ValueError: the runs measured different things.
    """
    reports = []
    for folder in (first, second):
        with reading(folder):
            reports.append(_read_report(folder))
    different = [key for key in _KEYS if reports[0]["protocol"][key] != reports[1]["protocol"][key]]
    groups = [{name: row["group"] for name, row in report["per_name"].items()} for report in reports]
    if different or groups[0] != groups[1]:
        what = different or ["names or their groups"]
        raise ValueError(
            f"{first} and {second} differ in {', '.join(what)}: only runs of the same images and names compare"
        )
    runs = [_Run(folder, report, annotations) for folder, report in zip((first, second), reports)]
    whole = np.ones(runs[0].images)
    points = [run.metrics(whole) for run in runs]
    rng, samples = np.random.default_rng(seed), []
    for _ in tqdm(range(resamples), desc="resamples", disable=not progress):
        weights = np.bincount(rng.integers(runs[0].images, size=runs[0].images), minlength=runs[0].images)
        metrics = [run.metrics(weights) for run in runs]
        samples.append([metrics[1][key] - metrics[0][key] for key in points[0]])
    drawn, result = np.array(samples), {}
    for column, key in enumerate(points[0]):
        differences = drawn[:, column][~np.isnan(drawn[:, column])]
        low, high = np.quantile(differences, [0.025, 0.975]) if len(differences) else (np.nan, np.nan)
        result[key] = {
            "first": points[0][key],
            "second": points[1][key],
            "difference": points[1][key] - points[0][key],
            "low": float(low),
            "high": float(high),
            "better": float((differences > 0).mean()) if len(differences) else float("nan"),
        }
    return result


class _Run:
    """The detections of a run, matched once, scored under any weights of the images."""

    def __init__(self, folder, report, annotations):
        facts, per_name = report["protocol"], report["per_name"]
        try:
            source = annotations or report["source"]["file"]
            place, part = report["source"]["data"], report["source"].get("part", "val")
            coco = load_annotations(place, part, source, check_images=False, **report["source"]["form"])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; if it was moved, give --annotations FILE") from error
        names, found = load_detections(Path(folder) / "detections.parquet", coco)
        groups = {}
        for name, row in per_name.items():
            for group in filter(None, row["group"].split(", ")):
                groups.setdefault(group, []).append(name)
        coco = coco.select_images(report["images"])
        if coco.digest() != facts["annotations_digest"]:
            raise ValueError(
                f"{coco.file}: not the annotations that {folder} was measured on (digest {coco.digest()} instead of "
                f"{facts['annotations_digest']}); give the file with --annotations"
            )
        evaluator = DetectionEvaluator(
            coco,
            names,
            base_names=list(per_name),
            groups=groups,
            max_detections=report["max_detections"],
            allow_missing_names=True,
            federated=facts["federated"],
        )
        feed_detections(evaluator, coco, found)
        del found
        truth, table = evaluator.truth(), evaluator.found()
        evaluator.reset()
        self.images, self.names, self.groups = (
            len(coco.images),
            evaluator.evaluated,
            {"": set(evaluator.evaluated), **evaluator.groups},
        )
        self._ap = ResampledAP(truth, table, match_detections(truth, table), len(self.names))

    def metrics(self, weights):
        """{"AP", "AP50", "AP_<group>", ...} in percent with each image counted so many times."""
        ap = self._ap(weights)
        metrics = {}
        for group, members in self.groups.items():
            rows = ap[[name in members for name in self.names]]
            suffix = f"_{group}" if group else ""
            metrics[f"AP{suffix}"], metrics[f"AP50{suffix}"] = mean_percent(rows), mean_percent(rows[:, 0])
        return metrics


def _read_report(folder):
    file = Path(folder) / "report.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give the folders that `decodetr eval --output` wrote")
    report = read_json(file, dict)
    if not _PARTS <= set(report):
        raise ValueError(f"{file}: expected a report of `decodetr eval --output`")
    return report


def expect_run(folder: str) -> None:
    """Raise where a folder holds no run that [`compare`] can read."""
    _read_report(folder)
    expect_file("", Path(folder) / "detections.parquet")


def write_comparison(result: dict, output: str | Path) -> None:
    """Write what [`compare`] found as comparison.json and comparison.png into a folder."""
    with committed(output) as staging:
        write_json(staging / "comparison.json", result)
        draw_differences(result, staging / "comparison.png")
