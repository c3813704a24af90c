"""The work of `decodetr predict`: detect, draw, write, and lose nothing of it whatever ends the run."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

import decodetr
from decodetr.inference.background import Behind
from decodetr.inference.journal import FILE as JOURNAL
from decodetr.inference.journal import Journal
from decodetr.inference.picture_files import SIGNATURE, fitting, picture_paths
from decodetr.inference.result_files import (
    CROPS,
    DATA_SETS,
    MARK,
    Results,
    inside_picture,
    marked,
    rows_of,
    write_results,
)
from decodetr.inference.shown import FAINT, above, to_supervision
from decodetr.inference.slicing import detect_in_tiles
from decodetr.inference.sources import Sources, download
from decodetr.inference.video_run import detect_video, video_names
from decodetr.utils.documents import read_json
from decodetr.utils.drawing import draw_detections, draw_explanations
from decodetr.utils.excerpts import some_of
from decodetr.utils.files import clear, committed
from decodetr.utils.images import in_batches, open_image, pixel_count
from decodetr.utils.markup import one_line
from decodetr.utils.shipped import resolve
from decodetr.utils.tables import score_text

if TYPE_CHECKING:
    from typing import Any

    import PIL.Image

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection

EXPLAINING_PROTOTYPES = 5  # of each detection


@dataclass(frozen=True)
class PredictOptions:
    """What decides the results of a run besides the model and the pictures.

    Args:
        output (str): folder for the results and the annotated pictures.
        model (str), vocabulary (str, optional): where the model, and the vocabulary that replaces its own, are from.
        threshold (float, optional): least score. Default: what the model's config says.
        top_k (int): most detections of a picture.
        explain (bool): also the prototypes that each detection looked up.
        batch_size (int): pictures at once. workers (int): threads that read and draw pictures meanwhile, 0 for none.
        font (str, optional): TrueType file for the labels.
        formats (list[str]): of `result_files.FORMATS`. pictures, crops (bool): also annotated pictures, cut-out boxes.
        picture_format (str): of annotated pictures, "png" or "jpg".
        slice (int, optional): side of tiles in pixels. slice_overlap (float): share of it that neighbours share.
        track (bool): number the objects of videos. frame_stride (int): every so many frames of a video. max_frames
            (int, optional): of these at most so many.
    """

    output: str
    model: str
    vocabulary: str | None = None
    threshold: float | None = None
    top_k: int = 100
    explain: bool = False
    batch_size: int = 4
    font: str | None = None
    formats: list[str] = field(default_factory=lambda: ["json"])
    pictures: bool = True
    picture_format: str = "png"
    crops: bool = False
    workers: int = 2
    slice: int | None = None
    slice_overlap: float = 0.2
    track: bool = False
    frame_stride: int = 1
    max_frames: int | None = None

    @property
    def needs_frames(self) -> bool:
        """Whether frames of videos are kept as pictures."""
        return bool(set(self.formats) & set(DATA_SETS))


class PredictRun:
    """
    One run of the command. Whatever ends it, its files then have what was done and name what is missing, and the same
    command goes on from there.

    Args:
        options (PredictOptions). sources ([`Sources`]).
        model: says names (`vocabulary`) and thresholds (`config`). A DeCo-DETR, or what stands for one.
        find_in (callable): pictures, threshold, `top_k` and, for explanations, `explain` to what
            [`decodetr.inference.detection.detect`] gives.
        digest (str): of all that decides what `find_in` finds, as [`answer_digest`] gives it. Results of another one
            are not gone on with.
        check (callable, *optional*): raises ValueError for a picture that `find_in` cannot take. It is reported as a
            damaged one is, and the rest is done.
    """

    def __init__(
        self,
        options: PredictOptions,
        model: DeCoDetrForObjectDetection,
        sources: Sources,
        find_in: Callable[..., list[dict[str, list]]],
        digest: str,
        check: Callable[[PIL.Image.Image], object] | None = None,
    ) -> None:
        self.options, self.model, self.check = options, model, check
        # All scores, of which those above the threshold are kept: the best one is known then, whatever it is.
        self.find_in = find_in
        self.labels = {name: row for row, name in reversed(list(enumerate(model.vocabulary.names)))}
        self.addresses, self.videos = sources.addresses, sources.videos
        self.output = Path(options.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.failed = {str(file): error for file, error in download(sources.addresses).items()}
        self.unwritten: dict[str, str] = {}  # form of results: what went wrong with it
        self.paths = [path for path in sources.pictures if str(path) not in self.failed]
        key = {"model": digest, "font": options.font}
        key |= {name: getattr(options, name) for name in _DECIDES}
        self.journal = Journal(self.output, {**self._made_with(), **key})
        self.done = {str(path) for path in self.paths if self.journal.has(path)}
        self.done |= {video for video in self.videos if self.journal.has_video(video)}
        rest = [path for path in self.paths if str(path) not in self.done]
        names = (self.journal.picture(path) for path in self.paths if str(path) in self.done)
        taken = {self.output / name for name in names if name}
        self.video_names = video_names(self.videos)
        suffix = f".{options.picture_format}"
        self.pictures = dict(zip(rest, picture_paths(rest, self.output, [*self.paths, *taken], suffix)))
        if options.crops and not self.done and (self.output / CROPS / MARK).exists():
            clear(self.output / CROPS)

    def run(self) -> int:
        """Returns the exit status."""
        try:
            done = sum(str(path) in self.done for path in self.paths)
            with (
                tqdm(total=len(self.paths), initial=done, desc="predict", unit="image") as progress,
                ThreadPoolExecutor(max(1, self.options.workers)) as pool,
                Behind(self.options.workers > 0) as behind,
            ):
                for paths, images in self._read(pool):
                    self._do(paths, images, progress, behind, pool)
            for video in self.videos:
                if video not in self.done:
                    detect_video(self, video)
        finally:
            sources = [*map(str, self.paths), *self.videos]
            missing = [name for name in sources if name not in self.done and name not in self.failed]
            self._write(missing)
            sys.stdout.write(self._summary(missing))
        return 1 if self.failed or self.unwritten else 0

    def _read(self, pool: ThreadPoolExecutor) -> Iterator[tuple[list[Path], list[PIL.Image.Image | Exception]]]:
        """Batches of pictures, or of what was wrong with them, that threads open ahead."""
        batches, ahead = in_batches(list(self.pictures), self.options.batch_size, pixel_count), deque()
        for paths in batches:
            ahead.append((paths, [pool.submit(_opened, path, self.check) for path in paths]))
            if len(ahead) > 1 or not self.options.workers:
                paths, futures = ahead.popleft()
                yield paths, [future.result() for future in futures]
        for paths, futures in ahead:
            yield paths, [future.result() for future in futures]

    def _do(self, paths, opened, progress, behind, pool):
        """A batch: detect. What is found is drawn and written while the next one is detected."""
        images = {}
        for path, image in zip(paths, opened):
            if isinstance(image, Exception):
                self.failed[str(path)] = str(image)
                progress.write(str(image), file=sys.stderr)
            else:
                images[path] = image
        progress.update(len(paths) - len(images))
        if images:
            behind.do(self._keep, images, self.find(list(images.values())), progress, pool)

    def _keep(self, images, found, progress, pool):
        """Draw and write a batch."""
        each = pool.map if self.options.workers else map
        if self.options.pictures or self.options.crops:
            with committed(self.output) as staging:
                entries = list(each(partial(self._entry, staging), images, images.values(), found))
        else:
            entries = [self._entry(None, *one) for one in zip(images, images.values(), found)]
        self.journal.add(entries)
        self.done |= {str(path) for path in images}
        progress.update(len(images))

    def _entry(self, staging, path, image, found):
        """What is written of a picture, whose files go to `staging`."""
        (result, best, _), name = found, self.pictures[path].name
        entry = {"file": str(path)}
        if path in self.addresses:
            entry["address"] = self.addresses[path]
        if self.options.pictures:
            self.draw(image, result).save(staging / name, **picture_options(self.options.picture_format))
            entry["picture"] = name
        entry |= {"width": image.width, "height": image.height, "turned": "orientation" in image.info}
        entry |= {"best_score": best, "detections": rows_of(result)}
        self.write_crops(staging, Path(name).stem, image, entry)
        return entry

    def find(self, images: list[PIL.Image.Image]) -> list[tuple[dict[str, list], float, list[list[float]]]]:
        """For each picture what is shown of it, as [`detect`] gives it, its best score, shown or not, and, for tracks,
        the boxes of all that is not too faint. Tiles have none of these: they are merged as they are shown."""
        options = self.options
        if options.slice is not None:
            return [self._find_in_tiles(image) for image in images]
        explained = {"explain": EXPLAINING_PROTOTYPES} if options.explain else {}
        found = self.find_in(images, 0.0, options.top_k, **explained)
        shown = [above(result, self.model.config, options.threshold) for result in found]
        best = [max(result["scores"], default=0.0) for result in found]
        faint = [above(result, self.model.config, options.threshold, share=FAINT)["boxes"] for result in found]
        return list(zip(shown, best, faint))

    def _find_in_tiles(self, image):
        options, names, best = self.options, self.model.vocabulary.names, [0.0]

        def detector(tiles):
            results = self.find_in(tiles, 0.0, options.top_k)
            best.extend(score for result in results for score in result["scores"])
            return [
                to_supervision(above(result, self.model.config, options.threshold), self.labels) for result in results
            ]

        found = detect_in_tiles(image, detector, options.slice, options.slice_overlap, options.batch_size)
        found = found[: options.top_k]
        result = {"names": [names[label] for label in found.class_id] if len(found) else []}
        scores = found.confidence.tolist() if len(found) else []
        return {**result, "scores": scores, "boxes": found.xyxy.tolist()}, max(best), []

    def draw(self, image: PIL.Image.Image, result: dict[str, list]) -> PIL.Image.Image:
        """The annotated picture."""
        boxes, names, scores = result["boxes"], result["names"], result["scores"]
        if any(track is not None for track in result.get("tracks", ())):
            names = [f"{name} #{track}" if track is not None else name for name, track in zip(names, result["tracks"])]
        drawn = draw_detections(image, boxes, names, scores, self.options.font, numbered=self.options.explain)
        if self.options.explain:
            drawn = draw_explanations(drawn, names, scores, result["prototypes"], self.options.font)
        return drawn

    def write_crops(self, staging: Path, stem: str, image: PIL.Image.Image, entry: dict[str, Any]) -> None:
        """Write what lies in the boxes of a result to crops/NAME/, as PNG."""
        if not self.options.crops:
            return
        marked(staging, CROPS)
        for number, (row, box) in enumerate(inside_picture(entry), 1):
            folder = staging / CROPS / fitting(re.sub(r"[^\w.-]+", "_", row["name"]).strip(".") or "_")
            folder.mkdir(exist_ok=True)
            left, top, right, bottom = (round(side) for side in box)
            crop = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
            crop.save(staging / CROPS / folder.name / fitting(stem, f"_{number}.png"))

    def _made_with(self):
        vocabulary = self.model.vocabulary
        return {
            "decodetr": decodetr.__version__,
            "model": self.options.model,
            "vocabulary": {
                "source": self.options.vocabulary or "stored in the model",
                "info": vocabulary.info,
                "names": vocabulary.names,
            },
            **self._thresholds(),
            "top_k": self.options.top_k,
            "explain": self.options.explain,
        }

    def _thresholds(self):
        """What decides which scores are shown: the common threshold, and the separate ones of names."""
        config, names = self.model.config, self.model.vocabulary.names
        common = config.common_threshold if self.options.threshold is None else self.options.threshold
        own = dict(zip(names, config.thresholds(names, self.options.threshold)))
        own = {name: value for name, value in own.items() if value != common}
        return {"threshold": common} | ({"name_thresholds": own} if own else {})

    def _keys(self):
        """Of all results, in the order of the sources."""
        keys = [str(path) for path in self.paths if str(path) in self.done]
        for video in self.videos:
            keys += self.journal.frames(video)
        return keys

    def _write(self, missing):
        head = self._made_with() | {"box_format": "x0, y0, x1, y1 in pixels of the upright image"}
        failed = [{"file": file, "error": error} for file, error in self.failed.items()]
        keys = self._keys()
        names = self.model.vocabulary.names
        results = Results(head, {"failed": failed, "missing": missing}, names, lambda: self.journal.read(keys))
        gone: list[str] = []
        with committed(self.output, remove=gone) as staging:
            old, self.unwritten = write_results(self.options.formats, self.output, staging, results)
            gone += old if missing or self.unwritten else [*old, JOURNAL]
        for form, error in self.unwritten.items():
            sys.stderr.write(f"--format {form} could not be written: {error}; the same command tries it again\n")

    def _summary(self, missing):
        """What was found, for people."""
        keys = self._keys()
        found = [self.journal.found(key) for key in keys]
        count = sum(number for number, _ in found)
        text = f"{count} detections in {len(keys)} images"
        if self.failed:
            text += f", {len(self.failed)} unreadable (see the messages above)"
        written = [form for form in self.options.formats if form not in self.unwritten]
        text += f": {one_line(self.output / _SHOWN.get(written[0], written[0]))}\n" if written else ", not written\n"
        if missing:
            total = len(self.paths) + len(self.videos)
            text += f"{len(missing)} of {total} images are missing, the first is {one_line(missing[0])}; "
            text += "the same command goes on with them\n"
        if keys and not count:
            file, (_, best) = max(zip(keys, found), key=lambda pair: pair[1][1])
            common = self._thresholds()["threshold"]
            text += (
                f"No score is above --threshold {common}; the best one is {best:.3f}, in "
                f"{one_line(file)}. {_learned(self.model)}\n"
            )
        if (least := self.model.config.score_threshold) is not None:
            if self.options.threshold is None:
                text += f"The threshold is that of the model's calibration, {score_text(least)}\n"
        elif (best := _best_threshold(self.options.model)) is not None:
            text += f"On the model's validation images F1 was best at --threshold {score_text(best)}\n"
        return text


# Fields of the options that decide what is written of a picture, besides what detections.json says.
_DECIDES = (
    *("pictures", "picture_format", "crops", "slice", "slice_overlap"),
    *("track", "frame_stride", "max_frames", "needs_frames"),
)
_SHOWN = {name: f"detections.{name}" for name in ("json", "jsonl", "csv", "parquet")}


def _opened(path, check):
    """A picture, or what is wrong with it."""
    try:
        picture = open_image(path)
    except (OSError, ValueError) as error:
        return error
    try:
        if check is not None:
            check(picture)
    except ValueError as error:
        return ValueError(f"{path}: {error}")
    return picture


def picture_options(form: str) -> dict[str, Any]:
    """How Pillow saves an annotated picture, "png" or "jpg", with what tells ours from others' in a folder."""
    if form == "jpg":
        return {"format": "JPEG", "quality": 90, "subsampling": 0, "comment": SIGNATURE}
    info = PngInfo()
    info.add_text("Software", SIGNATURE)
    # Only runs of equal bytes are looked for: files of photos are as small, and made in a seventh of the time.
    return {"format": "PNG", "compress_level": 1, "compress_type": 3, "pnginfo": info}


def _best_threshold(name):
    """The score at which F1 was best in the evaluation after training, which lies next to a trained model, or None."""
    file = Path(resolve(name)) / "eval_results.json"
    if not file.is_file():
        return None
    value = read_json(file, dict).get("eval_best_threshold")
    return value if isinstance(value, float) and value < 1 else None  # 1: nothing was found


def _learned(model):
    """What names a model had boxes of, as its config says, for people."""
    info = model.config.training_info or {}
    names = info.get("annotated_names") or info.get("training_names") or info.get("pretrained_detector_names")
    if info.get("annotated_names") == [] and names:
        return f"The model learned {len(names)} names from CLIP and captions, without a box of any."
    if not names:
        return "The model does not say what it was trained on."
    earlier = (info.get("seen") or {}).get("detector")  # of a fine-tune. A list, or "unknown"
    others = len(set(earlier) - set(names)) if isinstance(earlier, list) else 0
    before = f", after boxes of {others} other names" if others else ""
    return f"The model was trained on boxes of {len(names)} names{before}: {some_of(names, say=one_line)}."
