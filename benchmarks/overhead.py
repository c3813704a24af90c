"""What the semantic stream costs over the bare detector: parameters, FLOPs, latency, and latency against names.

    python benchmarks/overhead.py                        # DETR-R50, RT-DETRv2-R50 and D-FINE at 640 x 640
    python benchmarks/overhead.py --models my_config.yaml --device cuda --dtype bfloat16 --output overhead.json

Weights are random, which changes none of the numbers: shapes decide them, not values. The bare detector is the model's
own `detector`, class-agnostic, called alone. The full model is the same detector and the semantic stream, which reads
the `--queries` most certain queries of an image. What a picture really has, a trained detector says: of random weights
all queries are equally certain.

FLOPs are those of `torch.utils.flop_counter`: two for every multiply-add of matrix products, convolutions and
attention. Nothing else counts: no normalisation, activation or softmax, and no `grid_sample`, of which deformable
decoders and the region pooling are made. Its multiply-adds are given apart.
"""

import argparse
import contextlib
from functools import partial
from pathlib import Path
from unittest import mock

from decodetr.speed.catalog import OURS
from decodetr.utils.arguments import extend_lists
from decodetr.utils.files import write_json

# Display order: part, what it is.
PARTS = {
    "regions": "regions: 1 x 1 projections, sampling",
    "h_theta": "h_theta",
    "lookup": "lookup: cosine to the M prototypes, softmax, weighted sum",
    "residual": "residual MLP",
    "predictor": "predictor g_phi",
    "names": "scores against the K names",
    "background": "scores against the M background prototypes",
    "fusion": "fusion with objectness",
}


def build(name, args):
    """The model of `OURS` or of a DeCoDetrConfig file (YAML or JSON), in eval mode. (title, model)."""
    import torch
    from harness import read_config

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection

    if name in OURS:
        title = OURS[name].title
        fields = {
            "detector_config": OURS[name].fields,
            "embedding_dim": args.embedding_dim,
            "num_coarse_prototypes": args.coarse,
            "num_fine_prototypes": args.fine,
            "semantic_inputs": args.semantic_inputs,
        }
    else:
        title, fields = Path(name).resolve().parent.name, read_config(name)
    torch.manual_seed(0)
    fields["id2label"] = {i: f"name {i}" for i in range(args.names)}
    model = DeCoDetrForObjectDetection(DeCoDetrConfig(**fields))
    return title, model.eval().to(device=args.device, dtype=getattr(torch, args.dtype))


def image(model, args):
    """Random pixels (B, 3, H, W)."""
    import torch

    size = args.image_size
    if size is None:
        preset = (model.config.preprocessing or {}).get("size", {"height": 640, "width": 640})
        size = [preset["height"], preset["width"]]
    return torch.randn(args.batch_size, 3, size[0], size[-1], device=model.device, dtype=model.dtype)


def parameters(model) -> dict:
    """Numbers that are learned by gradient, per stream, and those of the tables of embeddings."""
    return {
        "detector": sum(p.numel() for p in model.detector.parameters()),
        "semantic_stream": sum(p.numel() for p in model.semantic_stream.parameters()),
        "pool": model.prototype_pool.prototypes.numel(),
        "vocabulary": model.vocabulary.embeddings.numel(),
    }


def measure_parts(forward, model, read) -> dict:
    """What every part of one forward adds to a running total.

    Args:
        forward: function without arguments that calls the model.
        read: function without arguments that returns the running total: of FLOPs, or the clock.

    Returns:
        `dict[str, float]`: "total", "detector", the parts of `PARTS`, and "rest", what is in none of them.
    """
    from decodetr.modeling_decodetr import modeling_decodetr, semantic_stream

    spent = {}
    stream = model.semantic_stream
    places = {
        "detector": (model.detector, "forward"),
        "h_theta": (stream.input_projection, "forward"),
        "lookup": (semantic_stream, "look_up_rows"),
        "residual": (stream.residual, "forward"),
        "predictor": (stream.predictor, "forward"),
        "names": (stream, "_against_names"),
        "background": (semantic_stream, "background_of"),
        "fusion": (modeling_decodetr, "fuse_scores"),
    }
    if stream.region_pooling is not None:
        places["regions"] = (stream.region_pooling, "forward")

    def watched(name, function):
        def call(*args, **kwargs):
            before = read()
            result = function(*args, **kwargs)
            spent[name] = spent.get(name, 0) + read() - before
            return result

        return call

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in places.items():
            function = watched(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, function))
        before = read()
        forward()
        spent["total"] = read() - before
    spent["rest"] = 2 * spent["total"] - sum(spent.values())
    return spent


def flops(forward, model) -> dict:
    """FLOPs of one forward as from [`measure_parts`], and those of `grid_sample`, which are in none of them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def grid_sample(map_shape, grid_shape, *args, out_shape=None, **kwargs):
        return 8 * out_shape[0] * out_shape[1] * out_shape[2] * out_shape[3]  # 4 multiply-adds per value

    counted = []
    for extra in ({}, {torch.ops.aten.grid_sampler_2d: grid_sample}):
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=extra) as counter:
            counted.append(measure_parts(forward, model, counter.get_total_flops))
    plain, sampled = counted
    plain["grid_sample_detector"] = sampled["detector"] - plain["detector"]
    plain["grid_sample_semantic"] = sampled["total"] - plain["total"] - plain["grid_sample_detector"]
    return plain


def latency(forward, model, pixel_values, args) -> dict:
    """Seconds of the bare detector and the full model in turn, each after an untimed call, their ratio, and
    the median seconds of every part."""
    import torch

    from decodetr.speed.timing import clock, in_turn, ratios, spread

    device = model.device
    functions = {"detector": lambda: model.detector(pixel_values), "model": forward}
    with torch.inference_mode():
        seconds = in_turn(functions, device=device, warmup=args.warmup, runs=args.runs, lead=1)
        parts = [measure_parts(forward, model, lambda: clock(device)) for _ in range(args.runs)]
    return {
        "detector": spread(seconds["detector"]),
        "model": spread(seconds["model"]),
        "ratio": ratios(seconds, "model", "detector"),
        "parts": {name: spread([run[name] for run in parts])["median"] for name in parts[0]},
    }


def latency_of_names(forward, model, pixel_values, args) -> dict:
    """Seconds of a forward, with and without post-processing, and of the swap of names, for several numbers of names
    in turn: of names that come for the first time, and of names that were in use before. Every forward that is timed
    follows one that is not, because the swap empties the processor's caches."""
    import torch

    from decodetr import DeCoDetrImageProcessor, Vocabulary
    from decodetr.speed.timing import clock, ratios, spread

    processor, device = DeCoDetrImageProcessor(), model.device
    sizes = [tuple(pixel_values.shape[-2:])] * len(pixel_values)
    generator = torch.Generator().manual_seed(0)
    tables = {
        k: Vocabulary([f"name {i}" for i in range(k)], torch.randn(k, model.config.embedding_dim, generator=generator))
        for k in args.name_counts
    }
    seconds = {what: {k: [] for k in tables} for what in ("first swap", "swap", "model", "end to end")}
    before = model.vocabulary
    with torch.inference_mode():
        for _ in range(args.runs):
            for k, names in tables.items():
                first = clock(device)
                model.set_vocabulary(Vocabulary(names.names, names.embeddings))  # which nothing is known of
                seconds["first swap"][k].append(clock(device) - first)
                model.set_vocabulary(names)
                start = clock(device)
                model.set_vocabulary(names)
                swapped = clock(device)
                forward()
                warm = clock(device)
                outputs = forward()
                done = clock(device)
                processor.post_process_object_detection(outputs, threshold=0.3, target_sizes=sizes)
                seconds["swap"][k].append(swapped - start)
                seconds["model"][k].append(done - warm)
                seconds["end to end"][k].append(clock(device) - warm)
    model.set_vocabulary(before)
    reference = args.name_counts[0]
    return {
        str(k): {
            **{what: spread(times[k]) for what, times in seconds.items()},
            "model_ratio": ratios(seconds["model"], k, reference),
            "end_to_end_ratio": ratios(seconds["end to end"], k, reference),
            "reference": reference,
        }
        for k in tables
    }


def report_overhead(results, args):
    """Print parameters, FLOPs and latency."""
    from harness import say, table

    from decodetr.speed.timing import show

    say(f"\n## Overhead of the semantic stream, {args.names} names, {args.queries} queries read\n")
    say("The paper's claims for its DETR-R50: +7.3 % parameters, +6.8 % GFLOPs.\n")
    columns = (
        "model|image|M|d|inputs|detector, M parameters|semantic stream, M|%|tables (pool, names), M|% with tables|"
    )
    columns += "detector, GFLOP|semantic stream, GFLOP|%"
    rows = []
    for title, result in results.items():
        p, f = result["parameters"], result["flops"]
        learned, tables = p["semantic_stream"], p["pool"] + p["vocabulary"]
        row = [title, "x".join(map(str, result["image_size"])), result["prototypes"], result["embedding_dim"]]
        row += [result["semantic_inputs"], f"{p['detector'] / 1e6:.2f}", f"{learned / 1e6:.2f}"]
        row += [f"{100 * learned / p['detector']:.1f}", f"{tables / 1e6:.2f}"]
        row += [f"{100 * (learned + tables) / p['detector']:.1f}", f"{f['detector'] / 1e9:.2f}"]
        row += [f"{(f['total'] - f['detector']) / 1e9:.2f}", f"{100 * (f['total'] / f['detector'] - 1):.1f}"]
        rows.append(row)
    say(table(columns.split("|"), rows))

    say(f"Latency, batch {args.batch_size}, median (quartiles) of {args.runs} runs in turn:\n")
    rows = []
    for title, result in results.items():
        t = result["latency"]
        rows.append([title, show(t["detector"], 1e3, 1), show(t["model"], 1e3, 1), show(t["ratio"], digits=3)])
    say(table(["model", "bare detector, ms", "with semantic stream, ms", "ratio"], rows))


def report_parts(title, result):
    """Print where the FLOPs and the time of one model go."""
    from harness import say, table

    f, t = result["flops"], result["latency"]["parts"]
    semantic = f["total"] - f["detector"]

    def timed(part):
        return [f"{1e3 * t[part]:.1f}", f"{100 * t[part] / t['total']:.1f}"]

    rows = [["detector", f"{f['detector'] / 1e9:.2f}", "", *timed("detector")]]
    for part, description in PARTS.items():
        if part in f:
            rows.append([description, f"{f[part] / 1e9:.3f}", f"{100 * f[part] / semantic:.1f}", *timed(part)])
    rows.append(["the rest", "", "", *timed("rest")])
    rows.append(["**semantic stream**", f"{semantic / 1e9:.3f}", "100", "", ""])
    say(f"### Where it goes: {title}\n")
    say(table(["part", "GFLOP", "% of the stream's", "ms", "% of the time"], rows))
    grid = f["grid_sample_detector"] / 1e9, f["grid_sample_semantic"] / 1e9
    say(f"`grid_sample`, not counted: {grid[0]:.3f} GFLOP in the detector, {grid[1]:.3f} in the semantic stream.\n")


def report_names(results):
    """Print latency against the number of names."""
    from harness import say, table

    from decodetr.speed.timing import show

    rows = []
    for title, result in results.items():
        for k, t in result["names"].items():
            row = [title, k, show(t["model"], 1e3, 1), show(t["model_ratio"], digits=3)]
            row += [show(t["end to end"], 1e3, 1), show(t["end_to_end_ratio"], digits=3), show(t["swap"], 1e3, 1)]
            row += [show(t["first swap"], 1e3, 1)]
            rows.append(row)
    ratio = f"ratio to {t['reference']}"
    say("## Latency against the number of names\n")
    header = [
        "model",
        "names",
        "forward, ms",
        ratio,
        "with post-processing, ms",
        ratio,
        "swap of the names, ms",
        "the first time, ms",
    ]
    say(table(header, rows))


def parser():
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = arguments.add_argument
    add("--models", nargs="+", default=list(OURS), help=f"any of {', '.join(OURS)}, or DeCoDetrConfig files")
    add("--names", type=int, default=80, help="K, names in the vocabulary")
    add("--name-counts", type=int, nargs="*", default=[10, 80, 1203, 10000], help="latency against K; none to skip")
    add("--coarse", type=int, default=1203, help="M1, coarse prototypes")
    add("--fine", type=int, default=4800, help="M2, fine prototypes")
    add("--embedding-dim", type=int, default=512, help="d")
    add("--semantic-inputs", default="query+region", choices=["query", "query+region"], help='the paper\'s is "query"')
    add(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="side, or height and width; 640, or that of the config file",
    )
    add("--queries", type=int, default=32, help="of an image that the semantic stream reads: the most certain ones")
    add("--batch-size", type=int, default=1, help="images per forward")
    add("--device", default="cpu", help="cpu, cuda, mps, ...")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the model's weights")
    add("--threads", type=int, help="CPU threads (default: torch's)")
    add("--warmup", type=int, default=3, help="untimed rounds")
    add("--runs", type=int, default=15, help="timed rounds")
    add("--output", help="write all numbers to this JSON file")
    return extend_lists(arguments, but=("--image-size",))


def main(argv=None) -> int:
    """Measure and report."""
    args = parser().parse_args(argv)
    import torch
    from harness import say, table

    from decodetr.speed.machine import environment

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = {name: getattr(args, name) for name in ("dtype", "batch_size", "queries", "warmup", "runs")}
    machine = environment(args.device, **settings)
    say(table(["setting", "value"], machine.items()))
    results = {}
    for name in args.models:
        title, model = build(name, args)
        say(f"measuring {title} ...")
        pixel_values = image(model, args)
        forward = partial(model, pixel_values, semantic_queries=args.queries)
        results[title] = {
            "image_size": list(pixel_values.shape[-2:]),
            "prototypes": model.config.num_prototypes,
            "embedding_dim": model.config.embedding_dim,
            "semantic_inputs": model.config.semantic_inputs,
            "parameters": parameters(model),
            "flops": flops(forward, model),
            "latency": latency(forward, model, pixel_values, args),
        }
        if args.name_counts:
            results[title]["names"] = latency_of_names(forward, model, pixel_values, args)
    report_overhead(results, args)
    for title, result in results.items():
        report_parts(title, result)
    if args.name_counts:
        report_names(results)
    if args.output:
        document = {"environment": machine, "models": results}
        write_json(args.output, document)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
