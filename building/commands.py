"""The command of each stage of a build: what a person would type for it.

OUT/data         photos without boxes, as a COCO folder
OUT/coverage     a pool of windows of some photos: what captions speak of, whatever the detector finds
OUT/first, boxes with --localize: a pool of the first detector's regions, and the class-agnostic detector
OUT/built        regions and pool
OUT/names.json, names
OUT/model, report, pictures
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from decodetr.annotations.sources import has_part
from decodetr.building.options import BuildOptions
from decodetr.building.photos import KEPT, LEARNED, SAMPLE

GRID_WINDOWS = 30  # of a photo, the largest first


@dataclass(frozen=True)
class Start:
    """What a build starts from.

    Args:
        is_decodetr (bool). classes (int): that the detector tells apart. 1 of a class-agnostic one.
        boxed (bool): the photos have boxes.
    """

    is_decodetr: bool
    classes: int
    boxed: bool = False

    def words(self, options: BuildOptions) -> list[str]:
        """The starting point of the semantic stream, whose detector stays as it is to the bit."""
        if options.localize:
            return ["--model", str(options.output / "boxes"), "--reset-semantics"]
        if self.is_decodetr:
            return ["--model", options.detector, "--reset-semantics"]
        kept = ["--set", "class_agnostic=false"] if self.classes > 1 else []
        return ["--detector", options.detector, *kept]


def command_of(stage: str, options: BuildOptions, start: Start) -> list[str]:
    """The words of a stage's command, after `decodetr`.

    Args:
        stage (str): one of `STAGES`, but for those that are no command of their own: "photos", and "names" of a pool.
    """
    out, data = options.output, _data(options, start)
    device = ["--device", options.device]
    teachers = {"--clip": options.clip, "--captioner": options.captioner}
    asked = [f"--prompt={options.prompt}"] if options.prompt else []  # in one word: it may begin with a hyphen
    asked += [] if options.keep_share is None else ["--keep-share", str(options.keep_share)]
    seed = ["--seed", str(options.seed), *_engine(options)]
    if stage == "coverage":
        given = data | {"--annotations": out / "data" / "annotations" / SAMPLE, "--detector": "grid"}
        given |= {**teachers, "--max-proposals": GRID_WINDOWS, "--output": out / "coverage"}
        return ["pool", "build", *_flat(given), *asked, *seed, *device]
    if stage in ("first-pool", "pool"):
        second = stage == "pool" and options.localize
        given = data | {"--detector": out / "boxes" if second else options.detector, **teachers}
        given |= {"--output": out / ("first" if stage == "first-pool" else "built")}
        return ["pool", "build", *_flat(given), *asked, *seed, *device]
    if stage == "boxes":
        given = data | {"--regions": out / "first" / "regions", "--output": out / "boxes", "--seed": options.seed}
        begin = ["--model" if start.is_decodetr else "--detector", options.detector]
        if start.is_decodetr:
            begin += ["--pool", str(out / "first" / "pool")]
        begin += ["--streams", "localization", "--pseudo-boxes", "objects", *_RESUMED]
        return ["train", *begin, *_flat(given), *_without_boxes(start), *device]
    if stage == "names":
        given = {"--names-file": out / "names.json", "--clip": options.clip, "--output": out / "names"}
        return ["vocabulary", "build", *_flat(given), "--overwrite", *device]
    if stage == "model":
        given = data | {"--vocabulary": out / "names", "--pool": out / "built" / "pool"}
        given |= {"--regions": out / "built" / "regions", "--output": out / "model", "--seed": options.seed}
        if not start.boxed:
            given["--train-annotations"] = out / "data" / "annotations" / LEARNED
        if options.steps is not None:
            given["--max-steps"] = options.steps
        words = [*start.words(options), "--streams", "semantic", "--cache-features", "true", *_RESUMED]
        return ["train", *words, *_flat(given), *_without_boxes(start), *device]
    judged = data if start.boxed else {"--annotations": out / "data" / "annotations" / KEPT}
    given = {"--model": out / "model", **judged}
    if stage == "scores":
        return ["calibrate", *_flat(given), "--duplicates", *device]
    return ["eval", *_flat(given | {"--output": out / "report"}), "--overwrite", *device]


_RESUMED = ("--resume-from-checkpoint", "auto")


def _engine(options):
    """Who makes the shards of a pool."""
    given = {"--engine": options.engine, "--ray-address": options.ray_address, "--workers": options.workers}
    return _flat({option: value for option, value in given.items() if value is not None and value != "datasets"})


def _data(options, start):
    return {"--data": options.images if start.boxed else options.output / "data"}


def _without_boxes(start):
    """There is nothing to validate or to calibrate on before the teacher has said what is in the photos kept aside."""
    return [] if start.boxed else ["--val-annotations", "none", "--calibration-share", "0"]


def _flat(options: Mapping[str, object]) -> Iterator[str]:
    for option, value in options.items():
        yield from (option, str(value))


def has_report(options: BuildOptions, start: Start) -> bool:
    """Whether there is something to evaluate on."""
    return not start.boxed or has_part(options.images, "val")
