"""The work of `decodetr predict`: detect, draw, write, and lose nothing of it whatever ends the run."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.PngImagePlugin import PngInfo
from tqdm.auto import tqdm

import decodetr
from decodetr.inference.detection import above, detect
from decodetr.inference.journal import FILE as JOURNAL
from decodetr.inference.journal import Journal
from decodetr.inference.picture_files import SIGNATURE, picture_paths
from decodetr.utils.documents import read_json
from decodetr.utils.drawing import draw_detections, draw_explanations
from decodetr.utils.files import committed, write_json
from decodetr.utils.images import in_batches, open_image, pixel_count
from decodetr.utils.markup import one_line
from decodetr.utils.shipped import resolve

if TYPE_CHECKING:
    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

EXPLAINING_PROTOTYPES = 5  # of each detection


@dataclass(frozen=True)
class PredictOptions:
    """What decides the results of a run besides the model and the pictures.

    Args:
        output (str): folder for detections.json and the annotated pictures.
        model (str), vocabulary (str, optional): where the model, and the vocabulary that replaces its own, are from.
        threshold (float, optional): least score. Default: what the model's config says.
        top_k (int): most detections of a picture.
        explain (bool): also the prototypes that each detection looked up.
        batch_size (int): pictures at once.
        font (str, optional): TrueType file for the labels.
    """

    output: str
    model: str
    vocabulary: str | None = None
    threshold: float | None = None
    top_k: int = 100
    explain: bool = False
    batch_size: int = 4
    font: str | None = None


class PredictRun:
    """
    One run of the command. Whatever ends it, detections.json then has what was done and names what is missing, and the
    same command goes on from there.

    Args:
        options (PredictOptions). model, image_processor: of [`load_model`]. paths: list of `Path`.
    """

    def __init__(
        self,
        options: PredictOptions,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        paths: list[Path],
    ) -> None:
        self.options, self.model, self.image_processor, self.paths = options, model, image_processor, paths
        self.output = Path(options.output)
        self.output.mkdir(parents=True, exist_ok=True)
        key = {"model": _fingerprint(model), "scores": _scores(model.config), "font": options.font}
        self.journal = Journal(self.output, {**self._made_with(), **key})
        self.done = {path: entry for path in paths if (entry := self.journal.get(path)) is not None}
        rest = [path for path in paths if path not in self.done]
        taken = {self.output / entry["picture"] for entry in self.done.values()}
        self.pictures = dict(zip(rest, picture_paths(rest, self.output, [*paths, *taken])))
        self.failed = {}

    def run(self) -> int:
        """Returns the exit status."""
        try:
            with tqdm(total=len(self.paths), initial=len(self.done), desc="predict", unit="image") as progress:
                for paths in in_batches(list(self.pictures), self.options.batch_size, pixel_count):
                    self._do(paths, progress)
        finally:
            missing = [path for path in self.paths if path not in self.done and path not in self.failed]
            self._write(missing)
            sys.stdout.write(self._summary(missing))
        return 1 if self.failed else 0

    def _do(self, paths, progress):
        """A batch: read, detect, draw, write."""
        images = {}
        for path in paths:
            try:
                images[path] = open_image(path)
            except (OSError, ValueError) as error:
                self.failed[path] = str(error)
                progress.write(str(error), file=sys.stderr)
        entries = []
        if images:
            # All scores, of which those above the threshold are kept: the best one is known then, whatever it is.
            explain = EXPLAINING_PROTOTYPES if self.options.explain else 0
            found = detect(self.model, self.image_processor, list(images.values()), 0.0, self.options.top_k, explain)
            with committed(self.output) as staging:
                for (path, image), result in zip(images.items(), found):
                    best = max(result["scores"], default=0.0)
                    result = above(result, self.model.config, self.options.threshold)
                    name = self.pictures[path].name
                    self._draw(image, result).save(staging / name, pnginfo=_signature())
                    size = {"width": image.width, "height": image.height, "turned": "orientation" in image.info}
                    entries.append(
                        {"file": str(path), "picture": name, **size, "best_score": best, "detections": _rows(result)}
                    )
            self.journal.add(entries)
            self.done |= dict(zip(images, entries))
        progress.update(len(paths))

    def _draw(self, image, result):
        boxes, names, scores = result["boxes"], result["names"], result["scores"]
        drawn = draw_detections(image, boxes, names, scores, self.options.font, numbered=self.options.explain)
        if self.options.explain:
            drawn = draw_explanations(drawn, names, scores, result["prototypes"], self.options.font)
        return drawn

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

    def _write(self, missing):
        report = self._made_with() | {
            "box_format": "x0, y0, x1, y1 in pixels of the upright image",
            "images": [self.done[path] for path in self.paths if path in self.done],
            "failed": [{"file": str(path), "error": error} for path, error in self.failed.items()],
            "missing": list(map(str, missing)),
        }
        with committed(self.output, remove=() if missing else (JOURNAL,)) as staging:
            write_json(staging / "detections.json", report)

    def _summary(self, missing):
        """What was found, for people."""
        count = sum(len(entry["detections"]) for entry in self.done.values())
        text = f"{count} detections in {len(self.done)} images"
        if self.failed:
            text += f", {len(self.failed)} unreadable (see the messages above)"
        text += f": {one_line(self.output / 'detections.json')}\n"
        if missing:
            text += f"{len(missing)} of {len(self.paths)} images are missing, the first is {one_line(missing[0])}; "
            text += "the same command goes on with them\n"
        if self.done and not count:
            best = max(self.done.values(), key=lambda entry: entry["best_score"])
            common = self._thresholds()["threshold"]
            text += (
                f"No score is above --threshold {common}; the best one is {best['best_score']:.3f}, in "
                f"{one_line(best['file'])}. {_learned(self.model)}\n"
            )
        if (least := self.model.config.score_threshold) is not None:
            if self.options.threshold is None:
                text += f"The threshold is that of the model's calibration, {least:g}\n"
        elif (best := _best_threshold(self.options.model)) is not None:
            text += f"On the model's validation images F1 was best at --threshold {best:.3f}\n"
        return text


def _signature():
    """What tells our pictures from others' in a folder."""
    info = PngInfo()
    info.add_text("Software", SIGNATURE)
    return info


def _fingerprint(model):
    """A digest of all weights and tables of a model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _scores(config):
    """What the scores of the same weights depend on."""
    return [config.score_scale, config.score_bias]


def _best_threshold(name):
    """The score at which F1 was best in the evaluation after training, which lies next to a trained model, or None."""
    file = Path(resolve(name)) / "eval_results.json"
    if not file.is_file():
        return None
    value = read_json(file, dict).get("eval_best_threshold")
    return value if isinstance(value, float) else None


def _learned(model):
    """What names a model had boxes of, as its config says, for people."""
    info = model.config.training_info or {}
    names = info.get("annotated_names") or info.get("training_names") or info.get("pretrained_detector_names")
    if not names:
        return "The model does not say what it was trained on."
    some = ", ".join(map(one_line, names[:5])) + (", ..." if len(names) > 5 else "")
    earlier = (info.get("seen") or {}).get("detector")  # of a fine-tune. A list, or "unknown"
    others = len(set(earlier) - set(names)) if isinstance(earlier, list) else 0
    before = f", after boxes of {others} other names" if others else ""
    return f"The model was trained on boxes of {len(names)} names{before}: {some}."


def _rows(result):
    """The dict of lists of one image as a list of dicts, one per detection."""
    singular = {"names": "name", "scores": "score", "boxes": "box"}
    keys = [singular.get(key, key) for key in result]
    return [dict(zip(keys, values)) for values in zip(*result.values())]
