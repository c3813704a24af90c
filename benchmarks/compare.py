"""`decodetr eval compare` at the size of LVIS: seconds until the runs are matched, seconds of a resample, memory.

    python benchmarks/compare.py                          # 19,809 images, 300 detections each, two runs: 12 million
    python benchmarks/compare.py --share 0.1 --resamples 100

Annotations and detections are drawn as in benchmarks/evaluation.py. The second run has the detections of the first, a
tenth of them displaced. A separate process compares them, so that its peak memory is measured alone. Of the 1,000
resamples of the command a few are made and timed; "all" is what 1,000 take. APs of the first resample are printed to
the last digit: another version of the package must print the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from decodetr.utils.documents import parse_json
from decodetr.utils.files import replacing, write_json

RESAMPLES = 1000  # of the command


def write_runs(folder, share):
    """Annotations, and the folders `first` and `second` as `decodetr eval --output` leaves them, as far as they are
    read."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from decodetr.annotations.coco import CocoAnnotations
    from evaluation import SIZES, write_set

    counts = {**SIZES["lvis"]}
    counts |= {key: max(1, int(counts[key] * share)) for key in ("images", "objects")}
    write_set(folder, **counts)
    coco = CocoAnnotations.load(folder / "annotations.json", check_images=False)
    protocol = {"annotations_digest": coco.digest(), "protocol": "lvis", "images": len(coco.images)}
    protocol |= {"annotations": counts["objects"], "max_detections": counts["detections"], "federated": True}
    groups = {"f": "frequent", "c": "common", "r": "rare"}
    frequency = {name: groups["fcr"[min(3 * number // len(coco.names), 2)]] for number, name in enumerate(coco.names)}
    report = {
        "protocol": protocol,
        "per_name": {name: {"group": group} for name, group in frequency.items()},
        "max_detections": counts["detections"],
        "source": {"data": None, "file": str(folder / "annotations.json"), "form": {}},
        "images": [image["image_id"] for image in coco.images],
    }
    table = pq.read_table(folder / "detections.parquet")
    moved = np.random.default_rng(1).random(len(table)) < 0.1
    for name in ("first", "second"):
        write_json(folder / name / "report.json", report)
        with replacing(folder / name / "detections.parquet") as partial:
            pq.write_table(table, partial)
        for column in ("x0", "x1"):
            values = table[column].to_numpy() + np.where(moved, 20, 0).astype(np.float32)
            table = table.set_column(table.column_names.index(column), column, pa.array(values))
    return len(table)


def measure(folder, resamples):
    """The comparison in this process: a dict of seconds, peak memory, and what it found."""
    import numpy as np

    from decodetr.evaluation import compare
    from decodetr.speed.machine import peak_gb

    started = time.perf_counter()
    runs = []
    for name in ("first", "second"):
        runs.append(compare._Run(folder / name, compare._read_report(folder / name), None))
    matched, matched_gb = time.perf_counter() - started, peak_gb()
    rng, started, found = np.random.default_rng(0), time.perf_counter(), []
    for _ in range(resamples):
        weights = np.bincount(rng.integers(runs[0].images, size=runs[0].images), minlength=runs[0].images)
        found.append([run.metrics(weights)["AP"] for run in runs])
    each = (time.perf_counter() - started) / resamples
    return {
        "matched_s": matched,
        "resample_s": each,
        "all_s": matched + RESAMPLES * each,
        "matched_peak_gb": matched_gb,
        "peak_gb": peak_gb(),
        "AP": found,
    }


def parser():
    """Arguments of the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--share", type=float, default=1.0, help="share of LVIS' images and objects (default: 1)")
    add("--resamples", type=int, default=20, help="resamples that are timed")
    add("--output", help="write all numbers to this JSON file")
    add("--one", type=Path, help=argparse.SUPPRESS)
    return arguments


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    if args.one:
        sys.stdout.write(json.dumps(measure(args.one, args.resamples)) + "\n")
        return 0
    from harness import say, table

    from decodetr.speed.machine import environment

    machine = environment("cpu", share=args.share)
    say(table(["setting", "value"], machine.items()))
    with tempfile.TemporaryDirectory() as folder:
        count = write_runs(Path(folder), args.share)
        words = [sys.executable, __file__, "--one", folder, "--resamples", str(args.resamples)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = parse_json(done.stdout.splitlines()[-1], "what it measured", dict)
    head = ["detections of a run", "matched, s", "a resample, s", "all 1,000, s", "peak, GB", "APs of the first one"]
    cells = [found["matched_s"], found["resample_s"], found["all_s"], found["peak_gb"]]
    shown = " / ".join(f"{value!r}" for value in found["AP"][0])
    say(table(head, [[f"{count:,}", *(f"{cell:.3g}" for cell in cells), shown]]))
    if args.output:
        write_json(args.output, {"environment": machine, "detections": count, **found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
