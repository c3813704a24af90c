"""`decodetr train --plan`: hours, memory and disk of a run on machines that need not be here, before any is rented.

Counted on this machine, on the very model: FLOPs, operations and kept bytes of one step of one image, and the time to
read a picture. Everything else follows from these and from the figures below, so it is *computed*, not measured.
"""

import copy
import io
import math
import re
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from decodetr.annotations.formats import form_of
from decodetr.annotations.names_split import names_split_file, read_split
from decodetr.annotations.sources import load_annotations
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.modeling_decodetr.detectors import detector_preprocessing
from decodetr.processing import DeCoDetrImageProcessor
from decodetr.processing.regions import count_regions
from decodetr.training.features.feature_building import bytes_of_query, query_budget
from decodetr.training.planning.choices import choose
from decodetr.training.planning.chosen import situation_of
from decodetr.training.planning.step_cost import CACHED, StepCost, forward_cost, step_cost
from decodetr.training.planning.trial import kept_checkpoints, learned_numbers
from decodetr.training.start.starting_point import in_squares, starting_config
from decodetr.utils.images import open_image
from decodetr.utils.preflight import in_units
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    from decodetr.training.options.arguments import DeCoDetrTrainingArguments
    from decodetr.training.options.options import TrainOptions

RECIPES = ("joint", "localization", "semantic", CACHED)
REGIONS = 30  # kept regions of an image, where no regions data set says it
# Share of the peak that a step reaches. Assumed. ResNet-50 in the GPU vendor's own examples reaches 0.16 of an A100 in
# TF32 and 0.21 in half precision (993 and 2,711 images/s of 24.5 GFLOP): a detector with small layers has less.
UTILISATION = 0.1
LAUNCH = 1e-5  # seconds in which PyTorch starts an operation on a GPU
FIXED = 1 << 30  # bytes of a GPU: CUDA's context, and what the libraries work in
_PICTURE = (640, 480)  # pixels, the commonest size in COCO
_READ = 8  # pictures that are read to take the time


@dataclass(frozen=True)
class DataSize:
    """Numbers of training `images`, boxes (without crowds), names, and regions of all images."""

    images: int
    boxes: int
    names: int
    regions: int

    @property
    def queries(self) -> float:
        """Queries of an image that something supervises, about: one for each box and region."""
        return (self.boxes + self.regions) / self.images


def _public(images, boxes, names):
    return DataSize(images, boxes, names, REGIONS * images)


# Of the annotation files of the training images: COCO 2017, LVIS v1, Objects365 v2.
SIZES = {
    "coco": _public(118_287, 860_001, 80),
    "lvis": _public(100_170, 1_270_141, 1203),
    "objects365": _public(1_742_289, 25_407_598, 365),
}


@dataclass(frozen=True)
class Gpu:
    """TFLOP/s of dense products in bfloat16 and in float32 (convolutions as PyTorch runs them, in TF32), and GB."""

    bf16: float
    tf32: float
    fp32: float
    memory: float


# The vendor's data sheets, without sparsity.
GPUS = {
    "h200": Gpu(989, 495, 67, 141),
    "h100": Gpu(989, 495, 67, 80),
    "a100": Gpu(312, 156, 19.5, 80),
    "l40s": Gpu(362, 183, 91.6, 48),
    "rtx4090": Gpu(165, 82.6, 82.6, 24),
    "l4": Gpu(121, 60, 30.3, 24),
}


def parse_machine(word: str) -> tuple[int, str]:
    """("8xh100") -> (8, "h100").

    Raises:
        ValueError: another form, or a GPU that is not in the table.
    """
    found = re.fullmatch(r"(?:(\d+)x)?(\w+)", word.strip().lower())
    if not found or found[2] not in GPUS or found[1] == "0":
        raise ValueError(f"--plan-gpus {word}: expected a number and a GPU, such as 8xh100; known: {', '.join(GPUS)}")
    return int(found[1] or 1), found[2]


def size_of_data(options: "TrainOptions") -> DataSize:
    """Numbers of the data that `options.plan` names, or of `--data` with its regions.

    Raises:
        FileNotFoundError, ValueError: what the readers refuse.
    """
    if options.plan in SIZES:
        return SIZES[options.plan]
    form = form_of(options.class_names, options.box_format)
    coco = load_annotations(options.data, "train", options.train_annotations, **form)
    if (split := names_split_file(options.data, options.names_split)) is not None:
        coco = coco.select(read_split(split)[0])
    images = len(coco.images)
    regions = count_regions(options.regions_folder) if options.regions_folder else REGIONS * images
    boxes = len(coco.annotations_by_image.column("id", crowds=False))
    return DataSize(images, boxes, len(coco.names), regions)


def plan(options: "TrainOptions", training: "DeCoDetrTrainingArguments", given: Set[str]) -> str:
    """The plan of a run, as text with a table: a row for each way to train, with the fields that are given.

    Args:
        options (TrainOptions): `plan` and `plan_gpus` say for what. training (DeCoDetrTrainingArguments): with the
            given fields. given (set[str]): those that are never chosen.

    Raises:
        FileNotFoundError, ValueError: the starting point or the data cannot be read.
    """
    count, gpu = parse_machine(options.plan_gpus)
    size = size_of_data(options)
    counted = count_steps(options, size)
    rows = plan_rows(counted, options, training, given, size)
    model, pixels, seconds, a_query = counted.model, counted.pixels, counted.seconds, counted.a_query
    return "\n".join(_words(options, size, model, pixels, count, gpu, training, seconds, a_query, rows))


@dataclass(frozen=True)
class Counted:
    """What was counted here, of one image: `costs` {way: (a step, and of cached features what fills them or None)},
    `seconds` to read a picture, bytes of a cached query, and on what: model, processor and pixels (1, 3, H, W)."""

    model: DeCoDetrForObjectDetection
    processor: DeCoDetrImageProcessor
    pixels: torch.Tensor
    seconds: float
    a_query: float
    costs: dict[str, tuple[StepCost, StepCost | None]]


def count_steps(options: "TrainOptions", size: DataSize, ways: Sequence[str] = RECIPES) -> Counted:
    """Make one step of one image of each way to train, and count it.

    Args:
        options (TrainOptions): with a starting point. size (DataSize): boxes, regions and names of an image.
        ways: some of RECIPES.

    Raises:
        FileNotFoundError, ValueError: the starting point cannot be read.
    """
    config = starting_config(options, [f"name {i}" for i in range(size.names)])
    if not options.model:
        _name_classes(config)
    model = DeCoDetrForObjectDetection(config)
    processor = _processor(options, config)
    pixels, seconds = _read_pictures(processor)
    labels = [_labels(model, size)]
    a_query, costs = _query_as_it_is(model, pixels, labels), {}
    for streams in tqdm(ways, desc="counting a step", unit="way"):
        filling = forward_cost(model, pixels) if streams == CACHED else None
        costs[streams] = step_cost(model, pixels, labels, streams), filling
    return Counted(model, processor, pixels, seconds, a_query, costs)


def _name_classes(config):
    """A detector of classes can learn boxes of these alone, so that they are the names of the model."""
    if not config.class_agnostic:
        config.id2label = dict(config.detector_config.id2label)


def plan_rows(
    counted: Counted, options: "TrainOptions", training: "DeCoDetrTrainingArguments", given: Set[str], size: DataSize
) -> list[list[str]]:
    """The cells of the plan's table, a row for each way that was counted: COLUMNS. Arguments: as of [`plan`]."""
    count, gpu = parse_machine(options.plan_gpus)
    rows = []
    for streams, (cost, filling) in counted.costs.items():
        run = _Run(options, training, given, size, counted.model, counted.processor, streams, count, counted.a_query)
        rows.append(run.row(cost, filling, GPUS[gpu], counted.seconds))
    return rows


class _Run:
    """One way to train, and what follows from the cost of its step."""

    def __init__(self, options, training, given, size, model, processor, streams, count, a_query):
        self.a_query = a_query
        self.streams, self.size, self.model, self.count, self.training = streams, size, model, count, training
        cached = streams == CACHED
        situation = replace(
            situation_of(options, training, size.images, model.config, processor),
            streams="semantic" if cached else streams,
            cached=cached,
            parts=count * training.gradient_accumulation_steps,
        )
        fields: dict[str, Any] = {"cache_views": 1, **choose(situation, given, training)}
        self.fields = {**fields, **{name: getattr(training, name) for name in given & fields.keys()}}
        self.batch = self.fields.get("per_device_train_batch_size", training.per_device_train_batch_size)
        self.views = self.fields["cache_views"] if cached else 1
        an_epoch = math.ceil(size.images * self.views / (self.batch * situation.parts))
        self.steps = self.fields.get("max_steps", training.max_steps)
        if self.steps <= 0:
            self.steps = math.ceil(training.num_train_epochs * an_epoch)

    def row(self, cost: StepCost, filling: StepCost | None, gpu: Gpu, reading: float) -> list[str]:
        """Cells of the table."""
        half = self.training.bf16 or self.training.fp16
        images = self.batch * self.training.gradient_accumulation_steps
        arithmetic = images * _seconds(cost, gpu, half)
        step = max(arithmetic, self.training.gradient_accumulation_steps * cost.operations * LAUNCH)
        hours = self.steps * step / 3600
        bound = "arithmetic" if step == arithmetic else "launches"
        readers = images * reading / step
        name = f"`--streams {self.streams}`"
        if filling is not None:
            name, readers = "`--streams semantic --cache-features true`", 0.0
            once = self.views * self.size.images / self.count * _seconds(filling, gpu, False) / 3600
            bound = f"{_hours(once)} h fill the cache"
            hours += once
        return [
            name,
            f"{self.count} x {images}",
            f"{self.steps:,}",
            f"{images * (cost.convolutions + cost.others) / 1e12:.3g}",
            _hours(hours),
            bound,
            _or_too_large(self._memory(cost), gpu),
            f"{readers:.1f}" if readers else "",
            in_units(self._disk()),
        ]

    def _memory(self, cost):
        """Bytes of one GPU: weights, gradients twice (DDP sends them from buckets), AdamW's two averages, what the
        forward keeps."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        learned = 4 * learned_numbers(self.model, self._streams, self.training.freeze_backbone)
        copies = 4 if self.count > 1 else 3
        return FIXED + weights + copies * learned + self.batch * cost.kept

    def _disk(self):
        """Bytes of regions, cached features, checkpoints and model."""
        width = self.model.config.embedding_dim
        regions = self.size.regions * region_bytes(width) if self.streams != "localization" else 0
        queries = self.views * self.size.images * self.size.queries if self.streams == CACHED else 0
        budget = query_budget(self.a_query, queries, self.training.cache_query_bytes)
        features = queries * (self.a_query if budget is None else min(self.a_query, budget))
        weights = sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())
        learned = learned_numbers(self.model, self._streams, self.training.freeze_backbone)
        run = copy.copy(self.training)
        run.max_steps = self.steps
        kept = kept_checkpoints(run, self.size.images)
        return regions + features + weights + kept * (weights + 8 * learned)

    @property
    def _streams(self):
        return "semantic" if self.streams == CACHED else self.streams


def _seconds(cost, gpu, half):
    """Seconds of one image's arithmetic."""
    rates = (gpu.bf16, gpu.bf16) if half else (gpu.tf32, gpu.fp32)
    return (cost.convolutions / rates[0] + cost.others / rates[1]) / (UTILISATION * 1e12)


def _hours(hours):
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


def _or_too_large(needed, gpu):
    text = in_units(needed)
    return text if needed <= gpu.memory * 1e9 else f"{text}: too large"


def region_bytes(width: int) -> int:
    """Bytes that a region takes on the disk, about: two embeddings of `width` float16, its box, and its caption."""
    return 2 * 2 * width + 128


def _query_as_it_is(model, pixels, labels):
    """Bytes of a cached query whose samples are not projected."""
    with torch.no_grad():
        (found,) = model.eval().extract_semantic_features(pixel_values=pixels, labels=labels)
    parts = {name: found[name].half() for name in ("queries", "region_embeds")}
    return bytes_of_query([{**parts, "samples": [level.half() for level in found["samples"]]}])


def _processor(options, config):
    """The image processor that the run would have."""
    if options.model:
        processor = DeCoDetrImageProcessor.from_pretrained(resolve(options.model))
    else:
        fields = config.preprocessing
        if options.detector:
            fields = detector_preprocessing(options.detector, config.detector_config)
        processor = DeCoDetrImageProcessor(**(fields or {}))
    if options.image_size is not None:
        in_squares(processor, options.image_size)
    return processor


def _read_pictures(processor):
    """(pixel values (1, 3, H, W) of a picture of COCO's commonest size, seconds to decode and prepare one)."""
    noise = np.random.default_rng(0).integers(0, 255, (_PICTURE[1] // 8, _PICTURE[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(_PICTURE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    start = time.perf_counter()
    for _ in range(_READ):
        picture = open_image(file.getvalue())
        pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
    return pixels, (time.perf_counter() - start) / _READ


def _labels(model, size):
    """Boxes and regions of one image, as many as an image has on average, at random places."""
    generator = torch.Generator().manual_seed(0)

    def boxes(number):
        sides = 0.05 + 0.3 * torch.rand(number, 2, generator=generator)
        centres = sides / 2 + (1 - sides) * torch.rand(number, 2, generator=generator)
        return torch.cat([centres, sides], dim=1)

    count, regions = max(round(size.boxes / size.images), 1), round(size.regions / size.images)
    known = len(model.vocabulary.names)
    if not model.config.class_agnostic:
        known = min(known, model.config.detector_config.num_labels)
    embeds = torch.randn(regions, model.config.embedding_dim, generator=generator)
    return {
        "class_labels": torch.randint(known, (count,), generator=generator),
        "boxes": boxes(count),
        "region_boxes": boxes(regions),
        "region_embeds": torch.nn.functional.normalize(embeds, dim=-1),
    }


COLUMNS = (
    "way", "images a step", "steps", "TFLOP a step, GPU", "hours", "bound by", "memory a GPU", "readers a GPU", "disk",
)  # fmt: skip


def _words(options, size, model, pixels, count, gpu, training, seconds, a_query, rows):
    what = options.data if options.plan == "data" else options.plan
    detector = model.config.detector_config.model_type
    precision = "bfloat16" if training.bf16 else "float16" if training.fp16 else "float32 (convolutions in TF32)"
    return [
        f"COMPUTED, not measured: {what} ({size.images:,} images, {size.boxes:,} boxes, {size.names:,} names, "
        f"{size.regions:,} regions) on {count} x {gpu}, {precision},",
        f"{detector} of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, images of "
        f"{pixels.shape[-2]} x {pixels.shape[-1]}.",
        "",
        markdown_table(COLUMNS, rows, escape=False),
        "",
        f"- Hours: FLOPs of a step, counted on this model, at {UTILISATION:.0%} of the peak of the data sheet, and at "
        f"least {LAUNCH * 1e6:.0f} us for each operation. Evaluation and the start are not in them.",
        f"- Memory: weights, gradients, AdamW, what the forward keeps (counted in float32, which is the most), and "
        f"{in_units(FIXED)}.",
        f"- Readers: processes that decode pictures (--workers), at the {1000 * seconds:.0f} ms a picture takes here.",
        f"- Disk: regions, cached features ({size.queries:.0f} queries an image, {in_units(a_query)} each as they "
        "are, or --cache-query-bytes), checkpoints and model. Pictures are not in it.",
    ]
