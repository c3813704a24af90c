"""COCO annotation files: read, checked, joined with their images.

Checks (coco_checks.py) run on flat arrays and annotations stay in them: a million annotations cost no more time than
parsing their JSON, and about 70 MB, which the workers of a DataLoader share.

Boxes are of the picture as its EXIF orientation turns it, unless the annotated size says that they are of the pixels
as stored (docs/data.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.annotation_index import AnnotationIndex
from decodetr.annotations.coco_checks import (
    is_own_file,
    read_annotations,
    read_categories,
    read_document,
    read_federation,
    read_frequencies,
    read_images,
)
from decodetr.annotations.coco_mending import file_name_of, mend_files, mend_sizes
from decodetr.annotations.findings import FirstError
from decodetr.annotations.image_entries import Federation, ImageEntries
from decodetr.annotations.left_over import SOME_OF_FOLDER, unnamed_pictures
from decodetr.annotations.parsed import LARGE, parsed_once
from decodetr.annotations.picture_digest import picture_digest
from decodetr.annotations.written_paths import missing_files
from decodetr.utils.documents import no_collection
from decodetr.utils.excerpts import short
from decodetr.utils.images import STORED_FRAME, UNKNOWN_FRAME, annotated_frame, open_image
from decodetr.utils.paths import inside

if TYPE_CHECKING:
    from typing import Any, Protocol, Self

    import PIL.Image

    from decodetr.annotations.findings import Findings

    class ImageOfDataset(Protocol):
        """An image that is a row of a data set and no file. `str` of it is its place."""

        def source(self) -> str | Path | bytes: ...


logger = logging.getLogger(__name__)


class CocoAnnotations:
    """
    A COCO-format annotation file, parsed and checked. Made by `CocoAnnotations.load`.

    Attributes:
        file (Path), image_folder (Path): where annotations and images are.
        names (list[str]): names of the categories exactly as written, ordered by category id.
        category_ids (list[int]): in the same order.
        images (sequence of dict): "image_id" (int), "file_name", "width", "height" (pixels), "path" (str; of a data
            set of `datasets` a `StoredImage`), in file order; "size_declared" is False where the annotations have no
            size. See ImageEntries.
        annotations_by_image: image_id -> list of {"id", "category" (index into `names`), "bbox" [x, y, w, h] pixels,
            "area", "iscrowd" (0 or 1)}. An empty list for images without objects. See AnnotationIndex.
        federation: where the file is federated, as LVIS is, image_id -> (categories verified to be absent, categories
            whose objects are not all annotated), each an int64 array of indices into `names`, else None.
        frequencies (list[str]): LVIS' "r", "c" or "f" of each name. None where the file does not say.
        left_over (dict): what is wrong with files that nothing uses -> their paths. See `left_over`.
    """

    def __init__(
        self,
        file: str | Path,
        image_folder: Path | None,
        names: list[str],
        category_ids: list[int],
        images: Sequence[dict[str, Any]],
        annotations_by_image: AnnotationIndex,
        federation: Federation | None = None,
        frequencies: list[str] | None = None,
    ) -> None:
        self.file = file
        self.image_folder = image_folder
        self.names = names
        self.category_ids = category_ids
        self.images = ImageEntries.of(images)
        self.annotations_by_image = annotations_by_image
        self.federation = federation
        self.frequencies = frequencies
        self.left_over = {}

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return (
            f"CocoAnnotations({str(self.file)!r}, {len(self.images)} images, "
            f"{len(self.annotations_by_image.column('id'))} annotations, {len(self.names)} names)"
        )

    @classmethod
    def load(
        cls, annotation_file: str | Path, image_folder: str | Path | None = None, check_images: bool = True
    ) -> Self:
        """
        Read and check `annotation_file`.

        Images are looked for in `image_folder` if given. Else, with DIR the folder above `annotations/` (or the file's
        own folder), in DIR/<`info.image_folder` of the file>, else DIR/<name of the file without .json and a leading
        "instances_">, else DIR/images/<that name> or DIR/images, where the first image is in it, else DIR. Each folder
        is listed once. `check_images=False` leaves that out. What has only one meaning is mended (coco_mending.py),
        with a warning. Images without a size are opened for it.

        A large file is parsed once, and later read from the cache of data sets (`annotations/parsed.py`).

        Raises:
            FileNotFoundError: the file, the image folder or an image is missing.
            ValueError: anything else. The message names the file and the row.
        """
        file = Path(annotation_file)
        parse = partial(cls._parse, file, image_folder, check_images)
        if not file.is_file() or file.stat().st_size < LARGE:
            return parse()
        found = parsed_once(file, [image_folder and os.path.realpath(image_folder), check_images], parse)
        if found is None:
            return parse()
        coco = cls(file, **{**found, "annotations_by_image": AnnotationIndex(*found["annotations_by_image"])})
        if check_images:
            paths = list(coco.images.columns["path"])
            if missing_files("", paths):
                return parse()  # which says so, or finds them in another spelling
            coco._look_around(paths)
        return coco

    @classmethod
    def _parse(cls, file, image_folder, check_images):
        told = FirstError()
        with no_collection():
            document = read_document(file, told, polygons=False)
            coco = cls.from_document(file, document, image_folder, check_images, told)
        told.warn(logger, file)
        return coco

    @classmethod
    def from_document(
        cls,
        file: Path,
        data: dict[str, Any],
        image_folder: str | Path | None = None,
        check_images: bool = True,
        findings: Findings | None = None,
    ) -> Self:
        """The same of what `file` holds, or of another such document that stands for it."""
        told = FirstError() if findings is None else findings
        category_ids, names = read_categories(file, data["categories"])
        folder = find_image_folder(file, data, image_folder, check_images)
        if check_images:
            data = {**data, "images": mend_files(data["images"], folder, told)}
        data = {**data, "images": mend_sizes(data["images"], [folder, data_folder(file)], told)}
        images = read_images(file, data["images"])
        listed: dict[str, str] = {}
        for row, image in enumerate(images):
            is_own_file(listed, image["file_name"], f"images[{row}] (id {image['image_id']})", told, file)
        locate_images(file, folder, images)
        if check_images:
            _check_images_exist(file, images)
        columns = read_annotations(file, data["annotations"], images, category_ids)
        index = AnnotationIndex([image["image_id"] for image in images], *columns)
        federation = read_federation(file, data["images"], category_ids)
        frequencies = read_frequencies(file, data["categories"], category_ids)
        coco = cls(file, folder, names, category_ids, images, index, federation, frequencies)
        info = data.get("info")
        some = isinstance(info, dict) and info.get(SOME_OF_FOLDER) is True
        if check_images and not some:
            coco._look_around([image["path"] for image in images])
        return coco

    def _look_around(self, paths):
        """Find what is left over in the image folder."""
        whole = self.image_folder.resolve() != data_folder(self.file).resolve()
        self.left_over = unnamed_pictures(self.image_folder, paths, whole)

    def select(self, names: Collection[str]) -> CocoAnnotations:
        """
        A new CocoAnnotations with the categories `names` and their annotations only. All images stay.

        Names come in the order of `names`, so that what follows depends on neither the ids nor the presence of the
        others. Names that the file lacks are left out.

        Raises:
            ValueError: the file has none of the names.
        """
        category_of = {name: category for category, name in enumerate(self.names)}
        kept = [name for name in dict.fromkeys(names) if name in category_of]
        if not kept:
            raise ValueError(
                f"{self.file}: expected categories such as {list(names)[:3]}, got {self.names[:3]}; give the names "
                "split that belongs to this file"
            )
        new_category = np.full(len(self.names), -1, dtype=np.int64)
        new_category[[category_of[name] for name in kept]] = np.arange(len(kept))
        categories = new_category[self.annotations_by_image.column("category")]
        rows = np.flatnonzero(categories >= 0)
        logger.info(
            "%s: kept %d of %d names and %d of %d annotations",
            self.file, len(kept), len(self.names), len(rows), len(categories),
        )  # fmt: skip
        index = self.annotations_by_image.take(rows, list(self.annotations_by_image))
        index.column("category")[:] = categories[rows]

        def select_categories(old):
            return new_category[old][new_category[old] >= 0]

        federation = self.federation and Federation.of(
            {
                image_id: (select_categories(absent), select_categories(partial))
                for image_id, (absent, partial) in self.federation.items()
            }
        )
        frequencies = self.frequencies and [self.frequencies[category_of[name]] for name in kept]
        category_ids = [self.category_ids[category_of[name]] for name in kept]
        return CocoAnnotations(
            self.file, self.image_folder, kept, category_ids, self.images, index, federation, frequencies
        )

    def select_images(self, image_ids: Collection[int]) -> CocoAnnotations:
        """A new CocoAnnotations with the images `image_ids` (any collection) only, in file order."""
        index = self.annotations_by_image
        chosen = np.isin(self.images.columns["image_id"], np.fromiter(image_ids, dtype=np.int64))
        images = self.images.take(np.flatnonzero(chosen))
        index = index.of_images(np.flatnonzero(chosen))
        federation = self.federation and Federation.of({image_id: self.federation[image_id] for image_id in index})
        return CocoAnnotations(
            self.file, self.image_folder, self.names, self.category_ids, images, index, federation, self.frequencies
        )

    def digest(self) -> str:
        """12 hexadecimal digits of a SHA-256 over names, image ids, annotations and LVIS' lists."""
        index = self.annotations_by_image
        lists = self.federation and [[part.tolist() for part in self.federation[image_id]] for image_id in index]
        digest = hashlib.sha256(json.dumps([self.names, list(index), lists, self.frequencies]).encode())
        for column in (index.image_rows, *(index.column(name) for name in ("category", "bbox", "area", "iscrowd"))):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:12]

    def picture_digest(self) -> str:
        """12 hexadecimal digits that tell the pictures from others of the same names, at little cost, wherever they
        lie: sizes of all files, and the bytes of some (picture_digest.py)."""
        return picture_digest(self.images.columns["path"], stored_source)


def read_image(
    path: str | Path | ImageOfDataset, image_id: int | None = None, size: tuple[int, int] | None = None
) -> PIL.Image.Image:
    """
    The picture in `path` as PIL RGB, turned as its EXIF orientation says.

    Args:
        path: a path, or the image of a data set (`hub_dataset.StoredImage`).
        image_id (int, optional): for messages.
        size (tuple, optional): (width, height) that annotations declare. If that of the pixels as stored and not of
            the picture as turned, it is not turned (`utils.images.annotated_frame`).

    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be decoded. Both name the file and the image id.
    """
    which = f"{path}" if image_id is None else f"{path} (image id {image_id})"
    try:
        return open_image(stored_source(path), which, size)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{which}: no such image; restore it or take it out of the annotation file") from error


def stored_source(path: str | Path | ImageOfDataset) -> str | Path | bytes:
    """What [`open_image`] takes: a path as it is, of an image of a data set its bytes or its path."""
    return path if isinstance(path, (str, os.PathLike)) else path.source()


def data_folder(file: Path) -> Path:
    """The folder of the data set that an annotation file belongs to: that above `annotations/`, or its own."""
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def locate_images(file: Path, folder: Path, images: list[dict[str, Any]]) -> None:
    """Give every image its "path".

    Raises:
        ValueError: a file_name leads out of the image folder and of the data set ([`inside`]).
    """
    folders = [folder, data_folder(file)]
    for row, image in enumerate(images):
        where = f"{file}: images[{row}] (id {image['image_id']})"
        image["path"] = inside(folders, image["file_name"], where)


def find_image_folder(file: Path, data: dict[str, Any], image_folder: str | Path | None, check: bool) -> Path:
    """Where the images of a COCO file are. See `CocoAnnotations.load`. `check`: it must be there."""
    root = data_folder(file)
    info = data.get("info")
    named = info.get("image_folder") if isinstance(info, dict) else None
    if image_folder is not None:
        folder, source = Path(image_folder), "the image folder that was given"
    elif named is not None:
        if not isinstance(named, str):
            raise ValueError(f"{file}: expected a text under info.image_folder, got {short(named)}")
        folder = Path(inside([root], named, f"{file}: info.image_folder"))
        source = "the image folder that info.image_folder names"
    else:
        stems = (file.stem, file.stem.removeprefix("instances_"))
        own = next((root / stem for stem in stems if (root / stem).is_dir()), None)
        folder = own or _folder_of_exports(root, stems, data) or root
        source = "the image folder"
    if check and not folder.is_dir():
        raise FileNotFoundError(f"{file}: {source}, {folder}, does not exist; give the folder that holds the images")
    return folder


def _folder_of_exports(root, stems, data):
    """DIR/images/NAME of CVAT and Ultralytics, or DIR/images of CVAT and Label Studio: that with the first image."""
    first = next((name for entry in data["images"][:1] if (name := file_name_of(entry))), "")
    places = [*(root / "images" / stem for stem in stems), root / "images"]
    found = (place for place in places if first and not missing_files("", [os.path.join(place, first)]))
    return next(found, None)


def _check_images_exist(file, images):
    missing = set(missing_files("", [image["path"] for image in images]))
    if missing:
        row = next(row for row, image in enumerate(images) if image["path"] in missing)
        image = images[row]
        raise FileNotFoundError(
            f"{file}: images[{row}] (id {image['image_id']}): expected the image {image['path']}, got no such file "
            f"({len(missing)} of {len(images)} images are missing); give the right image folder or restore them"
        )


def read_annotated(entry: dict[str, Any], file: str | Path | None = None) -> PIL.Image.Image:
    """The picture of an entry of `CocoAnnotations.images`: PIL RGB, the pixels that its boxes are of.

    Args:
        file: the annotation file, for the message.

    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be decoded, or has another size than annotated.
    """
    expected = (entry["width"], entry["height"])
    declared = expected if entry.get("size_declared", True) else None
    image = read_image(entry["path"], entry["image_id"], declared)
    if image.info:
        frame, known = annotated_frame(image.info["stored_size"], image.info["orientation"], declared)
        if frame == "stored" or not known:
            _warn_of_frame(STORED_FRAME if frame == "stored" else UNKNOWN_FRAME, entry, file)
    if image.size != expected:
        where = f"as in {file}" if file else "as annotated"
        remedy = "boxes would be wrong: annotate the image again or restore the original"
        if image.size == expected[::-1]:
            remedy = "they may be swapped: `decodetr validate --repair DIR` sees whether the boxes fit then"
        raise ValueError(
            f"{entry['path']} (image id {entry['image_id']}): expected width x height {expected[0]} x {expected[1]} "
            f"{where}, got {image.width} x {image.height}; {remedy}"
        )
    return image


_told: deque[tuple[str, str]] = deque(maxlen=64)  # (what, of which data set) this process has said of late


def _warn_of_frame(what, entry, file):
    path, name = str(entry["path"]), entry.get("file_name") or ""
    folder = path.removesuffix(name) if path.endswith(name) and name else os.path.dirname(path)
    said = what, str(file or folder)
    if said not in _told:
        _told.append(said)
        logger.warning("%s: %s", path, what)
