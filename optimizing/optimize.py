"""`decodetr.optimize`: the fastest way to run a model here that keeps its detections."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from decodetr.inference.loading import bare_model, load_model
from decodetr.inference.one_call import processor_of
from decodetr.inference.shown import above
from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
from decodetr.optimizing.check import MOST, Check
from decodetr.optimizing.memory import circumstances, folder_of, memory_folder, report_of
from decodetr.optimizing.torch_detector import TorchDetector
from decodetr.optimizing.ways import WAYS, Case, check_way
from decodetr.runtime.exported_detector import BATCH_SIZE, ExportedDetector, picture_of
from decodetr.scenes.rendering import draw_scene
from decodetr.speed.machine import environment
from decodetr.speed.timing import in_turn, ratios, show, spread
from decodetr.utils.documents import read_json
from decodetr.utils.excerpts import first_line
from decodetr.utils.files import claim, write_json
from decodetr.utils.tables import markdown_table

if TYPE_CHECKING:
    import os

    import numpy as np
    import PIL.Image
    import torch

    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

    Picture = str | os.PathLike[str] | PIL.Image.Image | np.ndarray

logger = logging.getLogger(__name__)

PICTURES = 64  # that are looked at, of those that are given. As many show the ranges of int8 well enough
_CHECKED = 16  # of these, where eager float32 says what is in them
_DRAWN_SIDE = 320  # pixels, of those that are drawn


@dataclass(frozen=True)
class Optimized:
    """
    A model in the fastest way of those that were tried.

    Args:
        way (str): its name in `WAYS`.
        detector ([`TorchDetector`] or [`ExportedDetector`]): what runs.
        report (dict): "chosen", "against", "ways" with the "seconds" of a picture, "ratio" to eager float32, "ap" and
            "problem" of each, and "environment".
        folder (Path): where the choice is kept.
    """

    way: str
    detector: TorchDetector | ExportedDetector
    report: dict[str, Any]
    folder: Path

    def detect(
        self,
        images: Sequence[PIL.Image.Image | np.ndarray | str | Path],
        names: Sequence[str] | None = None,
        threshold: float | None = None,
        top_k: int = 100,
        batch_size: int = BATCH_SIZE,
    ) -> list[dict[str, list]]:
        """Detections of pictures, as of [`decodetr.runtime.ExportedDetector.detect`]. It may be called by several
        threads at once."""
        return self.detector.detect(images, names, threshold, top_k, batch_size)

    def find(
        self, images: Sequence[PIL.Image.Image], threshold: float, top_k: int, min_score: float
    ) -> list[dict[str, list]]:
        """Detections of pictures for `decodetr predict`. `min_score` is that of
        [`decodetr.inference.detection.detect`]; a graph reads as many queries whatever it is."""
        if isinstance(self.detector, TorchDetector):
            return self.detector.detect(images, None, threshold, top_k, len(images), min_score=min_score)
        return self.detector.detect(images, None, threshold, top_k, len(images))

    def table(self) -> str:
        """What was measured, for people."""
        rows = []
        for way, found in self.report["ways"].items():
            if "problem" in found:
                rows.append([way, found["problem"], "", ""])
            else:
                times = [show(found["seconds"], 1e3, 1), show(found["ratio"])]
                rows.append([f"{way} (chosen)" if way == self.way else way, *times, f"{found['ap']:.2f}"])
        return (
            markdown_table(["way", "ms a picture", "x eager", "AP"], rows, escape=False)
            + f"\nAP against {self.report['against']}\n"
        )


def optimize(
    model: str | os.PathLike[str] | torch.nn.Module,
    pictures: Iterable[Picture] | None = None,
    *,
    data: str | Path | None = None,
    ways: Sequence[str] | None = None,
    way: str | None = None,
    max_ap_loss: float = 0.3,
    image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil | None = None,
    runs: int = 7,
    memory: str | Path | None = None,
    again: bool = False,
    progress: bool = False,
) -> Optimized:
    """
    Try ways to run a model, check what they detect, and keep the fastest. A second call finds the choice of the first
    one, as long as weights, config, machine and packages are the same. Calls at once wait for each other.

    Args:
        model: folder, Hub name or shipped name of a DeCo-DETR, or a loaded one, whose device and names are kept. It is
            not changed.
        pictures: such as the model will see, files, PIL images or arrays (H, W, 3). `PICTURES` of them are looked at,
            the first ones where it is an iterator. Default: those of `data`, else drawn scenes, which say little of a
            model of photos. Where there is a choice already, none is looked at.
        data (*optional*): annotated pictures (COCO, YOLO, ...) to check AP on, instead of what eager float32 detects.
        ways: names of `WAYS`. Default: those that may pay on this machine. Compilation, which takes minutes,
            is tried only if it is named.
        way (*optional*): take this one, whatever it loses.
        max_ap_loss (float): AP points that a way may lose against eager float32.
        image_processor: of a loaded model. Default: that of the folder it is from.
        runs (int): timed rounds, in which the ways take turns at one picture.
        memory: folder of the choices. Default: decodetr/optimized below HF_HOME.
        again (bool): measure, although there is a choice; int8 has the ranges of this call's pictures.
        progress (bool): show a progress bar.

    Returns:
        [`Optimized`].

    Raises:
        ValueError: unknown ways, no pictures, or options out of range; `way` does not work for this model.
            FileNotFoundError: no such model or data. ImportError: `way` needs a package. PermissionError: `memory` may
            not be entered.
    """
    if unknown := sorted({*(ways or ()), way or "eager"} - WAYS.keys()):
        raise ValueError(f"ways: {unknown[0]!r} is none of {', '.join(WAYS)}")
    if not 0 <= max_ap_loss <= 100 or runs < 1:
        raise ValueError(f"max_ap_loss must lie in [0, 100] and runs be at least 1, got {max_ap_loss} and {runs}")
    memory_folder(memory)  # before minutes are spent
    given = bare_model(model)
    if isinstance(given, DeCoDetrForObjectDetection):
        processor = image_processor or processor_of(given)
    else:
        given, own = load_model(str(given))
        processor = image_processor or own
    eager = copy.deepcopy(given).float().eval().requires_grad_(False)
    device = eager.device
    chosen = list(ways or [name for name, one in WAYS.items() if device.type in one.devices and one.pays_on(device)])
    if way is not None:
        check_way("way", way, device)
        chosen = ["eager", way]
    asked = {"ways": chosen, "way": way, "max_ap_loss": max_ap_loss, "data": None if data is None else str(data)}
    folder = folder_of(circumstances(eager, processor), memory)
    file = report_of(folder, asked)

    @cache
    def annotated():
        return None if data is None else Check.of_data(data, eager.vocabulary.names, 2 * PICTURES)

    def look():
        check = annotated() if pictures is None else None
        return _pictures(pictures if check is None else check.pictures)

    case = Case(eager, processor, folder, file.with_suffix(""), look)
    report = None if again else _remembered(file, asked)
    if report is None:
        with claim(folder, "decodetr.optimize", wait=True):
            report = None if again else _remembered(file, asked)  # of a run that was waited for
            if report is None:
                measured = _measure(replace(case, anew=True), chosen, annotated(), max_ap_loss, runs, progress)
                report = {"asked": asked, **measured}
                if way is not None:
                    _insist(report, way, max_ap_loss)
                write_json(file, report)
    try:
        detector = WAYS[report["chosen"]].make(case)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"what {folder} keeps cannot be used: {error}. Remove this folder, and it is made again"
        ) from error
    _take_names(detector, eager)
    return Optimized(report["chosen"], detector, report, folder)


def _insist(report, way, max_ap_loss):
    """Choose a way. ValueError if it does not work."""
    if problem := report["ways"][way].get("problem"):
        raise ValueError(f"{way}: {problem}")
    lost = report["ways"]["eager"]["ap"] - report["ways"][way]["ap"]
    if lost > max_ap_loss:
        logger.warning("%s loses %.2f AP against %s", way, lost, report["against"])
    report["chosen"] = way


def _remembered(file, asked):
    """The report of an earlier call."""
    report = read_json(file, dict) if file.is_file() else {}
    if report.get("asked") != asked or report.get("chosen") not in WAYS:
        return None
    return None if any(row.get("may_pass") for row in report["ways"].values()) else report


def _pictures(pictures):
    """At most `PICTURES` PIL images in RGB."""
    if pictures is None:
        logger.warning("no pictures were given: ways are checked on drawn scenes; give some of your own")
        return [draw_scene(0, "val", index, _DRAWN_SIDE).image for index in range(PICTURES)]
    pictures = list(islice(pictures, PICTURES) if isinstance(pictures, Iterator) else pictures)
    if not pictures:
        raise ValueError("pictures: expected at least one that can be read, got none")
    return [picture_of(picture) for picture in _some(pictures, PICTURES)]


def _some(items, most):
    """At most so many, from the whole list."""
    return items[:: -(-len(items) // most)]


def _measure(case, ways, check, max_ap_loss, runs, progress):
    """The report: time and AP of each way, and which one is chosen."""
    eager = TorchDetector(case.model, case.image_processor)
    detectors: dict[str, TorchDetector | ExportedDetector] = {"eager": eager}
    found = _all_of(eager, _some(case.pictures, _CHECKED) if check is None else check.pictures)
    if check is None:
        shown = [above(result, case.model.config) for result in found]
        check = Check.of_detections(_some(case.pictures, _CHECKED), found, shown)
    rows: dict[str, dict[str, Any]] = {"eager": {"ap": check.ap(found)}}
    others = [name for name in ways if name != "eager"]
    for name in tqdm(others, desc="ways", disable=not progress):
        if problem := WAYS[name].hindrance(case.model.device):
            rows[name] = {"problem": problem}
            continue
        try:
            detectors[name] = WAYS[name].make(case)
            _take_names(detectors[name], case.model)
            rows[name] = {"ap": check.ap(_all_of(detectors[name], check.pictures))}
        except Exception as error:  # of a compiler or a runtime, of any type: the others are still tried
            detectors.pop(name, None)
            rows[name] = {"problem": first_line(error)[:200], "may_pass": _may_pass(error)}
            logger.info("%s", name, exc_info=True)
    seconds = in_turn(
        {name: _one_by_one(detector, case.pictures) for name, detector in detectors.items()},
        device=case.model.device,
        warmup=1,
        runs=runs,
    )
    for name, times in seconds.items():
        rows[name] |= {"seconds": spread(times), "ratio": ratios(seconds, name, "eager")}
    kept = [name for name in detectors if rows[name]["ap"] >= rows["eager"]["ap"] - max_ap_loss]
    chosen = min(kept, key=lambda name: rows[name]["ratio"]["median"])
    return {
        "chosen": chosen,
        "against": check.against,
        "ways": {name: rows[name] for name in ("eager", *others)},
        "environment": environment(case.model.device),
    }


def _may_pass(error):
    """Whether a way that failed may work the next time: the disk or the memory was full. What a model cannot, it
    cannot then either."""
    return isinstance(error, OSError | MemoryError) or bool(re.search("MemoryError|out of memory|alloc", str(error)))


def _all_of(detector, pictures):
    """Detections of any score, a picture at a time."""
    return [detector.detect([picture], threshold=0.0, top_k=MOST)[0] for picture in pictures]


def _one_by_one(detector, pictures) -> Callable[[], Any]:
    """A function that detects in the next picture."""
    order = cycle(pictures)
    return lambda: detector.detect([next(order)])


def _take_names(detector, model):
    """Let a detector look for the names of a model."""
    if isinstance(detector, ExportedDetector):
        own = model.vocabulary
        detector.set_embeddings(own.names, own.embeddings.cpu().numpy(), own.info)
