"""`decodetr build`, and `decodetr.build` in Python: each stage once, whatever ended the run before."""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from decodetr.annotations.sources import has_part, load_annotations
from decodetr.building.caption_names import caption_names
from decodetr.building.commands import command_of, has_report
from decodetr.building.contents import contents_of, difference
from decodetr.building.coverage import ENOUGH, coverage, coverage_text
from decodetr.building.options import STAGES, BuildOptions
from decodetr.building.photos import (
    KEPT,
    LEARNED,
    coco_document,
    link_photos,
    photos_of,
    photos_root,
    photos_to_learn,
    write_photos,
)
from decodetr.building.plan import measure
from decodetr.building.result import how_to_ask_otherwise, how_to_go_on, write_result
from decodetr.building.shown import shown_words
from decodetr.building.start import check_start
from decodetr.building.teacher_boxes import all_regions, teacher_boxes
from decodetr.cards.cost import counted
from decodetr.cards.scores import HEADER, score_rows
from decodetr.evaluation.calibrate import LEAST_OBJECTS
from decodetr.evaluation.model_calibration import CalibrationOptions, calibrate_model
from decodetr.inference.loading import load_model
from decodetr.training.options.metrics import check_names
from decodetr.utils.devices import machine_name, pick_device
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import some_of
from decodetr.utils.files import claim, committed, is_unused, write_json
from decodetr.utils.hub import without_user
from decodetr.utils.model_identity import model_identity
from decodetr.utils.program import run_command
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import markdown_table

logger = logging.getLogger(__name__)

RECORD = "build.json"
_INTERRUPTED = 130  # exit status of a command that Ctrl-C ended
_WITHOUT_BOXES = ("photos", "coverage", "scores")  # stages that a data set with boxes has no need of
_MORE_NAMES = "a build learns the names of the training images and --names: give the others by --names FILE"
_OF_STAGES = (
    "Each stage is the command that is printed with it. Options that its messages name are that command's, such as "
    "--delta; `decodetr build` has those of its --help.\n"
)
SHOWN = 12  # photos whose detections are drawn
# What each stage writes into OUT, where that is not called as the stage is.
_WRITTEN = {
    "photos": ("data",),
    "first-pool": ("first",),
    "pool": ("built",),
    "names": ("names", "names.json"),
    "scores": (),
}


def build(
    detector: str, images: str | Path, clip: str, captioner: str, output: str | Path, *,
    names: Sequence[str] | Mapping[str, str | list[str]] | None = None, localize: bool = False,
    prompt: str | None = None,
    keep_share: float | None = None, steps: int | None = None, device: str = "auto", seed: int = 0,
    engine: str = "datasets", ray_address: str | None = None, workers: int | None = None,
    overwrite: str | None = None,
) -> Path:  # fmt: skip
    """From a detector that is there and photos, to a model that finds any name, as `decodetr build` makes it.

    Args:
        detector (str): folder or Hub name of a DETR of any supported family, class-agnostic or with classes, or
            folder, Hub name or shipped name of a DeCo-DETR.
        images (str or Path): folder of photos, with its sub-folders, or a data set, whose boxes are used.
        clip, captioner (str): folder, Hub name or shipped name of a CLIP and of an image-text-to-text model.
        output (str or Path): folder of all stages.
        names (list[str] or dict, *optional*): names to look for; a dict has the texts that are embedded for each.
            Default: what the captions of the pool say.
        localize, prompt, keep_share, steps, device, seed, engine, ray_address, workers: see [`BuildOptions`].
        overwrite (str, *optional*): a stage of `decodetr.building.options.STAGES`, which is made again with all that
            come after it. Default: what is there is kept, and what is missing is made.

    Returns:
        Path: the folder of the model, for `DeCoDetrForObjectDetection.from_pretrained`.

    Raises:
        OSError, ValueError: what cannot be built, before anything long. RuntimeError: a stage failed, and said why.
    """
    options = BuildOptions(
        detector=str(detector), images=str(images), clip=str(clip), captioner=str(captioner), output=Path(output),
        names=_with_texts(names), localize=localize, prompt=prompt, keep_share=keep_share,
        steps=steps, device=device, seed=seed, engine=engine, ray_address=ray_address, workers=workers,
    )  # fmt: skip
    run = BuildRun(options, overwrite)
    if run.run():
        raise RuntimeError(f"the stage {run.stage!r} of the build in {output} failed; its message is above")
    return options.output / "model"


class BuildRun:
    """
    A build in a folder. What is finished there stays, if the same command made it.

    Args:
        options (BuildOptions). overwrite (str or None): first stage that is made again. plan_only: say what it would
            cost, and stop.

    Attributes:
        stage (str): the one that is being done.
    """

    def __init__(self, options: BuildOptions, overwrite: str | None = None, plan_only: bool = False) -> None:
        self.options, self.plan_only = options, plan_only
        self.start = check_start(options)
        if self._judged is not None:  # before all captions are made
            check_names(self._judged, self._names_to_learn(), _MORE_NAMES)
        # Boxes say what the photos show, and training calibrates on them.
        self.stages = [stage for stage in options.stages if not (self.start.boxed and stage in _WITHOUT_BOXES)]
        self.stage = self.stages[0]
        if overwrite is not None and overwrite != STAGES[0] and overwrite not in self.stages:
            raise ValueError(f"--overwrite {overwrite}: expected one of {', '.join(self.stages)}")
        self.overwrite = overwrite
        self.record: dict[str, Any] = {}

    def run(self) -> int:
        """Returns the exit status: of the first stage that failed, or 0."""
        options = self.options
        pictures = [] if self.start.boxed else photos_to_learn(options.images)
        with claim(options.output, "decodetr build"):
            self.record = self._read_record()
            overwritten = self._overwritten()
            for stage in overwritten:
                self.record["done"].pop(stage, None)
                self.record.get("spent", {}).pop(stage, None)
            self._check_there()
            self._check_same(pictures)  # before anything is removed
            self._remove(overwritten)
            left = [stage for stage in self.stages if stage not in self.record["done"]]
            if left and (self.plan_only or "plan" not in self.record):
                names = self._names_to_learn() if "names" in left else None
                plan = measure(options, self.start, pictures, left, names, self._training, self._judged)
                sys.stdout.write(plan.text())
                plan.check_room(options.output)
                self.record["plan"] = plan.text()
                if not self.plan_only:
                    self._write_record()
            elif left:
                sys.stdout.write(self.record["plan"])
            if self.plan_only:
                sys.stdout.write("" if left else f"{options.output} is finished: nothing is left to do\n")
                return 0
            if left:
                sys.stdout.write(_OF_STAGES)
            if "photos" in self.record["done"] and "photos" in self.stages:
                link_photos(options.images, options.output / "data")  # which may have moved
            for number, stage in enumerate(self.stages, start=1):
                self.stage = stage
                if status := self._do(stage, pictures, f"[{number}/{len(self.stages)}] "):
                    sys.stderr.write(how_to_ask_otherwise(stage, self.record["done"]))
                    return status
            sys.stdout.write(
                "\n" + write_result(options, self.start, self.record["found"], self.record.get("spent", {}))
            )
            sys.stdout.write(how_to_go_on(options.output))
        return 0

    # Stages

    def _do(self, stage, pictures, place):
        words = self._words(stage, self.options)
        line = stage if stage in self._without_command() else f"decodetr {shlex.join(words)}"
        if stage in self.record["done"]:
            sys.stdout.write(f"{place}done before: {line}\n")
            return 0
        sys.stdout.write(f"\n{place}{line}\n")
        sys.stdout.flush()
        own = {
            "photos": self._photos,
            "coverage": self._coverage,
            "names": self._names,
            "scores": self._scores,
            "report": self._report,
        }
        machine = machine_name(pick_device(self.options.device))
        with counted(self.record.setdefault("spent", {}), stage, machine, self._write_record):
            status = own.get(stage, self._command)(stage, words)
        if status:
            return status
        made = {"command": self._made_by(stage, pictures), "made_of": self._made_of(stage, pictures)}
        self.record["done"][stage] = made | {"seconds": round(self.record["spent"][stage]["seconds"], 1)}
        self._write_record()
        return 0

    def _command(self, stage, words):
        """Run it. What an earlier run left behind when it was ended is gone on with, or made again."""
        output = self.options.output
        if stage in ("boxes", "model"):  # a training that was ended after its card was written is done
            if all((output / stage / name).is_file() for name in ("train_results.json", "README.md")):
                return 0
        elif stage in ("names", "report"):
            shutil.rmtree(output / stage, ignore_errors=True)
        status = run_command(words[0], words[1:])
        if status == _INTERRUPTED:  # which no stage takes for a failure that it can do without
            raise KeyboardInterrupt
        return status

    def _photos(self, stage, words):
        self.record["found"] |= write_photos(self.options.images, self.options.output / "data")
        return 0

    def _coverage(self, stage, words):
        """What windows show is good to know. A build does not fail for it."""
        if self._command(stage, words):
            logger.warning("How much the detector finds is not measured: the captions of windows say too little")
            (self.options.output / "coverage").mkdir(parents=True, exist_ok=True)
        return 0

    def _names(self, stage, words):
        output, names, status = self.options.output, self._names_to_learn(), 0
        if names is None:
            found, empty = caption_names(output / "built" / "pool", self.options.clip, self.options.device)
            with committed(output / "names") as staging:
                found.save_pretrained(staging)
            names = found.names
            logger.warning("Names are what the captions say: %s", ", ".join(names[:10]))
            if empty:
                logger.warning("Left out, as they say that there is nothing: %d (%s)", len(empty), some_of(empty))
        else:
            write_json(output / "names.json", names)
            status = self._command(stage, words)
        if not self.start.boxed:
            document = coco_document(photos_of(output / "data", LEARNED), list(names))
            write_json(output / "data" / "annotations" / LEARNED, document, indent=None)
        return status

    def _names_to_learn(self):
        """{name: texts} of the vocabulary: those of the user after those that have boxes. None: those of the pool."""
        if not self.start.boxed:
            return self.options.names
        return {name: [name] for name in self._training.names} | (self.options.names or {})

    @cached_property
    def _training(self):
        """The training images of a data set with boxes, or None."""
        return load_annotations(self.options.images, "train", check_images=False) if self.start.boxed else None

    @cached_property
    def _judged(self):
        """Its validation images, or None."""
        if not (self.start.boxed and has_report(self.options, self.start)):
            return None
        return load_annotations(self.options.images, "val", check_images=False)

    def _scores(self, stage, words):
        """How much the detector finds; and, from what the teacher sees in the photos kept aside, calibrated scores."""
        options, found = self.options, self.record["found"]
        found.pop("not_calibrated", None)
        model, _ = load_model(options.output / "model", device=options.device)
        self._tell_coverage(model)
        images = photos_of(options.output / "data", KEPT)
        rows = teacher_boxes(model, all_regions(options.output / "built" / "regions"), [one["id"] for one in images])
        found["teacher_boxes"] = len(rows)
        document = coco_document(images, model.vocabulary.names, rows)
        write_json(options.output / "data" / "annotations" / KEPT, document, indent=None)
        if len(rows) < LEAST_OBJECTS:
            found["not_calibrated"] = (
                f"boxes that CLIP named in the {len(images)} photos kept aside: {len(rows)}, and {LEAST_OBJECTS} are "
                "needed; give more photos, or boxes to `decodetr calibrate`"
            )
        else:
            of_photos = CalibrationOptions(
                model=str(options.output / "model"),
                annotations=str(options.output / "data" / "annotations" / KEPT),
                duplicates=True,
                device=options.device,
            )
            try:
                _, info = calibrate_model(of_photos)
            except ValueError as error:  # they say too little
                found["not_calibrated"] = str(error)
            else:
                sys.stdout.write(markdown_table(HEADER, score_rows(info, "these images")))
        if "not_calibrated" in found:
            logger.warning("Scores are not calibrated: %s", found["not_calibrated"])
        return 0

    def _report(self, stage, words):
        if not self._judges():
            logger.warning("There is nothing to evaluate on")
            return 0
        return self._command(stage, words)

    def _judges(self):
        """Whether there is something to evaluate on, as far as that is known."""
        return has_report(self.options, self.start) and self.record["found"].get("teacher_boxes") != 0

    def _tell_coverage(self, model):
        out, found = self.options.output, self.record["found"]
        grid = out / "coverage" / "regions"
        if not grid.is_dir():
            return
        if self.options.localize:
            found["coverage_before"] = coverage(model, grid, out / "first" / "regions")
        found["coverage"] = coverage(model, grid, out / "built" / "regions")
        text = coverage_text(found["coverage"])
        share = found["coverage"]["share"]
        if not self.options.localize and share is not None and share < ENOUGH:
            text += " --localize trains a class-agnostic localization stream on the regions that are certain."
        logger.warning(text)

    # What is there

    def _without_command(self):
        """Stages that no command does."""
        return {"photos"} | ({"names"} if self._names_to_learn() is None else set())

    def _words(self, stage, options):
        """The words of a stage's command."""
        if stage == "photos":
            return ["photos", options.images]
        if stage == "names" and self._names_to_learn() is None:
            return ["names", str(options.output / "built" / "pool")]
        if stage == "pictures":
            shown = [str(path) for path in self._shown(options)]
            model, place = str(options.output / "model"), str(options.output / "pictures")
            more = shown_words(self.options.output)
            return ["predict", *shown, "--model", model, "--output", place, *more, "--device", options.device]
        return command_of(stage, options, self.start)

    def _made_by(self, stage, pictures):
        """The command that makes a stage, wherever OUT, photos and models lie. Models are told by their identity in
        the record, what else it is made of by [`contents_of`]."""
        options = self.options
        place = _place(options.images)
        places = [place, str(photos_root(place))] if pictures else [place]
        words = self._words(
            stage,
            replace(
                options,
                detector="DETECTOR",
                images=place,
                clip="CLIP",
                captioner="CAPTIONER",
                output=Path("OUT"),
                engine="datasets",  # whoever makes the shards, they are the same
                ray_address=None,
                workers=None,
            ),
        )
        return f"decodetr {shlex.join(_without_place(word, places) for word in words)}"

    def _made_of(self, stage, pictures):
        return contents_of(stage, self.options, pictures, self._training, self._judged)

    def _read_record(self):
        file, models = self.options.output / RECORD, self._models()
        if is_unused(self.options.output):
            return {"models": models, "done": {}, "found": {}}
        if not file.is_file():
            raise ValueError(
                f"--output {self.options.output}: expected an empty or new folder, or one of an earlier build; choose "
                "another"
            )
        record = read_json(file, dict)
        if not {"models", "done", "found"} <= record.keys():
            raise ValueError(f"{file}: expected what `decodetr build` writes; choose another --output")
        changed = [name for name, now in models.items() if record["models"].get(name) != now]
        if changed and self.overwrite != STAGES[0]:
            raise ValueError(
                f"--output {self.options.output} was built with another {' and '.join(changed)}; give another "
                f"--output, or --overwrite {STAGES[0]} to build it again"
            )
        return record | {"models": models}

    def _models(self):
        options = self.options
        names = {"detector": options.detector, "clip": options.clip, "captioner": options.captioner}
        found = {}
        for what, name in names.items():
            identity = {} if "@http" in name else model_identity(resolve(name))
            found[what] = identity.get("weights") or identity.get("revision") or without_user(name)
        return found

    def _overwritten(self):
        """The stage that is made again, and all that are made from it."""
        return () if self.overwrite is None else STAGES[STAGES.index(self.overwrite) :]

    def _remove(self, stages):
        """Remove what stages wrote."""
        if self.plan_only or not stages:
            return
        self.record.pop("plan", None)
        self._write_record()  # first: what is half removed is not done
        for stage in stages:
            for name in _WRITTEN.get(stage, (stage,)):
                path = self.options.output / name
                if path.is_dir():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)

    def _check_there(self):
        """What is done is there, where nobody has removed it by hand."""
        for stage in self.stages:
            place = self.options.output / next(iter(_WRITTEN.get(stage, (stage,))), "")
            if stage in self.record["done"] and not (place.exists() or (stage == "report" and not self._judges())):
                raise ValueError(
                    f"{place}: expected what the stage {stage} has written, got nothing; put it back, or give "
                    f"--overwrite {stage} to make it, and what comes after it, again"
                )

    def _check_same(self, pictures):
        """What is done was done by the command that would do it now."""
        for stage in self.stages:
            if stage not in self.record["done"]:
                continue
            now = self._made_by(stage, pictures), self._made_of(stage, pictures)
            if other := difference(self.record["done"][stage], *now):
                raise ValueError(
                    f"{self.options.output}: the stage {stage} was made {other}give --overwrite {stage} to make it, "
                    "and what comes after it, again; or another --output"
                )

    def _write_record(self):
        write_json(self.options.output / RECORD, self.record)

    def _shown(self, options):
        """Photos to draw: of those that were not learned from."""
        if not self.start.boxed:
            kept = photos_of(self.options.output / "data", KEPT)[:SHOWN]
            return [photos_root(options.images) / entry["file_name"] for entry in kept]
        part = "val" if has_part(options.images, "val") else "train"
        return [Path(image["path"]) for image in load_annotations(options.images, part).images[:SHOWN]]


def _place(name):
    """A folder by its whole path. Any other name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _without_place(word, places):
    """A word of a command, with IMAGES for the places of the photos, or for what it begins with."""
    for place in places:
        if word == place or word.startswith(place.rstrip(os.sep) + os.sep):
            return f"IMAGES{word.removeprefix(place.rstrip(os.sep))}"
    return word


def _with_texts(names):
    if isinstance(names, str):
        raise ValueError(f"names={names!r}: expected a list of names, such as {names.split(',')!r}, or a dict")
    if names is None:
        return None
    if isinstance(names, Mapping):
        return {name: [texts] if isinstance(texts, str) else list(texts) for name, texts in names.items()}
    return {name: [name] for name in names}
