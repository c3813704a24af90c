"""Pictures of an evaluation: annotations of the first images, and to their right what the model detects."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

from decodetr.annotations.coco import read_annotated
from decodetr.training.results.loggers import log_picture
from decodetr.utils.drawing import default_font, draw_detections, shrunk
from decodetr.utils.files import replacing
from decodetr.utils.markup import one_line

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from decodetr.annotations.coco import CocoAnnotations

MIN_SCORE = 0.3  # detections below are not drawn
MOST = 20  # drawn per image
_CELL = 480  # pixels
_HEADER = 24  # pixels, above each picture


class EvaluationPictures:
    """
    Keeps the detections of the first images of an evaluation as they pass, and draws them.

    Args:
        coco ([`CocoAnnotations`]): of the evaluated images. count (`int`): how many images. 0 for none.
    """

    def __init__(self, coco: "CocoAnnotations", count: int) -> None:
        self.coco = coco
        self._entries = coco.images[:count]
        self._wanted = {entry["image_id"] for entry in self._entries}
        self._results = {}

    def update(self, image_ids: Iterable[int], results: Iterable[Mapping[str, Any]]) -> None:
        """Take in a batch: dicts with "scores", "labels", "boxes" (xyxy pixels), as `results_of` gives them. Of an
        image that comes again the first one counts, as in the metrics."""
        for image_id, result in zip(image_ids, results):
            if image_id in self._wanted and image_id not in self._results:
                self._results[image_id] = {key: result[key].cpu() for key in ("scores", "labels", "boxes")}

    def merge(self, gather: Callable[[list], list]) -> None:
        """Take in what other processes saw. `gather` joins a list over processes (accelerate's gather_object)."""
        self._results = dict(reversed(gather(list(self._results.items()))))  # the first one's, as metrics count

    def sheet(self, names: Sequence[str]) -> Image.Image | None:
        """A PIL image with two cells per validation image, annotations on the left and detections of at least
        MIN_SCORE on the right, two images in a row. None without images.

        Args:
            names: of the labels of the detections.
        """
        shown = [entry for entry in self._entries if entry["image_id"] in self._results]
        if not shown:
            return None
        columns = min(2, len(shown))
        height = _CELL + _HEADER
        sheet = Image.new("RGB", (2 * columns * _CELL, -(-len(shown) // columns) * height), "white")
        for place, entry in enumerate(shown):
            x, y = place % columns * 2 * _CELL, place // columns * height
            for side, cell in enumerate(self._cells(entry, names)):
                sheet.paste(cell, (x + side * _CELL, y))
        return sheet

    def _cells(self, entry, names):
        """Annotations and detections of an image, two pictures with a line of text above each."""
        from matplotlib.colors import TABLEAU_COLORS  # here, because it takes its time and most runs do without it

        image, scale = shrunk(read_annotated(entry), 2 * _CELL)
        index = self.coco.annotations_by_image
        boxes = index.corners(entry["image_id"])
        annotated = [self.coco.names[c] for c in index.arrays(entry["image_id"])["category"]]
        result = self._results[entry["image_id"]]
        order = result["scores"].argsort(descending=True)
        best = float(result["scores"].max()) if len(order) else 0.0
        order = order[result["scores"][order] >= MIN_SCORE]
        text = f"{len(order)} detected with a score of {MIN_SCORE} or more; best score {best:.2f}"
        order = order[:MOST]
        found = [names[i] for i in result["labels"][order].tolist()]
        colors = dict(zip(dict.fromkeys(annotated + found), itertools.cycle(TABLEAU_COLORS.values())))
        yield _cell(image, boxes * scale, annotated, None, colors, f"{entry['file_name']}: {len(annotated)} annotated")
        scores = result["scores"][order].tolist()
        yield _cell(image, result["boxes"][order].numpy() * scale, found, scores, colors, text)


def _cell(image, boxes, names, scores, colors, text):
    drawn = draw_detections(image, boxes, names, scores, colors=[colors[name] for name in names])
    drawn.thumbnail((_CELL - 8, _CELL - 8))
    cell = Image.new("RGB", (_CELL, _CELL + _HEADER), "white")
    cell.paste(drawn, (0, _HEADER))
    pen = ImageDraw.Draw(cell)
    pen.text((2, 4), one_line(text), font=ImageFont.truetype(str(default_font()), 14), fill="black")
    return cell


def write_sheet(
    sheet: Image.Image, output_dir: str | Path, step: int, prefix: str, callbacks: "Iterable[TrainerCallback]"
) -> Path:
    """Write OUTPUT/pictures/step-N.jpg (step-N-NAME.jpg for the prefix eval_NAME), and send it to the loggers of the
    run. Returns the `Path`."""
    name = f"step-{step}{prefix.removeprefix('eval').replace('_', '-')}"
    file = Path(output_dir) / "pictures" / f"{name}.jpg"
    with replacing(file) as partial:
        sheet.save(partial, quality=88)
    log_picture(callbacks, f"{prefix}/detections", sheet, step)
    return file
