"""What a build will cost: each stage tried on a few photos, and extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torchvision.ops import box_convert

from decodetr.annotations.coco import read_annotated
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.building.commands import GRID_WINDOWS, has_report
from decodetr.building.photos import MOST_SAMPLED, kept_aside
from decodetr.modeling_decodetr import Vocabulary
from decodetr.modeling_decodetr.evaluation_mode import evaluating
from decodetr.pool_builder.crops import crop_region
from decodetr.pool_builder.pool_run import load_models
from decodetr.pool_builder.proposals import annotated_boxes, select_proposals
from decodetr.pool_builder.settings import PoolSettings, PoolTask
from decodetr.training.features.feature_building import query_budget
from decodetr.training.features.feature_cache import feature_collate
from decodetr.training.options.arguments import DeCoDetrTrainingArguments
from decodetr.training.options.options import TrainOptions
from decodetr.training.planning.choices import choose
from decodetr.training.planning.chosen import situation_of
from decodetr.training.results.calibration import images_kept
from decodetr.training.start.starting_point import start_model
from decodetr.utils.devices import pick_device
from decodetr.utils.images import open_image
from decodetr.utils.preflight import in_units, require_room
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from pathlib import Path

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.building.commands import Start
    from decodetr.building.options import BuildOptions

TRIED = 4  # photos, and crops, of a sample, or as many as there are
_TRAINED = 3  # a training step costs about so many forwards of its photos
_ROW_BYTES = 400  # of a region besides its embeddings: boxes, scores, caption


@dataclass
class Plan:
    """
    Args:
        photos (int): of the pool. regions (float): of a photo: annotated boxes, and others as found on the sample.
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


def measure(
    options: BuildOptions,
    start: Start,
    pictures: Sequence[Path],
    stages: Sequence[str],
    names: Mapping[str, Sequence[str]] | None = None,
    training: CocoAnnotations | None = None,
    validation: CocoAnnotations | None = None,
) -> Plan:
    """Try the stages that are still to be done on the first few photos.

    Args:
        options (BuildOptions). start (Start). pictures: the files of photos without boxes.
        stages: that are to be done.
        names (dict, optional): {name: texts} that will be embedded. They are tried here, before what is long.
        training (CocoAnnotations, optional), validation (CocoAnnotations, optional): of a data set with boxes.

    Returns:
        Plan. Loading the models is not in it, nor are names and pictures, which take seconds. Photos that cannot be
        read are among those that it counts.

    Raises:
        ValueError: names that cannot be embedded.
    """
    training = _of_base_names(options, training)
    boxes_of, count = [torch.zeros(0, 4)] * 4 * TRIED, len(pictures)
    if training is None:
        opened = [_opened(open_image, path) for path in pictures[: 4 * TRIED]]
    else:
        entries, count = training.images[: 4 * TRIED], len(training)
        opened = [_opened(read_annotated, entry) for entry in entries]
        boxes_of = [annotated_boxes(training, entry)[0] for entry in entries]
    tried = [(image, boxes) for image, boxes in zip(opened, boxes_of) if image is not None][:TRIED]
    images, annotated = [image for image, _ in tried], [boxes for _, boxes in tried]
    plan = Plan(count, tried=len(images))
    if not images:
        return plan
    settings = PoolSettings() if options.prompt is None else PoolSettings(prompt=options.prompt)
    places: dict[str, str | None] = {
        "detector": options.detector,
        "clip": options.clip,
        "captioner": options.captioner,
    }
    models = {
        name: model.load()
        for name, model in load_models(
            PoolTask("build", options.output, settings, models=places, device=options.device)
        ).items()
    }
    embed, captioner = models["clip"], models["captioner"]
    if names:
        Vocabulary.from_text_model(names, embed.model, tokenizer=embed.tokenizer, underscores_to_spaces=True)
    look, found = _timed(lambda: models["detector"](images))
    look /= len(images)
    limits = settings.of("min_objectness", "min_side", "nms_iou", "max_proposals")
    proposed = [
        select_proposals(some, scores, taken, image.width, image.height, **limits)[0]
        for image, taken, (some, scores) in zip(images, annotated, found)
    ]
    plan.regions = sum(map(len, proposed)) / len(images)
    if training is not None:
        plan.regions += len(training.annotations_by_image.column("id", crowds=False)) / count
    boxes = [torch.cat(both) for both in zip(annotated, proposed)]
    pairs = [(image, box) for image, some in zip(images, boxes) for box in some.tolist()][:TRIED]
    pairs = pairs or [(image, (0, 0, image.width, image.height)) for image in images]
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
            plan.disk += windows * (6 * embed.dim + _ROW_BYTES)
        elif stage in ("first-pool", "pool"):
            plan.seconds[stage] = plan.photos * look + regions * (say + show)
            plan.notes[stage] = pool
            plan.disk += regions * (6 * embed.dim + _ROW_BYTES)
        elif stage == "boxes":
            _localization(plan, options, start, training, validation, look)
        elif stage == "model":
            _semantic(plan, options, start, embed.dim, images, annotated, boxes, training, validation, look)
        elif stage == "scores" or (stage == "report" and has_report(options, start)):
            judged = kept_aside(count) if validation is None else len(validation)
            plan.seconds[stage] = judged * look
            plan.notes[stage] = f"{judged:,} photos x {_duration(look)}"
    return plan


def _of_base_names(options, training):
    """The boxes that pools and trainings see: of a names split, those of the base names."""
    split = None if training is None else names_split_file(options.images)
    return training if split is None else training.select(read_split(split)[0])


def _localization(plan, options, start, training, validation, look):
    """The localization stream over the regions of all photos."""
    of_model = {"model": options.detector} if start.is_decodetr else {"detector": options.detector}
    begin = TrainOptions(data=".", **of_model)
    kept = _kept(begin, "localization", training)
    chosen = _chosen(options, begin, "localization", plan.photos - kept, *start_model(begin, ["object"]))
    steps, batch = chosen["max_steps"], chosen["per_device_train_batch_size"]
    after, said = _looked_at_after(kept, validation, look)
    plan.seconds["boxes"] = steps * batch * _TRAINED * look + after
    plan.notes["boxes"] = f"{steps:,} steps x {batch} photos x {_TRAINED} x {_duration(look)}{said}"


def _semantic(plan, options, start, width, images, annotated, boxes, training, validation, look):
    """The semantic stream: views of cached features, and steps over them."""
    if start.is_decodetr:
        begin = TrainOptions(data=".", model=options.detector, reset_semantics=True)
    else:
        classes = ["class_agnostic=false"] if start.classes > 1 and not options.localize else []
        begin = TrainOptions(data=".", detector=options.detector, set=[f"embedding_dim={width}", *classes])
    model, processor = start_model(begin, ["object"])
    device = pick_device(options.device)
    model.to(device).train()
    found = [_cached(model, processor, *one, device) for one in zip(images, annotated, boxes)]
    kept = kept_aside(plan.photos) if training is None else _kept(begin, "semantic", training)
    learned = plan.photos - kept
    chosen = _chosen(options, begin, "semantic", learned, model, processor)
    views, steps = chosen.get("cache_views", 1), chosen["max_steps"]
    plan.queries = sum(len(one["queries"]) for one in found) / len(found)
    count = max(round(plan.queries), 1)
    queries, *samples = (
        torch.randn(count, *part.shape[1:], device=device) for part in (found[0]["queries"], *found[0]["samples"])
    )
    as_it_is = 2 * (sum(part.shape[1:].numel() for part in (queries, *samples)) + width)  # float16, and the embedding
    number = views * learned * plan.queries
    plan.cached = number * min(as_it_is, query_budget(as_it_is, number, None) or as_it_is)
    item = {
        "queries": queries,
        "samples": samples,
        "name_index": torch.full((count,), -1, device=device),
        "region_embeds": torch.randn(count, model.config.embedding_dim, device=device),
        "image": torch.zeros(count, dtype=torch.int64, device=device),
        "region_text_embeds": torch.zeros(0, model.config.embedding_dim, device=device),
    }
    batch = feature_collate([item] * chosen["per_device_train_batch_size"])

    def step():
        model(**batch).loss.backward()
        model.zero_grad()

    one = _timed(step)[0]
    after, said = _looked_at_after(0 if training is None else kept, validation, look)
    plan.seconds["model"] = views * learned * look + steps * one + after
    seen = f"{views} view{'s' if views > 1 else ''} of {learned:,} photos x {_duration(look)}"
    plan.notes["model"] = f"{seen}, {steps:,} steps x {_duration(one)}{said}"
    plan.disk += plan.cached
    plan.disk += 3 * sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _kept(begin, streams, training):
    """How many training images a run keeps aside. Without boxes it is told to keep none."""
    return 0 if training is None else images_kept(begin, streams, training)


def _looked_at_after(kept, validation, look):
    """What a training looks at when it is done: (seconds, words for it)."""
    count = kept + (0 if validation is None else len(validation))
    return count * look, f", {count:,} photos x {_duration(look)}" if count else ""


def _chosen(options, begin, streams, photos, model, processor):
    """{field: value} that a training of so many photos has: batch, steps, and views that are cached."""
    semantic = streams == "semantic"
    given = {"max_steps": options.steps} if semantic and options.steps is not None else {}
    arguments = DeCoDetrTrainingArguments(
        output_dir=str(options.output / "model"), streams=streams, cache_features=semantic, use_cpu=True, **given
    )
    return given | choose(situation_of(begin, arguments, photos, model.config, processor), given.keys(), arguments)


def _cached(model, processor, image, annotated, boxes, device):
    """What is cached of a photo: of `extract_semantic_features`, with annotated boxes (m, 4) and regions (n, 4) as
    pixels x0, y0, x1, y1."""
    inputs = processor(images=[image], return_tensors="pt").to(device)

    def shares(pixels):
        size = torch.tensor([image.width, image.height] * 2)
        return box_convert(pixels.float().reshape(-1, 4).cpu() / size, "xyxy", "cxcywh").to(device)

    label = {
        "class_labels": torch.zeros(len(annotated), dtype=torch.int64, device=device),
        "boxes": shares(annotated),
        "region_boxes": shares(boxes),
        "region_embeds": torch.randn(len(boxes), model.config.embedding_dim, device=device),
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


def _opened(read, source):
    try:
        return read(source)
    except (OSError, ValueError):
        return None


def _duration(seconds):
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
