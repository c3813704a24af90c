"""What a build will cost: each stage tried on a few photos, and extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torchvision.ops import box_convert

from decodetr.building.commands import GRID_WINDOWS, has_report
from decodetr.building.photos import MOST_SAMPLED, kept_aside
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.pool_run import load_models
from decodetr.pool_builder.proposals import select_proposals
from decodetr.pool_builder.settings import PoolSettings, PoolTask
from decodetr.training.features.feature_building import query_budget
from decodetr.training.features.feature_cache import feature_collate
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.options import TrainOptions
from decodetr.training.planning.choices import BATCH, NEW, PRETRAINED, Situation, choose
from decodetr.training.start.starting_point import start_model
from decodetr.utils.devices import pick_device
from decodetr.utils.images import open_image
from decodetr.utils.preflight import in_units, require_room
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from pathlib import Path

    from decodetr.building.commands import Start
    from decodetr.building.options import BuildOptions

TRIED = 4  # photos, and crops, of a sample, or as many as there are
_TRAINED = 3  # a training step costs about so many forwards of its photos
_VIEWS = 2  # of each photo, that are cached
_ROW_BYTES = 400  # of a region besides its embeddings: boxes, scores, caption


@dataclass
class Plan:
    """
    Args:
        photos (int): that will be learned from. regions (float): of a photo, as found on the sample.
        seconds (dict): {stage: seconds}, of those that are tried. notes (dict): {stage: what is counted}.
        disk (float): bytes that stages write. cached (float): those of them that are cached features.
        queries (float): of a photo, whose features are cached: of each region, all that lie on it.
        tried (int): photos of the sample.
    """

    photos: int
    regions: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    disk: float = 0.0
    cached: float = 0.0
    queries: float = 0.0
    tried: int = 0

    def text(self) -> str:
        """A table for people."""
        rows = [[stage, _duration(value), self.notes.get(stage, "")] for stage, value in self.seconds.items()]
        rows.append(["together", _duration(sum(self.seconds.values())), ""])
        features = f", of which cached features {in_units(self.cached)}, while it trains" if self.cached else ""
        return (
            f"Plan for {self.photos:,} photos, from {self.tried} of them:\n"
            f"{markdown_table(['stage', 'takes about', 'for'], rows)}\n"
            f"disk {in_units(self.disk)}{features}\n"
        )

    def check_room(self, output: Path) -> None:
        """ValueError where the disk of a folder has less room than the stages need. With both figures."""
        require_room(
            output,
            int(self.disk),
            f"the stages of the plan (cached features: {in_units(self.cached)})",
            "choose another --output, or give fewer photos",
        )


def measure(options: BuildOptions, start: Start, pictures: Sequence[Path], stages: Sequence[str]) -> Plan:
    """Try the stages that are still to be done on the first few photos.

    Args:
        options (BuildOptions). start (Start). pictures: the files of the photos. stages: that are to be done.

    Returns:
        Plan. Loading the models is not in it, nor are names and pictures, which take seconds.
    """
    images = [image for path in pictures[: 4 * TRIED] if (image := _opened(path)) is not None][:TRIED]
    plan = Plan(len(pictures), tried=len(images))
    if not images:
        return plan
    settings = PoolSettings() if options.prompt is None else PoolSettings(prompt=options.prompt)
    names: dict[str, str | None] = {"detector": options.detector, "clip": options.clip, "captioner": options.captioner}
    models = {
        name: model.load()
        for name, model in load_models(
            PoolTask("build", options.output, settings, models=names, device=options.device)
        ).items()
    }
    look, found = _timed(lambda: models["detector"](images))
    look /= len(images)
    limits = settings.of("min_objectness", "min_side", "nms_iou", "max_proposals")
    none = torch.zeros(0, 4)
    boxes = [
        select_proposals(some, scores, none, image.width, image.height, **limits)[0]
        for image, (some, scores) in zip(images, found)
    ]
    plan.regions = sum(map(len, boxes)) / len(images)
    pairs = [(image, box) for image, some in zip(images, boxes) for box in some.tolist()][:TRIED]
    pairs = pairs or [(image, (0, 0, image.width, image.height)) for image in images]
    embed, captioner = models["clip"], models["captioner"]
    crops = [[crop_region(*pair, size) for pair in pairs] for size in (getattr(captioner, "size", None), embed.size)]
    say = _timed(lambda: captioner.describe(crops[0]))[0] / len(pairs)
    show = _timed(lambda: embed.embed_images(crops[1]))[0] / len(pairs)
    regions = plan.regions * plan.photos
    pool = f"{plan.photos:,} photos x ({_duration(look)} + {plan.regions:.0f} regions x {_duration(say + show)})"
    for stage in stages:
        if stage == "coverage":
            windows = min(MOST_SAMPLED, plan.photos) * GRID_WINDOWS
            plan.seconds[stage] = windows * (say + show)
            plan.notes[stage] = f"{windows:,} windows x {_duration(say + show)}"
        elif stage in ("first-pool", "pool"):
            plan.seconds[stage] = plan.photos * look + regions * (say + show)
            plan.notes[stage] = pool
            plan.disk += regions * (6 * embed.dim + _ROW_BYTES)
        elif stage == "boxes":
            steps = _steps(options, "localization", plan.photos)
            plan.seconds[stage] = steps * BATCH * _TRAINED * look
            plan.notes[stage] = f"{steps:,} steps x {BATCH} photos x {_TRAINED} x {_duration(look)}"
        elif stage == "model":
            _semantic(plan, options, start, embed.dim, images, boxes, look)
        elif stage == "scores" or (stage == "report" and has_report(options, start)):
            kept = kept_aside(plan.photos)
            plan.seconds[stage] = kept * look
            plan.notes[stage] = f"{kept:,} photos x {_duration(look)}"
    return plan


def _semantic(plan, options, start, width, images, boxes, look):
    """The semantic stream: two views of cached features, and steps over them."""
    if start.is_decodetr:
        begin = TrainOptions(data=".", model=options.detector, reset_semantics=True)
    else:
        classes = ["class_agnostic=false"] if start.classes > 1 and not options.localize else []
        begin = TrainOptions(data=".", detector=options.detector, set=[f"embedding_dim={width}", *classes])
    model, processor = start_model(begin, ["object"])
    device = pick_device(options.device)
    model.to(device).train()
    found = [_cached(model, processor, image, some, device) for image, some in zip(images, boxes)]
    plan.queries = sum(len(one["queries"]) for one in found) / len(found)
    count = max(round(plan.queries), 1)
    queries, *samples = (
        torch.randn(count, *part.shape[1:], device=device) for part in (found[0]["queries"], *found[0]["samples"])
    )
    as_it_is = 2 * (sum(part.shape[1:].numel() for part in (queries, *samples)) + width)  # float16, and the embedding
    number = _VIEWS * plan.photos * plan.queries
    plan.cached = number * min(as_it_is, query_budget(as_it_is, number, None) or as_it_is)
    item = {
        "queries": queries,
        "samples": samples,
        "name_index": torch.full((count,), -1, device=device),
        "region_embeds": torch.randn(count, model.config.embedding_dim, device=device),
        "image": torch.zeros(count, dtype=torch.int64, device=device),
        "region_text_embeds": torch.zeros(0, model.config.embedding_dim, device=device),
    }
    batch = feature_collate([item] * 8)

    def step():
        model(**batch).loss.backward()
        model.zero_grad()

    one = _timed(step)[0]
    steps = options.steps or _steps(options, "semantic", plan.photos)
    plan.seconds["model"] = _VIEWS * plan.photos * look + steps * one
    plan.notes["model"] = (
        f"{_VIEWS} views of {plan.photos:,} photos x {_duration(look)}, {steps:,} steps x {_duration(one)}"
    )
    plan.disk += plan.cached
    plan.disk += 3 * sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _steps(options, streams, photos):
    """Steps that a training chooses. What else it depends on leaves their number as it is."""
    arguments = DeCoDetrTrainingArguments(output_dir=str(options.output / "model"), streams=streams, use_cpu=True)
    situation = Situation(streams, PRETRAINED, NEW, photos, 256, 640, True, streams == "semantic", True)
    return choose(situation, frozenset(), arguments)["max_steps"]


def _cached(model, processor, image, boxes, device):
    """What is cached of a photo: of `extract_semantic_features`, with regions (n, 4) as pixels x0, y0, x1, y1."""
    inputs = processor(images=[image], return_tensors="pt").to(device)
    width, height = image.size
    shares = boxes.float().reshape(-1, 4).cpu() / torch.tensor([width, height, width, height])
    label = {
        "class_labels": torch.zeros(0, dtype=torch.int64, device=device),
        "boxes": torch.zeros(0, 4, device=device),
        "region_boxes": box_convert(shares, "xyxy", "cxcywh").to(device),
        "region_embeds": torch.randn(len(shares), model.config.embedding_dim, device=device),
    }
    with torch.no_grad(), evaluating(model):
        (found,) = model.extract_semantic_features(inputs["pixel_values"], [label], inputs.get("pixel_mask"))
    return found


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds of the second of two calls, what it returned): the first one warms up."""
    work()
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def _opened(path):
    try:
        return open_image(path)
    except (OSError, ValueError):
        return None


def _duration(seconds):
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
