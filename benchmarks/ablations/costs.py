"""What each part costs, in a forward and in a training step: the default beside the same without that part, in turn
in one process."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ablations.rows import ROWS
from ablations.verdicts import differences, in_words
from decodetr.utils.documents import read_json
from decodetr.utils.tables import markdown_table

FILE = "costs/costs.json"  # below the results, whose other files are worlds
DEFAULT = "captions"
DETECTOR = "rt_detr_v2"  # of the catalogue, whose forward is timed at its real size
NAMES, QUERIES, SIDE = 80, 32, 640
WORLDS = 3  # that a line of the table names: those with the most steps
# What is kept that the paper does not have, and the pool: (what it is, the row without it).
KEPT = (
    ("Regions of the maps are read, not the query alone", "query"),
    ("Thumbnails, where maps tell little", "no-thumbnails"),
    ("96 channels of a map, and dropout", "narrow"),
    ("The pool: lookup, L_distill and background", "none"),
    ("A bounded MLP beside the lookup", "free"),
    ("g_phi begins as the identity", "predictor-random"),
    ("L_distill at what is compared with names too", "distill-query"),
    ("alpha and tau from the space instead of 0.07", "temperature-0.07"),
)
_HEAD = """## What does each improvement cost?
Of what this project has beyond the paper, and of the pool: the default over the same without it. A forward is that of
{title} at {side} x {side}, batch 1, {names} names, {prototypes:,} prototypes of width {width}, {queries} queries read,
random weights. A training step is that of `{world}` over cached features, of 8 images. Medians and quartiles of
{runs} runs in turn; {machine}, {threads}, {date}. `python benchmarks/ablate.py cost` measures them. Where 1
lies between the quartiles, no cost is told. Points are of names without boxes, mean and 95 % interval over the seeds.
"""


def measure_costs(runs: Any, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Times of the default over those of each row of `KEPT`, which is what the part of that row costs.

    Args:
        runs: a [`Comparison`] with a row's pool and features, as `ablate.py run` has. rounds: timed ones.
        say: is told what is being measured.

    Returns:
        `dict`: "forward" and "step", each {row: spread of the ratios}, with what was measured where.
    """
    from decodetr.speed.catalog import OURS, STREAM
    from decodetr.speed.machine import environment
    from decodetr.speed.timing import in_turn, ratios

    rows = [DEFAULT, *(row for _, row in KEPT)]
    found: dict[str, Any] = {}
    for what, made in (("forward", _forwards(runs, rows)), ("step", _steps(runs, rows))):
        say(f"timing a {what} of {len(rows)} models in turn")
        seconds = in_turn(made, device=runs.device, warmup=2, runs=rounds, lead=1)
        found[what] = {row: ratios(seconds, DEFAULT, row) for row in rows[1:]}
    machine = environment(runs.device)
    return {
        **found,
        "title": OURS[DETECTOR].title,
        "stream": {
            "prototypes": STREAM["num_coarse_prototypes"] + STREAM["num_fine_prototypes"],
            "width": STREAM["embedding_dim"],
        },
        "runs": rounds,
        "date": date.today().isoformat(),
        "machine": {name: machine[name] for name in ("device", "cores", "threads", "torch", "transformers")},
    }


def _forwards(runs: Any, rows: Sequence[str]) -> dict[str, Callable[[], Any]]:
    import torch

    from decodetr import DeCoDetrConfig, DeCoDetrForObjectDetection
    from decodetr.scenes.comparison import SAMPLED
    from decodetr.speed.catalog import OURS, STREAM

    pixels = torch.zeros(1, 3, SIDE, SIDE, device=runs.device)
    common = {name: getattr(runs.localized.config, name) for name in SAMPLED}  # thumbnails among them
    common |= {"detector_config": OURS[DETECTOR].fields, "id2label": {i: f"name {i}" for i in range(NAMES)}, **STREAM}

    def forward(row):
        torch.manual_seed(0)
        model = DeCoDetrForObjectDetection(DeCoDetrConfig(**(common | ROWS[row].fields))).eval().to(runs.device)
        return torch.inference_mode()(lambda: model(pixels, semantic_queries=QUERIES))

    return {row: forward(row) for row in rows}


def _steps(runs: Any, rows: Sequence[str]) -> dict[str, Callable[[], Any]]:
    from step_trainers import ready, step

    from ablations.beginnings import BEGINNINGS
    from decodetr.scenes.recipes import SEMANTIC_TRAINING
    from decodetr.training.features.feature_cache import feature_collate

    def steps(row):
        fields, begin = ROWS[row].fields, ROWS[row].begin
        cache = runs.features(fields)
        with tempfile.TemporaryDirectory() as folder:
            change = BEGINNINGS[begin] if begin else None
            trainer = ready(runs.new_trainer(runs.pool, fields, 0, SEMANTIC_TRAINING, change, cache, folder))
        size = min(trainer.args.per_device_train_batch_size, len(cache))
        batch = feature_collate([cache[i] for i in range(size)])
        return lambda: step(trainer, batch)

    return {row: steps(row) for row in rows}


def costs_part(found: Mapping[str, dict], costs: Path, values_of: Callable[[dict, str], dict[str, float]]) -> str:
    """The section, of all worlds in which a row was measured. Empty where no costs were.

    Args:
        found: {key of a world: its results}. costs: file of `measure_costs`. values_of: {seed: value} of a world's
            content and a row.
    """
    if not costs.exists():
        return ""
    from decodetr.speed.timing import show

    measured = read_json(costs, dict)
    lines = []
    for words, row in KEPT:
        gains = []
        for key, content in sorted(found.items(), key=lambda item: -item[1]["settings"]["steps"]):
            values = differences(values_of(content, DEFAULT), values_of(content, row))
            if len(values) > 1:
                gains.append(f"{key}: {in_words(values)}")
        times = [show(measured[what][row], digits=3) for what in ("forward", "step")]
        lines.append([words, *times, "; ".join(gains[:WORLDS]), f"`{row}`"])
    machine, stream = measured["machine"], measured["stream"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    head = _HEAD.format(
        **{name: measured[name] for name in ("title", "runs", "date", "world")},
        side=SIDE, names=NAMES, **stream, queries=QUERIES, machine=machine["device"], threads=threads,
    )  # fmt: skip
    heads = ["kept", "forward, times", "training step, times", "points that it adds", "the row without it"]
    return f"{head}\n{markdown_table(heads, lines, escape=False).replace('---:', '---')}"
