"""Pictures in, detections out, by an exported model and without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image

from decodetr.runtime.description import (
    FILE,
    LEAST_PIXELS,
    MODEL_FILES,
    check_facts,
    check_files,
    find_export,
    read_description,
)
from decodetr.runtime.name_tables import NameSpace, NameTables, checked_names
from decodetr.runtime.post_processing import best_pairs, check_numbers, corners, sigmoid
from decodetr.runtime.preprocessing import Preprocessing
from decodetr.runtime.sessions import INPUTS, open_session
from decodetr.utils.files import reading
from decodetr.utils.images import open_image

BATCH_SIZE, TOP_K = 8, 100  # images at once, and detections of each, where the caller does not say


class ExportedDetector:
    """
    A model that `decodetr export` wrote. Detections are those of the model itself (docs/export.md says how close).

    It may be used by several threads at once, also while [`ExportedDetector.set_names`] swaps the names: a call has
    the old names or the new ones.

    Args:
        folder: that `decodetr export` wrote, or its model.onnx or model.xml, or a Hub name.
        threads (int, *optional*), providers (list[str], *optional*), allow_pickle (bool): see [`open_session`].
        verify (bool): compare the graph with its SHA-256 in export.json. False: only its size, which makes loading
            about a fifth shorter.

    Attributes:
        description ([`Description`]): names, thresholds, preprocessing and what else export.json says.

    Raises:
        FileNotFoundError: no exported model is there. ImportError: its runtime is not installed. ValueError: a file is
            damaged, or of another export.
    """

    def __init__(
        self,
        folder: str | Path,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        allow_pickle: bool = False,
        verify: bool = True,
    ) -> None:
        place = find_export(folder)
        if place is None:
            raise FileNotFoundError(
                f"{folder}: no exported model is there: expected a folder with export.json and one of "
                f"{', '.join(MODEL_FILES.values())}, as `decodetr export` writes it, or a Hub repository that has "
                "them and may be read"
            )
        self.folder = place
        with reading(place):
            self.description = read_description(place)
            check_files(place, self.description, verify)
            self.preprocess = Preprocessing(self.description.preprocessing)
            self._space = NameSpace(place, self.description) if self.description.names_input else None
            file = place / MODEL_FILES[self.description.runtime]
            own = self.description
            self.session = open_session(own.runtime, file, threads, providers, allow_pickle, own.dtype)
            _check_graph(file, self.session, self.description)
        self._tables: NameTables | None = None if self._space is None else self._space.stored()

    @property
    def names(self) -> list[str]:
        """The names that are looked for, in the order of the labels."""
        return self.description.names if self._tables is None else self._tables.names

    @property
    def vocabulary_info(self) -> dict:
        """Who embedded the names."""
        return self.description.vocabulary_info if self._tables is None else self._tables.info

    def name_inputs(self) -> dict[str, np.ndarray]:
        """What the graph reads besides pictures: none where its names are baked in."""
        return {} if self._tables is None else self._tables.inputs()

    def set_names(self, names: Sequence[str] | None = None, vocabulary: str | Path | None = None) -> None:
        """Look for other names from now on.

        Args:
            names (list[str], *optional*): some of the names that are looked for or stored, or of those of
                `vocabulary`. Default: all that are stored, or all of `vocabulary`.
            vocabulary (*optional*): folder that `decodetr vocabulary build` or [`Vocabulary.save_pretrained`] wrote,
                Hub name or shipped name.

        Raises:
            ValueError: the names are baked into the graph, are not stored, or do not fit the model. It is then as it
                was.
        """
        self._tables = self.tables_of(names, vocabulary)

    def set_embeddings(self, names: Sequence[str], embeddings: np.ndarray, info: dict | None = None) -> None:
        """Look for names whose embeddings are at hand from now on. They take the place of those that are stored.

        Args:
            names (K texts). embeddings (K, d): float32 rows of any length. info (dict, *optional*): who made them.

        Raises:
            ValueError: the names are baked into the graph, or the rows do not fit it.
        """
        names, embeddings = checked_names(names), np.asarray(embeddings, dtype=np.float32)
        shape = (len(names), self.description.embedding_dim)
        if embeddings.shape != shape or not np.isfinite(embeddings).all():
            raise ValueError(f"embeddings: expected {shape} finite numbers, got an array {embeddings.shape}")
        space = self._own_space()
        space.all = self._tables = space.tables(names, embeddings, dict(info or {}))

    def detect(
        self,
        images: Iterable[PIL.Image.Image | np.ndarray | str | Path],
        names: Sequence[str] | NameTables | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[dict[str, list]]:
        """
        Args:
            images: PIL images of any mode, arrays (H, W, 3) of uint8 in RGB, or picture files, which are turned as
                EXIF says. Any number, of any sizes.
            names (list[str], or of [`ExportedDetector.tables_of`], *optional*): for this call alone.
            threshold (float, *optional*): only scores above it. Default: what the model says, for each name.
            top_k (int, *optional*): at most so many detections an image, chosen before the threshold. Default: 100, or
                as many as the graph gives.
            batch_size (int): images that are opened, and go through the graph, at once.

        Returns:
            One dict per image, best first: "names" (n strings), "scores" (n floats) and "boxes" (n lists of x0, y0,
            x1, y1 in pixels of the image, not clipped to it), as of `decodetr.inference.detection.detect`.

        Raises:
            ValueError: something else than pictures, `top_k` below 1 or above that of the graph, names as above.
        """
        own = self.description
        most = own.top_k
        top_k = min(TOP_K, most or TOP_K) if top_k is None else top_k
        check_asked(images, threshold, top_k, batch_size)
        if most is not None and top_k > most:
            raise ValueError(f"top_k must be at most {most}, which the graph gives, got {top_k}")
        tables = self._tables if names is None else names if isinstance(names, NameTables) else self.tables_of(names)
        waiting, found = iter(images), []
        while some := list(islice(waiting, batch_size)):
            sizes, resized = zip(*(self._opened(image) for image in some))
            groups: dict[tuple[int, int], list[int]] = {}
            for place, picture in enumerate(resized):
                groups.setdefault(picture.shape[:2], []).append(place)
            of_batch: list[dict[str, list]] = [{} for _ in some]
            for places in groups.values():
                alike, of = [resized[place] for place in places], [sizes[place] for place in places]
                for place, one in zip(places, self.detect_resized(alike, of, tables, threshold, top_k)):
                    of_batch[place] = one
            found += of_batch
        return found

    def size_of(self, picture: PIL.Image.Image) -> tuple[int, int]:
        """(height, width) that a picture has in the graph.

        Raises:
            ValueError: the graph does not take such images.
        """
        size = self.preprocess.target_size(picture.height, picture.width)
        fixed = self.description.image_size
        if fixed is not None and list(size) != fixed:
            raise ValueError(f"the graph takes images of {fixed}, the preprocessing of export.json makes {size}")
        if fixed is None and min(size) < LEAST_PIXELS:
            raise ValueError(
                f"a picture of {picture.width} x {picture.height} pixels becomes {size[1]} x {size[0]}, and the graph "
                f"takes images of at least {LEAST_PIXELS} pixels a side; cut it or fill it up"
            )
        return size

    def resized(self, picture: PIL.Image.Image) -> np.ndarray:
        """The pixels (H, W, 3) of a PIL image of any mode, in RGB and as large as the graph takes it, for
        [`ExportedDetector.detect_resized`]. Raises as [`ExportedDetector.size_of`]."""
        self.size_of(picture)
        return self.preprocess.resized(picture)

    def detect_resized(
        self,
        resized: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        tables: NameTables | None = None,
        threshold: float | None = None,
        top_k: int = TOP_K,
    ) -> list[dict[str, list]]:
        """As [`ExportedDetector.detect`], of what [`ExportedDetector.resized`] gave, all of one size.

        Args:
            sizes: (width, height) of the picture that each was. tables (*optional*): of
                [`ExportedDetector.tables_of`].
        """
        tables = self._tables if tables is None else tables
        known = self.description.names if tables is None else tables.names
        step = self.description.batch_size or len(resized)
        found = []
        for start in range(0, len(resized), step):
            some = resized[start : start + step]
            pixel_values = np.zeros((step, 3, *some[0].shape[:2]), dtype=np.float32)
            for picture, out in zip(some, pixel_values):
                self.preprocess.values(picture, out)
            outputs = self.session.run({"pixel_values": pixel_values} | (tables.inputs() if tables else {}))
            for row, size in enumerate(sizes[start : start + step]):
                one = {name: values[row] for name, values in outputs.items()}
                found.append(self._detections(one, size, known, threshold, top_k))
        return found

    def tables_of(self, names: Sequence[str] | None = None, vocabulary: str | Path | None = None) -> NameTables:
        """What a call needs of other names, for those that have them again and again. Arguments and errors as of
        [`ExportedDetector.set_names`]."""
        space = self._own_space()
        return space.stored(names, self._tables) if vocabulary is None else space.of_folder(vocabulary, names)

    def _own_space(self):
        if self._space is None:
            raise ValueError(
                f"{self.folder}: its {len(self.description.names)} names are baked into the graph; `decodetr export "
                "--names-input` makes one that takes any"
            )
        return self._space

    def _opened(self, image):
        """(width, height) of a picture, and the picture as the graph takes it: a large one goes at once."""
        picture = picture_of(image)
        return picture.size, self.resized(picture)

    def _detections(self, outputs, size, names, threshold, top_k):
        """Of one image: its outputs, and its (width, height)."""
        if "logits" in outputs:
            logits, queries, labels = best_pairs(outputs["logits"], top_k)
            scores, boxes = sigmoid(logits), corners(outputs["pred_boxes"][queries])
        else:
            check_numbers(outputs["scores"])
            scores, labels, boxes = (outputs[name][:top_k] for name in ("scores", "labels", "boxes"))
        boxes = boxes * np.array([*size, *size], dtype=np.float32)
        found = [names[label] for label in labels.tolist()]
        least = self.description.thresholds(found, threshold)
        kept = [i for i, (score, needed) in enumerate(zip(scores.tolist(), least)) if score > needed]
        return {
            "names": [found[i] for i in kept],
            "scores": scores[kept].tolist(),
            "boxes": boxes[kept].tolist(),
        }


def _check_graph(file, session, description):
    """ValueError where a graph is of another export than export.json."""
    expected = INPUTS if description.names_input else INPUTS[:1]
    if sorted(session.inputs) != sorted(expected):
        raise ValueError(f"{file} and {FILE} beside it are of two exports; export the model again")
    check_facts(file, description, session.facts)


def check_asked(images: object, threshold: float | None, top_k: int, batch_size: int = 1) -> None:
    """ValueError where what `detect` is asked cannot be meant."""
    if isinstance(images, str | os.PathLike | PIL.Image.Image) or hasattr(images, "shape"):  # array or tensor
        raise ValueError(f"images must be a list, got {type(images).__name__}; write [image]")
    check_threshold(threshold)
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_threshold(threshold: float | None) -> None:
    """ValueError where no score can be above a threshold, or every one must be."""
    if threshold is not None and not 0 <= threshold <= 1:  # also NaN
        raise ValueError(f"threshold must be in 0 to 1, got {threshold}")


def picture_of(image: PIL.Image.Image | np.ndarray | str | Path) -> PIL.Image.Image:
    """The PIL image of what [`ExportedDetector.detect`] takes.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(image, str | os.PathLike):
        return open_image(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected arrays (H, W, 3) of uint8, got {image.dtype} {image.shape}")
        return PIL.Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, PIL.Image.Image):
        raise ValueError(f"expected PIL images, arrays or files, got {type(image).__name__}")
    return image
