"""What is wrong with a data set, part by part: findings, statistics, copies of pictures, a sheet of annotated ones."""

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from decodetr.annotations.coco import CocoAnnotations, data_folder, find_image_folder, read_annotated, stored_source
from decodetr.annotations.coco_mending import file_name_of, mend_files
from decodetr.annotations.examination import Picture, examine, examine_names, readable
from decodetr.annotations.findings import Findings
from decodetr.annotations.formats import PARTS, form_of
from decodetr.annotations.layouts import find_layout
from decodetr.annotations.left_over import unnamed_pictures
from decodetr.annotations.sources import coco_file, has_part, kind_of, load_annotations, of_no_part, part_names
from decodetr.utils.documents import read_json
from decodetr.utils.drawing import draw_detections, shrunk
from decodetr.utils.files import replacing
from decodetr.utils.images import image_header, open_image
from decodetr.utils.paths import inside

_SHEET = 12


@dataclass(frozen=True)
class ReportOptions:
    """
    What is examined, and what it must fit to.

    Args:
        data: as of `load_annotations`, or a COCO annotation file.
        images: image folder of a COCO file. Default: see `CocoAnnotations.load`.
        class_names, box_format: as of `form_of`. The format is also that of a COCO file's boxes, by default what they
            tell.
        decode: decode all pictures, else only their headers are read.
        split: base and novel names.
        vocabulary: names that the annotations must have.
    """

    data: str
    images: str | None = None
    class_names: str | None = None
    box_format: str | None = None
    decode: bool = True
    split: tuple[list[str], list[str]] | None = None
    vocabulary: list[str] | None = None

    @property
    def file(self) -> Path | None:
        """The annotation file, where the data is no folder and no name."""
        data = Path(self.data)
        return data if data.suffix == ".json" and find_layout(data).kind == "coco" else None


@dataclass(frozen=True)
class PartReport:
    """
    What was found in a part.

    Args:
        findings: all problems.
        statistics: numbers of images, annotations and names. Empty where nothing can be used.
        coco: what can be used, or None.
        document: the same repaired, in COCO's form, or None.
    """

    findings: Findings
    statistics: dict = field(default_factory=dict)
    coco: CocoAnnotations | None = None
    document: dict | None = None


class DatasetReport:
    """Reports of the parts of a data set, one after the other: a picture that an earlier part has too is found."""

    def __init__(self, options: ReportOptions) -> None:
        self.options = options
        self._seen = {}  # content of a picture: (part, where)

    def parts(self) -> list[str]:
        """Names of the parts that are there. A single file is one part, with its own name."""
        if self.options.file is not None:
            return [self.options.file.stem]
        return [part for part in PARTS if has_part(self.options.data, part)]

    def examine(self, part: str) -> PartReport:
        """Examine a part, all of it, whatever is wrong with it."""
        options, file = self.options, self.options.file
        if file is None and kind_of(options.data) == "coco":
            file = coco_file(options.data, part)
        findings, coco, document = self._examine_other(part) if file is None else self._examine_file(file, part)
        if coco is None:
            return PartReport(findings)
        support = Counter(coco.names[c] for c in coco.annotations_by_image.column("category").tolist())
        examine_names(coco.names, options.split, options.vocabulary, part, support, findings)
        coco = coco.select_images({image["id"] for image in document["images"]})
        return PartReport(findings, _statistics(coco, support, options.split), coco, document)

    def _examine_file(self, file, part):
        """(Findings, CocoAnnotations of the repaired document or None, repaired document or None) of a COCO file."""
        options, findings = self.options, Findings()
        folder = None
        try:
            document = read_json(file)
            if isinstance(document, dict):
                folder = find_image_folder(file, document, options.images, check=False)
        except (OSError, ValueError) as error:
            findings.add("error", "cannot be read as JSON", str(error))
            return findings, None, None
        document = readable(document, findings)
        if document is None:
            return findings, None, None
        document["images"] = mend_files(document["images"], folder, findings)
        known = [entry for entry in document["images"] if type(entry.get("id")) is int]
        paths, outside = _paths(file, folder, known)
        pictures = {**_look_at(paths, part, options.decode), **outside}
        whole = folder.resolve() != data_folder(file).resolve()
        unnamed = unnamed_pictures(folder, list(paths.values()), whole)
        _add_left_over(of_no_part(unnamed, file, options.images), findings)
        findings, repaired = examine(document, pictures, findings, options.box_format)
        self._find_copies(pictures, part, findings)
        if repaired is None or not repaired["images"] or not repaired["categories"]:
            return findings, None, None
        # The reader of training has the last word: what it says of the repaired document is a finding too.
        try:
            coco = CocoAnnotations.from_document(file, repaired, options.images, check_images=False)
        except ValueError as error:
            findings.add("error", "cannot be read after all repairs", str(error))
            return findings, None, None
        return findings, coco, repaired

    def _examine_other(self, part):
        """The same of a data set of another form, which its reader makes a `CocoAnnotations` of."""
        options, findings = self.options, Findings()
        try:
            form = form_of(options.class_names, options.box_format)
            coco = load_annotations(options.data, part, images=options.images, **form, findings=findings)
        except (FileNotFoundError, ValueError) as error:
            findings.add("error", "cannot be read", str(error))
            return findings, None, None
        paths = {entry["image_id"]: entry["path"] for entry in coco.images}
        pictures = _look_at(paths, part, options.decode)
        _, repaired = examine(_document_of(coco), pictures, findings)
        self._find_copies(pictures, part, findings)
        _add_left_over(coco.left_over, findings)
        return findings, None if repaired is None else coco, repaired

    def _find_copies(self, pictures, part, findings):
        """Pictures of equal content, in this part or in one before."""
        for picture in pictures.values():
            if not picture.problem:
                other, where = self._seen.setdefault(picture.content, (part, picture.where))
                if other != part:
                    findings.add("error", "pictures that are in two parts", f"{picture.where} is {other}: {where}")
                elif where != picture.where:
                    findings.add("warning", "pictures that are there twice", f"{picture.where} is {where}")


def other_annotations(data: str | Path, parts: Collection[str]) -> list[str]:
    """Paths of the annotation files of a COCO folder, or names of the parts of another data set, that are not read.

    Args:
        data: folder, file or Hub name. parts (list[str]): that are read.
    """
    kind = kind_of(data)
    if kind != "coco":
        return [f"{data} ({name})" for name in part_names(data, parts)]
    read = {coco_file(data, part) for part in parts if has_part(data, part)}
    files = [file for pattern in ("*.json", "*/*.json") for file in sorted(Path(data).glob(pattern))]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(data).parts)]
    return [str(file) for file in files if file not in read and file.is_file() and _is_coco(file)]


def _is_coco(file):
    """Whether a file begins like COCO's annotations."""
    with open(file, "rb") as stream:
        head = stream.read(1 << 16)
    keys = (b'"annotations"', b'"categories"', b'"file_name"')
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and any(key in head for key in keys)


def _paths(file, folder, entries):
    """({image id: path}, {image id: Picture} of those whose path leads out of the data set) of entries of images."""
    paths, outside = {}, {}
    for entry in entries:
        name, where = file_name_of(entry), f"{file}: image id {entry['id']}"
        try:
            paths |= {entry["id"]: inside([folder, data_folder(file)], name, where)} if name else {}
        except ValueError as error:
            outside[entry["id"]] = Picture(str(error), problem="outside of the data set's folder")
    return paths, outside


def _add_left_over(left_over, findings):
    for what, paths in left_over.items():
        for path in paths:
            findings.add("warning", what, str(path))


def _document_of(coco):
    """Annotations that another reader made, as a COCO document: what `examine` looks at and a repair writes."""
    index = coco.annotations_by_image
    image_ids = list(index)
    columns = ("id", "bbox", "area", "iscrowd", "category")
    rows = zip(index.image_rows.tolist(), *(index.column(name).tolist() for name in columns))
    annotations = [
        {
            "id": number,
            "bbox": box,
            "area": area,
            "iscrowd": crowd,
            "image_id": image_ids[image],
            "category_id": coco.category_ids[category],
        }
        for image, number, box, area, crowd, category in rows
    ]
    images = [
        {
            "id": entry["image_id"],
            "size_declared": entry.get("size_declared", True),
            **{key: entry[key] for key in ("file_name", "width", "height")},
        }
        for entry in coco.images
    ]
    categories = [{"id": number, "name": name} for number, name in zip(coco.category_ids, coco.names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _look_at(paths, part, decode):
    """{image id: Picture} of {image id: path}."""
    pictures = {}
    for number, path in tqdm(paths.items(), desc=f"{part} images", unit="image", disable=len(paths) < 100):
        pictures[number] = _picture(path, f"{path} (image id {number})", decode)
    return pictures


def _picture(path, where, decode):
    try:
        source = stored_source(path)
        size, orientation = image_header(source, where)
        if decode:
            open_image(source, where)
        return Picture(where, size, orientation, content=_digest(source))
    except FileNotFoundError:
        return Picture(where, problem="that are not there")
    except (OSError, ValueError) as error:
        return Picture(f"{error}" if where in str(error) else f"{where}: {error}", problem="that cannot be read")


def _digest(source):
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _statistics(coco, support, split):
    """Numbers of images, annotations and names."""
    index = coco.annotations_by_image
    sides = np.sqrt(index.column("area"))  # as evaluation has them
    with_objects = len(np.unique(index.image_rows))
    rare = sorted(support.items(), key=lambda item: (item[1], item[0]))
    statistics = {
        "images": len(coco.images),
        "images_without_objects": len(coco.images) - with_objects,
        "annotations": len(sides),
        "crowds": int(index.column("iscrowd").sum()),
        "boxes_per_image": round(len(sides) / max(len(coco.images), 1), 2),
        "most_boxes_in_an_image": int(index.objects.max(initial=0)),
        "small_medium_large": [
            int((sides < 32).sum()),
            int(((sides >= 32) & (sides < 96)).sum()),
            int((sides >= 96).sum()),
        ],
        "names": len(coco.names),
        "names_without_annotation": sum(not support[name] for name in coco.names),
        "most_frequent": dict(support.most_common(5)),
        "least_frequent": dict(rare[:5]),
    }
    if split is not None:
        for group, names in zip(("base", "novel"), split):
            statistics[f"{group}_annotations"] = sum(support[name] for name in names)
    return statistics


def draw_sheet(coco: CocoAnnotations, file: str | Path) -> None:
    """A sheet of annotated pictures, evenly chosen over the file, with their names."""
    entries = coco.images[:: max(1, len(coco.images) // _SHEET)][:_SHEET]
    side, columns = 480, min(4, len(entries))
    sheet = Image.new("RGB", (side * columns, side * -(-len(entries) // columns)), "white")
    for place, entry in enumerate(entries):
        index, image_id = coco.annotations_by_image, entry["image_id"]
        names = [coco.names[c] for c in index.arrays(image_id)["category"]]
        image, scale = shrunk(read_annotated(entry), 2 * side)
        image = draw_detections(image, index.corners(image_id) * scale, names, None)
        image.thumbnail((side - 8, side - 8))
        sheet.paste(image, (place % columns * side, place // columns * side))
    with replacing(file) as partial:
        sheet.save(partial, quality=88)
