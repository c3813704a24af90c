"""`decodetr info`: what a model is, what it knows, what it learned from, and how fast it is here."""

import argparse
import sys

from decodetr.cli.options import add_device
from decodetr.utils.excerpts import some_of
from decodetr.utils.markup import in_words, one_line
from decodetr.utils.shipped import DEFAULT_MODEL

_SHOWN = 8  # names
# Of what is no model, in this order; --json has all.
_OF_OTHERS = (
    "type classes names prototypes regions embedding_dim encoder templates captioner prompt proposer kept "
    "distinct_captions delta"
).split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `decodetr info`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"folder, Hub name or shipped name of a DeCo-DETR, such as {DEFAULT_MODEL}; of a pool, a vocabulary, a "
        "detector or what else commands write it says in short what it is",
    )
    parser.add_argument(
        "--speed", action="store_true", help="also measure how long an image takes on this machine, in one process"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with all names")


def run(args: argparse.Namespace) -> int:
    """Run `decodetr info`. Returns the exit status."""
    from decodetr.inference.model_facts import describe, measure_speed
    from decodetr.utils.devices import pick_device
    from decodetr.utils.files import json_text

    if args.speed:
        pick_device(args.device)
    facts = describe(args.model)
    if args.speed and facts["kind"] != "DeCo-DETR":
        raise ValueError(f"--speed measures a DeCo-DETR, and {args.model} is a {facts['kind']}; {facts['advice']}")
    if args.speed:
        facts["speed"] = measure_speed(args.model, args.device)
    sys.stdout.write(json_text(facts) if args.json else text_of(facts))
    return 0


def text_of(facts: dict) -> str:
    """The lines that people read, of what `describe` and `measure_speed` found."""
    rows = dict(_model_rows(facts)) if facts["kind"] == "DeCo-DETR" else dict(_other_rows(facts))
    width = max(map(len, rows), default=0)
    lines = [f"{one_line(facts['name'])}: {facts['kind']}"]
    lines += [f"  {key:<{width}}  {one_line(text)}" for key, text in rows.items()]
    if advice := facts.get("advice"):
        lines.append(f"{advice[:1].upper()}{one_line(advice[1:])}.")
    return "\n".join(lines) + "\n"


def _other_rows(facts):
    for key in _OF_OTHERS:
        if (value := facts.get(key)) is not None:
            yield key.replace("_", " "), _some(value) if isinstance(value, list) else in_words(_rounded(value))


def _model_rows(facts):
    detector, parameters, pool = facts["detector"], facts["parameters"], facts["pool"]
    yield (
        "detector",
        (
            f"{detector['family']}, {detector['queries']} queries, "
            f"{'class-agnostic' if detector['class_agnostic'] else 'with classes'}"
            + (f", overlapping boxes dropped from IoU {detector['nms_iou']:g}" if detector["nms_iou"] else "")
        ),
    )
    yield (
        "parameters",
        (
            f"{parameters['all']:,} ({parameters['detector']:,} detector, "
            f"{parameters['semantic_stream']:,} semantic stream)"
        ),
    )
    yield "image size", in_words(facts["image_size"])
    embedding = facts["embedding"]
    made = embedding["encoder"] or embedding["encoder_of_the_pool"] or "nothing that is recorded"
    yield "embedding", f"{embedding['width']} wide, of {made}{', centred' if embedding['centred'] else ''}"
    yield (
        "pool",
        (
            f"{pool['coarse']} coarse and {pool['fine']} fine prototypes, of {pool['made_of']}"
            + (f", captions of {pool['captioner']}" if pool["captioner"] else "")
            + f"; used for {pool['use'].replace('+', ' and ')}"
        ),
    )
    background = facts["background"]
    yield (
        "background",
        (
            f"prototypes below cosine {background['threshold']:.3f} to all names"
            + (f"; level {background['level']:.3f}" if background["level"] > -1 else "; no level")
        ),
    )
    names = facts["names"]
    yield "names", _some(names["all"])
    yield "boxed", "not recorded" if names["boxed"] is None else _some(names["boxed"])
    for key, value in facts["training"].items():
        if key not in ("annotated_names", "seen", "allowed"):
            yield f"training: {key.replace('_', ' ')}", in_words(_rounded(value))
    if not facts["training"]:
        yield "training", "not recorded"
    scores = facts["scores"]
    yield (
        "threshold",
        f"{scores['threshold']:g}"
        + (f", and {len(scores['name_thresholds'])} names have their own" if scores["name_thresholds"] else ""),
    )
    calibration = scores["calibration"]
    yield "calibration", in_words(_rounded(calibration)) if calibration else "none; `decodetr calibrate` makes one"
    if speed := facts.get("speed"):
        height, width = speed["pixels"]
        yield (
            "speed",
            (
                f"{speed['milliseconds']:.1f} ms an image ({speed['images_per_second']:.1f} images/s) at "
                f"{height} x {width} "
                f"on {speed['device']} with {speed['threads']} threads; median of {speed['runs']} forwards, slowest "
                f"{speed['slowest']:.1f} ms"
            ),
        )


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return f"{value:.4g}" if isinstance(value, float) else value


def _some(names):
    return f"{len(names)}" + (f": {some_of(names, _SHOWN, str)}" if names else "")
