"""What happens when somebody does something on the page. Nothing here knows of Gradio, and nothing of the others who
have the page open: what is theirs comes as arguments and goes back to their page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from decodetr.demo.searches import POOL, TYPED, Searches
from decodetr.demo.settings import DemoSettings
from decodetr.demo.sight import Sighting, look
from decodetr.demo.stage import box_at, data_uri, drawing, own_box
from decodetr.utils.images import FORMATS, TooManyPixels, open_image
from decodetr.utils.markup import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from decodetr.modeling_decodetr import DeCoDetrForObjectDetection
    from decodetr.modeling_decodetr.vocabulary import Vocabulary
    from decodetr.processing.image_processing_decodetr import DeCoDetrImageProcessor
    from decodetr.processing.image_processing_pil_decodetr import DeCoDetrImageProcessorPil

logger = logging.getLogger(__name__)

_NO_PICTURE = "Give a picture first: drop a file, paste one, or use the camera."


class Unclear(ValueError):
    """What cannot be done, as a sentence for the page."""


@dataclass
class Visit:
    """
    What one open page has: of nobody else.

    Attributes:
        sighting ([`Sighting`], *optional*): of its picture. picked (int, *optional*): row of the chosen detection.
        drawn ([`Vocabulary`], *optional*): its names from boxes. box (list, *optional*): the one that was drawn last.
    """

    sighting: Sighting | None = None
    picked: int | None = None
    drawn: Vocabulary | None = field(default=None, repr=False)
    box: list[float] | None = None


class Desk:
    """
    A model and what people ask of it.

    Args:
        model, image_processor: of [`load_model`]. name (str): what it was loaded from.
        settings ([`DemoSettings`]). vocabularies, clip: see [`Searches`].
    """

    def __init__(
        self,
        model: DeCoDetrForObjectDetection,
        image_processor: DeCoDetrImageProcessor | DeCoDetrImageProcessorPil,
        name: str,
        settings: DemoSettings | None = None,
        vocabularies: Sequence[str | Path] = (),
        clip: str | Path | None = None,
    ) -> None:
        self.model, self.image_processor, self.name = model, image_processor, name
        self.settings = DemoSettings() if settings is None else settings
        self.searches = Searches(model, vocabularies, clip, self.settings.kept_names)
        given = self.settings.threshold
        # Where the slider begins. There it means the thresholds of the model, which names may have of their own.
        self.start = round(model.config.common_threshold if given is None else given, 2)

    def see(self, visit: Visit, file: str | None) -> Visit:
        """Show a picture, without detecting.

        Raises:
            Unclear: it cannot be read.
        """
        if file is None:
            return Visit(drawn=visit.drawn)
        image = self._open(file)
        return Visit(Sighting(file, image.size, data_uri(image)), drawn=visit.drawn)

    def detect(self, visit: Visit, file: str | None, choice: str, text: str = "") -> Visit:
        """Look for the names of a choice in a picture. `text` has those that are typed.

        Raises:
            Unclear: no picture, one that cannot be read, or names that cannot be looked for.
        """
        began = time.perf_counter()
        if not file:
            raise Unclear(_NO_PICTURE)
        image = self._open(file)
        try:
            names = self.settings.names(text) if choice == TYPED else ()
            search = self.searches.chosen(choice, names, visit.drawn)
        except ValueError as error:
            raise Unclear(str(error)) from error
        seen = look(self.model, self.image_processor, image, search, self.settings.top_k, self.settings.prototypes)
        found, stands_for, forward = seen
        same = visit.sighting is not None and visit.sighting.file == file
        picture = visit.sighting.picture if visit.sighting and same else data_uri(image)
        sighting = Sighting(file, image.size, picture, found, stands_for, len(search.names), forward)
        sighting.whole = time.perf_counter() - began
        return replace(visit, sighting=sighting, picked=None, box=visit.box if same else None)

    def pick(self, visit: Visit, row: int | None) -> Visit:
        """Choose a detection by its row, or none."""
        rows = len(visit.sighting.found.get("names", ())) if visit.sighting else 0
        return replace(visit, picked=row if row is not None and 0 <= row < rows else None)

    def click(self, visit: Visit, x: float, y: float, slider: float) -> Visit:
        """Choose the detection at a point of the picture, in its pixels, of those that are shown."""
        if visit.sighting is None:
            return visit
        shown = visit.sighting.above(self.model.config, self.threshold(slider))
        return self.pick(visit, box_at(x, y, shown.get("boxes", ()), shown["row"]))

    def draw(self, visit: Visit, corners: str) -> Visit:
        """Keep a box that somebody has drawn.

        Raises:
            Unclear: no picture, or no box.
        """
        if visit.sighting is None:
            raise Unclear(_NO_PICTURE)
        try:
            return replace(visit, box=own_box(corners, visit.sighting.size))
        except ValueError as error:
            raise Unclear(str(error)) from error

    def name_box(self, visit: Visit, corners: str, name: str) -> tuple[Visit, str]:
        """Let a name stand for what is in a box of the picture, on this page alone.

        Returns:
            (Visit, the name).

        Raises:
            Unclear: no picture, box or name, or its CLIP is not here.
        """
        visit = self.draw(visit, corners)
        assert visit.sighting is not None and visit.box is not None
        if not name.strip():
            raise Unclear("Write a name for what is in the box.")
        try:
            (name,) = self.settings.names('"' + name.strip().replace('"', '""') + '"')
            made = self.searches.from_box(name, self._open(visit.sighting.file), visit.box)
            drawn = made if visit.drawn is None else visit.drawn.joined(made)
        except ValueError as error:
            raise Unclear(str(error)) from error
        return replace(visit, drawn=drawn), name

    def threshold(self, slider: float | None) -> float | None:
        """What a place of the slider means: None where it begins by the model's own thresholds."""
        own = slider is None or (self.settings.threshold is None and abs(slider - self.start) < 5e-3)
        return None if own else slider

    def shown(self, visit: Visit, slider: float) -> dict[str, list] | None:
        """The detections that are shown, or None without a picture."""
        if visit.sighting is None:
            return None
        return visit.sighting.above(self.model.config, self.threshold(slider))

    def stage(self, visit: Visit, slider: float) -> dict[str, Any] | None:
        """What stage.js draws."""
        shown = self.shown(visit, slider)
        if visit.sighting is None or shown is None:
            return None
        boxes = {"boxes": [], **shown}
        return drawing(visit.sighting.picture, visit.sighting.size, boxes, visit.picked, visit.box)

    def said(self, visit: Visit, slider: float) -> str:
        """How many detections there are, and how long they took."""
        sighting, shown = visit.sighting, self.shown(visit, slider)
        if sighting is None or shown is None:
            return _NO_PICTURE
        if not sighting.looked_for:
            return "Press Detect."
        count, least = len(shown["names"]), self.threshold(slider)
        where = "the thresholds of the model" if least is None else f"{least:.2f}"
        what = f"{sighting.looked_for:,} names" if sighting.looked_for != 1 else "one name"
        found = f"{count} detection{'s' * (count != 1)}" if count else f"Nothing (best score {sighting.best:.2f})"
        return (
            f"{found} above {where}, of {what}. The model took {1000 * sighting.forward:.0f} ms, "
            f"all together {1000 * sighting.whole:.0f} ms."
        )

    def rows(self, visit: Visit, slider: float) -> list[tuple[str, int]]:
        """(label, row) of what is shown, best first."""
        shown = self.shown(visit, slider)
        if not shown:
            return []
        return [
            (f"{one_line(name)} {score:.2f}", row)
            for name, score, row in zip(shown["names"], shown["scores"], shown["row"])
        ]

    def _open(self, file):
        try:
            return open_image(file, "the picture")
        except TooManyPixels as error:
            raise Unclear(f"The picture has more than the {error.most} that are taken; give a smaller one.") from error
        except FileNotFoundError as error:
            minutes = self.settings.kept_seconds // 60
            raise Unclear(f"The picture is gone: files are kept for {minutes} minutes. Give it again.") from error
        except ValueError as error:
            raise Unclear(f"This is no picture that can be read; expected {', '.join(FORMATS)}.") from error


def told(action: Callable[[Visit], Visit], visit: Visit) -> tuple[Visit, str | None]:
    """What an action makes of a visit, and what is wrong, as a sentence. Then the visit is as it was."""
    try:
        return action(visit), None
    except Unclear as error:
        return visit, str(error)
    except Exception:
        logger.exception("the demo failed")
        return visit, "That failed. The log of the demo says why."


def start_of(names: str | None, searches: Searches) -> tuple[str, str]:
    """(choice, typed text) of a page that has just been opened, by `--names`.

    Raises:
        ValueError: the pool is asked for, and has no captions.
    """
    if names == POOL:
        if POOL not in searches.choices:
            raise ValueError("--names pool: the pool of this model has no captions; leave it out, or give names")
        return POOL, ""
    return (TYPED, names) if names else ("own", "")
