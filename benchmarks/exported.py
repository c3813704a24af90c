"""Exported models: size, load time, parity, images a second without torch, and what 10,000 names cost over 10.

    python benchmarks/exported.py                                     # DETR-R50, RT-DETRv2-R50 and D-FINE-L, ONNX
    python benchmarks/exported.py --format openvino --threads 2 --output exported.json

Weights are random, which changes no time: shapes decide them. A photo goes from a PIL image to detections, in eager
torch and in the runtime, in turn in one process. Names are an input of the graph.
"""

import argparse
import copy
import tempfile
import time
from pathlib import Path

from decodetr.speed.catalog import OURS, STREAM
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

FEW, COMMON, MANY = 10, 80, 10_000


def build(family):
    """(model of random weights that knows MANY names, its image processor)."""
    import torch

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection, DeCoDetrImageProcessor

    torch.manual_seed(0)
    names = {i: f"name {i}" for i in range(MANY)}
    model = DeCoDetrForObjectDetection(DeCoDetrConfig(detector_config=OURS[family].fields, id2label=names, **STREAM))
    return model.eval(), DeCoDetrImageProcessor(size=OURS[family].size)


def pictures():
    """Four smooth pictures of 640 x 480."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)) for _ in range(4)]
    return [image.resize((640, 480), Image.Resampling.BICUBIC) for image in small]


def measure(family, args, folder) -> dict:
    """Export a model, and time it beside eager torch."""
    from decodetr.export.export_run import export_model
    from decodetr.export.settings import ExportSettings
    from decodetr.inference.detection import detect
    from decodetr.runtime import ExportedDetector
    from decodetr.speed.timing import in_turn, ratios, spread

    model, image_processor = build(family)
    settings = ExportSettings(args.format, names_input=True, semantic_queries=args.queries)
    start = time.perf_counter()
    made = export_model(model, image_processor, folder, settings)
    exported = time.perf_counter() - start
    start = time.perf_counter()
    detector = ExportedDetector(folder, threads=args.threads)
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    detector.set_names([f"name {i}" for i in range(MANY)])
    swapped = time.perf_counter() - start
    images, functions = pictures(), {}
    for count in (FEW, COMMON, MANY):
        names = [f"name {i}" for i in range(count)]
        other = copy.copy(detector)  # with names of its own, and the session of all
        other.set_names(names)
        tables = model.semantic_stream.tables_with(model.tables(), model.vocabulary.select(names))
        functions[f"exported {count}"] = lambda other=other: other.detect(images[:1])
        functions[f"eager {count}"] = lambda tables=tables: detect(model, image_processor, images[:1], tables=tables)
        if count == COMMON:
            functions["exported batch 4"] = lambda other=other: other.detect(images)
            functions["eager batch 4"] = lambda tables=tables: detect(model, image_processor, images, tables=tables)
    seconds = in_turn(functions, warmup=args.warmup, runs=args.runs)
    return {
        "family": family,
        "bytes": made.bytes,
        "export_seconds": exported,
        "load_seconds": loaded,
        "swap_seconds": swapped,
        "parity": made.description.parity,
        "dynamic": made.description.dynamic,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "many_names": {kind: ratios(seconds, f"{kind} {MANY}", f"{kind} {FEW}") for kind in ("exported", "eager")},
        "over_eager": ratios(seconds, f"eager {COMMON}", f"exported {COMMON}"),
    }


def report(results):
    """Markdown tables of what was measured."""
    from harness import say, table

    from decodetr.speed.timing import show

    rows = []
    for one in results:
        parity, seconds = one["parity"], one["seconds"]
        rows.append(
            (
                OURS[one["family"]].title,
                f"{one['bytes'] / 2**20:.0f}",
                f"{one['load_seconds']:.1f}",
                f"{parity['found']} of {parity['compared']}",
                f"{parity['score']:.0e}",
                f"{1 / seconds[f'exported {COMMON}']['median']:.2f}",
                f"{4 / seconds['exported batch 4']['median']:.2f}",
                f"{1 / seconds[f'eager {COMMON}']['median']:.2f}",
                show(one["over_eager"]),
                show(one["many_names"]["exported"], digits=3),
                show(one["many_names"]["eager"], digits=3),
                f"{one['swap_seconds']:.2f}",
            )
        )
    head = (
        "", "MiB", "load, s", "queries found again", "score off by", "images/s, batch 1", "batch 4", "eager, batch 1",
        "exported over eager", f"{MANY:,} names over {FEW}", "eager", f"swap of {MANY:,}, s",
    )  # fmt: skip
    say(table(head, rows))


def parser():
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("--models", nargs="+", default=["detr", "rt_detr_v2", "d_fine"], choices=list(OURS), metavar="FAMILY")
    add("--format", choices=("onnx", "openvino"), default="onnx")
    add("--queries", type=int, default=100, help="the most certain ones, which are compared with names")
    add("--threads", type=int, default=2)
    add("--runs", type=int, default=7)
    add("--warmup", type=int, default=1)
    add("--output", help="also write all numbers to this JSON file")
    return extend_lists(found)


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    import torch
    from harness import say

    from decodetr.speed.machine import environment

    torch.set_num_threads(args.threads)
    machine = environment("cpu", format=args.format, queries=args.queries)
    results = []
    for family in args.models:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(family, args, Path(folder) / "exported"))
        report(results[-1:])
    say()
    report(results)
    if args.output:
        write_json(args.output, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
