"""`decodetr export`: a model as a graph that ONNX Runtime, OpenVINO, TensorRT or torch run, checked against it."""

import argparse
import sys
import time

from decodetr.cli.options import add_clip, add_output, add_overwrite, add_vocabulary, asked_names, at_least
from decodetr.utils.markup import one_line
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import DEFAULT_MODEL, expect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr export`."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help=f"folder, Hub name or shipped name of a DeCo-DETR, such as {DEFAULT_MODEL}",
    )
    add("--format", required=True, choices=("onnx", "openvino", "pt2"), help="write it for this runtime; required")
    add_output(parser, "write the graph and export.json into this folder", required=True)
    add_overwrite(parser)
    add(
        "--names",
        help="""names of the graph: 'cat,"salt, pepper"'. pool: all that the pool of the model speaks of (default: all
        names of the model)""",
    )
    add(
        "--names-file",
        help="names of the graph from this file, one per line; 'name: prompt; prompt' embeds the prompts for a name",
    )
    add_vocabulary(parser)
    add_clip(parser)
    add(
        "--names-input",
        action="store_true",
        help="make names an input of the graph, any number of them, which are swapped without exporting again "
        "(default: they are baked in)",
    )
    add(
        "--post-processing",
        choices=("outside", "inside"),
        default="outside",
        help="inside: the graph gives the best scores, labels and boxes; outside: logits and boxes of all queries "
        "(default: outside)",
    )
    add(
        "--queries",
        type=int,
        metavar="N",
        help="compare so many of the most certain queries with names, the others are no detections; fewer cost less "
        "(default: all)",
    )
    add(
        "--top-k",
        type=int,
        help="detections of a graph with post-processing inside (default: 100, or as many as there are pairs of query "
        "and name, if that is less; with --names-input one name counts)",
    )
    add(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="compute in this precision; inputs, outputs and tables are float32 (default: float32)",
    )
    add(
        "--batch-size",
        type=int,
        help="fix the number of images per call (default: any number, or 1 if the detector cannot be exported so)",
    )
    add(
        "--dynamic-size",
        action="store_true",
        help="take images of any height and width (default: of the size of the image processor)",
    )
    add(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="stretch images to this size (default: what the image processor says)",
    )


def run(args: argparse.Namespace) -> int:
    """Run `decodetr export`. Returns the exit status."""
    from decodetr.export.export_run import check_output, export_model
    from decodetr.export.settings import ExportSettings, require_packages
    from decodetr.inference.loading import load_model

    at_least(args, top_k=1, batch_size=1, queries=1)
    settings = ExportSettings(
        format=args.format,
        names_input=args.names_input,
        post_processing=args.post_processing,
        top_k=args.top_k,
        dtype=args.dtype,
        batch_size=args.batch_size,
        dynamic_size=args.dynamic_size,
        semantic_queries=args.queries,
        image_size=tuple(args.image_size) if args.image_size else None,
    )
    names, *_ = run_checks(
        lambda: asked_names(args),
        lambda: require_packages(args.format),
        lambda: check_output(args.output, args.overwrite),
        lambda: expect("model", args.model, "config.json"),
        lambda: expect("vocabulary", args.vocabulary, "vocabulary.json"),
        lambda: expect("text model", args.clip, "config.json"),
    )
    model, image_processor = load_model(args.model, args.vocabulary, names, "cpu", args.clip)
    start = time.perf_counter()
    made = export_model(model, image_processor, args.output, settings, args.overwrite, source=args.model)
    sys.stdout.write(text_of(made, time.perf_counter() - start))
    return 0


def text_of(made, seconds: float) -> str:
    """The lines that people read, of what an export made in so many seconds."""
    own, parity = made.description, made.description.parity
    names = f"{len(own.names)} {'stored, read by the graph' if own.names_input else 'baked in'}"
    size = "any height and width" if own.image_size is None else " x ".join(map(str, own.image_size))
    batch = "any number of images" if own.batch_size is None else f"{own.batch_size} at once"
    best = f"inside, the best {own.top_k}" if own.post_processing == "inside" else "outside"
    read = own.queries if own.semantic_queries is None else f"the {own.semantic_queries} surest of {own.queries}"
    found = "detections" if own.post_processing == "inside" else "queries"
    rows = {
        "detector": f"{own.family}, {read} queries, in {own.dtype}",
        "images": f"{size}, {batch}",
        "names": names,
        "post-processing": best,
        "parity": f"{parity['found']} of {parity['compared']} {found} of random images found again at batch "
        f"{' and '.join(map(str, parity['batches']))}; scores differ by at most {parity['score']:.1e}, logits by "
        f"{parity['logit']:.1e}, boxes by {parity['box']:.1e} of the image",
        "size": f"{made.bytes / 2**20:.1f} MiB, loaded in {made.load_seconds:.2f} s",
    }
    width = max(map(len, rows))
    lines = [f"{one_line(made.folder)}: exported as {own.runtime} in {seconds:.0f} s"]
    return "\n".join([*lines, *(f"  {key:<{width}}  {text}" for key, text in rows.items())]) + "\n"
