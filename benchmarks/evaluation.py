"""Evaluation at true size: seconds and memory of each engine, and what evaluation adds to inference.

    python benchmarks/evaluation.py                   # sizes of OV-COCO and LVIS: the default engine and pycocotools
    python benchmarks/evaluation.py --sizes lvis --engines default lvis
    python benchmarks/evaluation.py --sizes --overhead                                      # only the second question

Annotation files and detections are drawn, with the counts of the published sets: OV-COCO has 4,836 images of 65 names
with 100 detections each, LVIS 19,809 images of 1,203 names with 244,707 objects, federated, with 300. Half of the
detections lie near an object. Every engine runs in a separate process, so that its peak memory is measured alone. The
detections are in memory before the clock starts. "default" and "pycocotools" take a few names at a time, as `decodetr
eval` has them; "pycocotools at once" is the same boxes in one call, as that package is used; "lvis" is LVIS' own
package, which gets all detections.

Overhead: the shipped model over drawn scenes, from files to detections, against all of `decodetr eval` up to its
metrics, in turn in one process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import replacing, write_json

ENGINES = ("default", "pycocotools", "pycocotools at once", "lvis")
SIZES = {
    "ov-coco": {"images": 4836, "names": 65, "objects": 33_000, "detections": 100},
    "lvis": {"images": 19_809, "names": 1203, "objects": 244_707, "detections": 300},
}


def write_set(folder, images, names, objects, detections, seed=0):
    """annotations.json and detections.parquet of a drawn set in a folder. Federated if there are LVIS' many names."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, federated = np.random.default_rng(seed), names > 1000
    share = 1 / np.arange(1, names + 1)
    image = np.sort(rng.integers(images, size=objects))
    # An image has few different names, several objects of each.
    palette = rng.choice(names, (images, 5), p=share / share.sum())
    name = palette[image, rng.integers(5, size=objects)]
    size = np.exp(rng.uniform(np.log(8), np.log(300), (objects, 2)))
    corner = rng.uniform(0, 1, (objects, 2)) * (640 - size).clip(min=1)
    boxes = np.concatenate([corner, size], axis=1).round(2)
    rows = zip(image.tolist(), name.tolist(), boxes.tolist())
    document = {
        "images": [{"id": i + 1, "file_name": f"{i + 1}.jpg", "width": 640, "height": 640} for i in range(images)],
        "annotations": [
            {"id": n, "image_id": i + 1, "category_id": c + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (i, c, box) in enumerate(rows, start=1)
        ],
        "categories": [{"id": c + 1, "name": f"name {c + 1}"} for c in range(names)],
    }
    if federated:
        for c, entry in enumerate(document["categories"]):
            entry["frequency"] = "fcr"[min(3 * c // names, 2)]
        absent = rng.integers(1, names + 1, (images, 8))
        for entry, listed, present in zip(document["images"], absent.tolist(), (palette + 1).tolist()):
            entry["neg_category_ids"] = sorted(set(listed) - set(present))
            entry["not_exhaustive_category_ids"] = present[:1]
    write_json(folder / "annotations.json", document, indent=None)

    first = np.searchsorted(image, np.arange(images + 1))
    count = images * detections
    of = np.repeat(np.arange(images), detections)
    near = (rng.random(count) < 0.5) & (first[of + 1] > first[of])
    target = np.minimum(first[of] + (rng.random(count) * (first[of + 1] - first[of])).astype(int), objects - 1)
    found = np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(5, 300, (count, 2))], axis=1)
    found[near] = boxes[target[near]] + rng.normal(0, 6, (near.sum(), 4))
    found[:, 2:] = found[:, 2:].clip(min=1)
    label = np.where(near & (rng.random(count) < 0.7), name[target], rng.integers(names, size=count))
    columns = {
        "image_id": of + 1,
        "name": pa.DictionaryArray.from_arrays(label.astype(np.int32), [f"name {c + 1}" for c in range(names)]),
        "score": rng.random(count).astype(np.float32),
        "x0": found[:, 0],
        "y0": found[:, 1],
        "x1": found[:, 0] + found[:, 2],
        "y1": found[:, 1] + found[:, 3],
    }
    table = {key: column.astype(np.float32) if key[0] in "xy" else column for key, column in columns.items()}
    with replacing(folder / "detections.parquet") as partial:
        pq.write_table(pa.table(table), partial)


def run_engine(engine, folder, max_detections):
    """One engine in this process: seconds, peak memory and AP."""
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator
    from decodetr.evaluation.detections import feed_detections, load_detections
    from decodetr.speed.machine import peak_gb

    coco = CocoAnnotations.load(folder / "annotations.json", check_images=False)
    names, found = load_detections(folder / "detections.parquet", coco)
    federated = coco.federation is not None
    if engine == "lvis":
        return _run_lvis(folder, coco, found, max_detections)
    started = time.perf_counter()
    evaluator = DetectionEvaluator(
        coco,
        names,
        max_detections=max_detections,
        federated=federated,
        engine="pycocotools" if engine == "pycocotools" else "faster-coco-eval",
    )
    feed_detections(evaluator, coco, found)
    ap = _at_once(evaluator, max_detections) if engine == "pycocotools at once" else evaluator.compute()["AP"]
    return {"seconds": time.perf_counter() - started, "peak_gb": peak_gb(), "AP": ap}


def _at_once(evaluator, max_detections):
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def index(table, **columns):
        columns = {"image_id": table["image"], "category_id": table["name"], "bbox": table["box"], **columns}
        values = zip(*(column.tolist() for column in columns.values()))
        rows = [{"id": n, **dict(zip(columns, row))} for n, row in enumerate(values, start=1)]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(evaluator.image_ids))],
            "categories": [{"id": c} for c in range(len(evaluator.evaluated))],
            "annotations": rows,
        }
        coco.createIndex()
        return coco

    truth, found = evaluator.truth(), evaluator.found()
    with contextlib.redirect_stdout(io.StringIO()):
        tables = (
            index(truth, area=truth["area"], iscrowd=truth["crowd"]),
            index(found, area=found["box"][:, 2] * found["box"][:, 3], score=found["score"]),
        )
        evaluation = COCOeval(*tables, "bbox")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    return float(100 * precision[precision > -1].mean())


def _run_lvis(folder, coco, found, max_detections):
    import numpy as np

    from decodetr.speed.machine import peak_gb

    np.float = float  # lvis 0.5.3 was written for numpy below 1.24
    from lvis import LVIS, LVISEval, LVISResults

    results = []
    for image_id, entry in found.items():
        corners = entry["boxes"].astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        for score, label, box in zip(entry["scores"].tolist(), entry["labels"].tolist(), boxes):
            category = coco.category_ids[label]
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    started = time.perf_counter()
    truth = LVIS(str(folder / "annotations.json"))
    evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=max_detections), "bbox")
    evaluation.run()
    return {
        "seconds": time.perf_counter() - started,
        "peak_gb": peak_gb(),
        "AP": 100 * float(evaluation.results["AP"]),
    }


def measure_overhead(images, runs):
    """{"inference", "evaluation"}: seconds, in turn, of the shipped model over drawn scenes; "ratio"."""
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.annotations.names_split import read_split
    from decodetr.cli import main as decodetr
    from decodetr.evaluation.loop import run_predictor
    from decodetr.evaluation.output_evaluator import OutputEvaluator
    from decodetr.evaluation.predictors import DeCoDetrPredictor
    from decodetr.inference.loading import load_model
    from decodetr.speed.timing import in_turn, ratios, spread

    class Detections(DeCoDetrPredictor):
        def results(self, outputs, entries):
            sizes = [(entry["height"], entry["width"]) for entry in entries]
            return self.image_processor.post_process_object_detection(outputs, 0.0, sizes, self.max_detections)

    class Nothing:
        def update(self, image_ids, results):
            pass

    with tempfile.TemporaryDirectory() as folder:
        decodetr(["scenes", "write", folder, "--train", "1", "--val", str(images), "--test", "1"])
        coco = CocoAnnotations.load(Path(folder) / "annotations" / "val.json")
        base, novel = read_split(Path(folder) / "names.json")
        model, image_processor = load_model("scenes-decodetr", device="cpu")

        def inference():
            run_predictor(Detections(model, image_processor), coco, Nothing(), progress=False)

        def evaluation():
            evaluator = OutputEvaluator(coco, model.vocabulary.names, novel, base_names=base, max_detections=100)
            run_predictor(DeCoDetrPredictor(model, image_processor), coco, evaluator, progress=False)
            evaluator.compute(per_name=True)

        seconds = in_turn({"inference": inference, "evaluation": evaluation}, warmup=1, runs=runs)
    result = {name: spread(values) for name, values in seconds.items()}
    return {**result, "ratio": ratios(seconds, "evaluation", "inference")}


def parser():
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    add("--engines", nargs="+", choices=ENGINES, default=["default", "pycocotools", "pycocotools at once"])
    add("--share", type=float, default=1.0, help="share of the images and objects (default: 1)")
    add("--repeats", type=int, default=1, help="runs of each engine; the median counts")
    add("--overhead", action="store_true", help="also what evaluation adds to inference")
    add("--images", type=int, default=400, help="scenes for --overhead")
    add("--runs", type=int, default=5, help="timed rounds of --overhead")
    add("--output", help="write all numbers to this JSON file")
    add("--one", choices=ENGINES, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--max-detections", type=int, help=argparse.SUPPRESS)
    return extend_lists(arguments)


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    if args.one:
        sys.stdout.write(json.dumps(run_engine(args.one, args.folder, args.max_detections)) + "\n")
        return 0
    import statistics

    from harness import say, table

    from decodetr.speed.machine import environment
    from decodetr.speed.timing import show

    machine, results, rows = environment("cpu", share=args.share), {}, []
    say(table(["setting", "value"], machine.items()))
    for size in args.sizes:
        counts = {**SIZES[size]}
        counts.update({key: max(1, int(counts[key] * args.share)) for key in ("images", "objects")})
        with tempfile.TemporaryDirectory() as folder:
            write_set(Path(folder), **counts)
            for engine in args.engines:
                if engine == "lvis" and size != "lvis":
                    continue
                words = [sys.executable, __file__, "--one", engine, "--folder", folder]
                words += ["--max-detections", str(counts["detections"])]
                runs = []
                for _ in range(args.repeats):
                    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                    runs.append(json.loads(done.stdout.splitlines()[-1]))
                found = results[f"{size} {engine}"] = {
                    **runs[0],
                    "seconds": statistics.median(run["seconds"] for run in runs),
                    "all_seconds": [run["seconds"] for run in runs],
                }
                rows.append(
                    [f"{size}: {engine}", f"{found['seconds']:.1f}", f"{found['peak_gb']:.2f}", f"{found['AP']:.6f}"]
                )
                say(f"{rows[-1]}")
    if rows:
        say(table(["set: engine", "seconds", "peak, GB", "AP"], rows))
    if args.overhead:
        found = results["overhead"] = measure_overhead(args.images, args.runs)
        cells = [show(found[name]) for name in ("inference", "evaluation")] + [show(found["ratio"], digits=3)]
        say(table(["scenes", "inference, s", "evaluation, s", "ratio"], [[args.images, *cells]]))
    if args.output:
        write_json(args.output, {"environment": machine, **results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
