"""Detections on disk: what a run found, to be evaluated again, by another engine or protocol, or compared.

Ours are Parquet, with the file names of the images: another form of the same data numbers them otherwise. COCO's
results format (a JSON list of {"image_id", "category_id", "bbox", "score"}) is read too, so that what other programs
found goes through the same evaluation. So is what `decodetr predict` writes: detections.json, and
coco/annotations/train.json of `--format coco`. Their images are found by their file names.
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from decodetr.annotations.box_style import doubts
from decodetr.annotations.coco_mending import whole_number
from decodetr.annotations.written_paths import spelling_key
from decodetr.processing.region_names import other_pictures
from decodetr.utils.boxes import corners_of
from decodetr.utils.documents import decoded, parse_json, read_json
from decodetr.utils.excerpts import short
from decodetr.utils.files import reading, regular_file, replacing

if TYPE_CHECKING:
    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.evaluation.detection_evaluator import DetectionEvaluator
    from decodetr.evaluation.output_evaluator import OutputEvaluator

logger = logging.getLogger(__name__)

_NAMES, _FACTS, _FILES = "decodetr_names", "decodetr_facts", "decodetr_files"
_COLUMNS = ("x0", "y0", "x1", "y1")
_WITHOUT_NAMES = (
    "{file}: the {form} of `decodetr predict` has no list of the names that were looked for; give its detections.json "
    "(--format json)"
)


def save_detections(
    file: str | Path, evaluator: DetectionEvaluator, facts: dict[str, str | None] | None = None
) -> None:
    """Write what a [`DetectionEvaluator`] has kept: image_id, name, score, x0, y0, x1, y1 in pixels, one row each.
    File names of the images that were seen go with them. `facts`: what a report says of the model, {text: text}."""
    state = sorted(evaluator.state(), key=lambda row: row[0])
    counts = [len(scores) for _, scores, *_ in state]
    boxes = np.concatenate([rows[3] for rows in state]) if state else np.zeros((0, 4), np.float32)
    labels = np.concatenate([rows[2] for rows in state]) if state else np.zeros(0, np.int32)
    columns = {
        "image_id": pa.array(np.repeat([row[0] for row in state], counts).astype(np.int64)),
        "name": pa.DictionaryArray.from_arrays(pa.array(labels, pa.int32()), pa.array(evaluator.names, pa.string())),
        "score": pa.array(np.concatenate([row[1] for row in state]) if state else np.zeros(0, np.float32)),
        **{name: pa.array(boxes[:, column]) for column, name in enumerate(_COLUMNS)},
    }
    # The whole vocabulary, as the column holds only the names that were found.
    metadata = {_NAMES: json.dumps(evaluator.names, ensure_ascii=False), _FACTS: json.dumps(facts or {})}
    seen = {row[0] for row in state}
    files = {entry["image_id"]: entry.get("file_name") for entry in evaluator.coco.images if entry["image_id"] in seen}
    metadata[_FILES] = json.dumps({image_id: name for image_id, name in files.items() if name})
    with replacing(file) as partial:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), partial)


def load_facts(file: str | Path) -> dict[str, str | None]:
    """What [`save_detections`] was told of the model. Empty for other files."""
    if Path(file).suffix == ".json":
        document = read_json(file)
        if not isinstance(document, dict):
            return {}
        if "annotations" in document:  # a data set
            return {"model": str((document.get("info") or {}).get("description"))}
        least = document.get("threshold")
        return {"model": str(document.get("model")), "score_threshold": f"{least}, of predict: what is below is lost"}
    stored = (pq.read_schema(regular_file(file)).metadata or {}).get(_FACTS.encode(), b"{}")
    return parse_json(decoded(stored, file), f"{file}: {_FACTS}", dict)


def load_detections(file: str | Path, coco: CocoAnnotations) -> tuple[list[str], dict[int, dict[str, np.ndarray]]]:
    """
    Detections of a file.

    Args:
        file: Parquet, as [`save_detections`] writes it, COCO's results as JSON, or JSON of `predict`.
        coco: `CocoAnnotations` that they belong to.

    Returns:
        (names, {image_id: {"scores", "labels" (indices into names), "boxes" (n, 4) x0, y0, x1, y1 pixels}}). An image
        without detections is left out.

    Raises:
        FileNotFoundError: no such file. ValueError: another format, or images or categories that `coco` lacks. The
            message names the row or the image.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected detections as Parquet or as COCO results (JSON)")
    if (form := file.suffix[1:]) in ("jsonl", "csv"):
        raise ValueError(_WITHOUT_NAMES.format(file=file, form=form))
    with reading(file.parent):
        names, images, labels, scores, boxes = (_read_json if file.suffix == ".json" else _read_parquet)(file, coco)
    if ((scores < 0) | (scores > 1)).any():
        logger.warning(
            "%s: expected scores in 0..1, got %g to %g: AP needs only their order, but there are no thresholds and no "
            "calibration of them",
            file, scores.min(), scores.max(),
        )  # fmt: skip
    known = np.isin(images, [image["image_id"] for image in coco.images])
    if not known.all():
        row = int((~known).argmax())
        raise ValueError(
            f"{file}: row {row}: expected an image of {coco.file}, got image_id {images[row]} ({(~known).sum()} such "
            "rows); give the annotation file that belongs to these detections"
        )
    order = np.argsort(images, kind="stable")
    found, starts = np.unique(images[order], return_index=True)
    parts = {
        int(image): {"scores": scores[rows], "labels": labels[rows], "boxes": boxes[rows]}
        for image, rows in zip(found, np.split(order, starts[1:]))
    }
    return names, parts


def feed_detections(
    evaluator: DetectionEvaluator | OutputEvaluator, coco: CocoAnnotations, found: dict[int, dict[str, np.ndarray]]
) -> None:
    """Give an evaluator what [`load_detections`] found in the images of `coco`. An image without entry has none."""
    nothing = {"scores": [], "labels": [], "boxes": []}
    ids = [entry["image_id"] for entry in coco.images]
    evaluator.update(ids, [found.get(image_id, nothing) for image_id in ids])


def _read_parquet(file, coco):
    try:
        table = pq.read_table(file)
    except pa.ArrowException as error:
        raise ValueError(f"{file}: expected a Parquet file, got: {error}; it may be cut off") from error
    expected = ("image_id", "name", "score", *_COLUMNS)
    if {"file", "frame"} <= set(table.column_names):
        raise ValueError(_WITHOUT_NAMES.format(file=file, form="parquet"))
    if missing := set(expected) - set(table.column_names):
        raise ValueError(f"{file}: expected the columns {expected}, {sorted(missing)} are missing")
    if empty := [name for name in expected if table[name].null_count]:
        raise ValueError(f"{file}: expected a value in every row, {empty} have rows without one")
    for name in expected:
        kind = table[name].type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_right = {"image_id": pa.types.is_integer, "name": _is_text}.get(name, pa.types.is_floating)
        if not is_right(kind):
            raise ValueError(f"{file}: expected integers, texts and floats in {expected}, got {kind} in {name}")
    coded = table["name"].combine_chunks()
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    stored = (table.schema.metadata or {}).get(_NAMES.encode())
    found = coded.dictionary.to_pylist()
    names = parse_json(decoded(stored, file), f"{file}: {_NAMES}", list) if stored else found
    place = {name: label for label, name in enumerate(names) if isinstance(name, str)}
    if missing := [name for name in found if name not in place]:
        raise ValueError(
            f"{file}: expected the names of {_NAMES} in the column name, got {missing[:5]}; write it again"
        )
    label_of = np.array([place[name] for name in found], dtype=np.int64)
    boxes = np.stack([table[name].to_numpy() for name in _COLUMNS], axis=1).astype(np.float32)
    labels = label_of[coded.indices.to_numpy()]
    images = _numbered_as(coco, table["image_id"].to_numpy(), _stored_files(table, file), file)
    return names, images, labels, table["score"].to_numpy(), boxes


def _stored_files(table, file):
    """{image_id: file name} of the images that were seen. Empty for a file that was written without."""
    stored = parse_json(
        decoded((table.schema.metadata or {}).get(_FILES.encode(), b"{}"), file), f"{file}: {_FILES}", dict
    )
    try:
        files = {int(image_id): name for image_id, name in stored.items()}
    except ValueError as error:
        raise ValueError(f"{file}: {_FILES}: expected numbers of images as keys, got: {error}") from error
    if wrong := [name for name in files.values() if not isinstance(name, str)]:
        raise ValueError(f"{file}: {_FILES}: expected names of files, got {short(wrong[0])}")
    return files


def _numbered_as(coco, images, files, file):
    """The image ids (D,) of `coco` for those of a file. They are the same unless the files say that they are of other
    pictures, as in another form of the data, or are ids that `coco` lacks: then images are found by their file names.

    Args:
        images (D,): image id of each detection. files: [`_stored_files`].
    """
    here = dict(zip(coco.images.columns["image_id"].tolist(), coco.images.columns["file_name"]))
    pairs = [(image_id, there, here[image_id]) for image_id, there in files.items() if here.get(image_id)]
    are_known = np.isin(images, list(here)).all()
    if not files or (are_known and not other_pictures(pairs, files.values, here.values)):
        return images
    ends = {}  # of a path, in any spelling: images. A look at all images of one file name would take too long
    for image_id, name in here.items():
        for end in _ends(name):
            ends.setdefault(end, []).append(image_id)
    with_rows, counterpart, taken = np.unique(images).tolist(), {}, {}
    needed = set(with_rows)
    for image_id in dict.fromkeys([*files, *with_rows]):
        name = files.get(image_id, "")
        best = next((ends[end] for end in _ends(name) if end in ends), [])
        if len(best) > 1:  # in other letter case, maybe
            best = [other for other in best if here[other] == name] or best
        if len(best) == 1 and taken.setdefault(best[0], image_id) == image_id:
            counterpart[image_id] = best[0]
        elif best or image_id in needed:  # where nothing was found, the data may lack the image
            got = f"{len(best) or 'none'}"
            if len(best) == 1:
                got = f"the one of image_id {taken[best[0]]}, {files[taken[best[0]]]}"
            raise ValueError(
                f"{file}: image_id {image_id}, {name or 'no file name'}: expected one image of {coco.file} with that "
                f"file name, as the image ids are others there, got {got}; give the annotation file that belongs to "
                "these detections, or run `decodetr eval --model` on these data"
            )
    logger.info("%s: image ids are others than in %s; images are found by their file names", file, coco.file)
    numbers = np.array([counterpart[image_id] for image_id in with_rows], dtype=np.int64)
    return numbers[np.searchsorted(with_rows, images)]


def _ends(name):
    """The path of a file in any spelling, without its first folder, and so on to its file name alone."""
    parts = spelling_key(name).split("/") if name else []
    return ["/".join(parts[place:]) for place in range(len(parts))]


def _is_text(kind):
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _read_json(file, coco):
    document = read_json(file)
    if isinstance(document, list):
        return _read_results(file, document, coco)
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document):
        document = _as_predictions(file, document)
    if not isinstance(document, dict) or not {"images", "vocabulary", "box_format"} <= set(document):
        raise ValueError(
            f"{file}: expected a list of detections (COCO's results format) or detections.json of `decodetr predict`, "
            f"got {short(document)}"
        )
    return _read_predictions(file, document, coco)


def _as_predictions(file, document):
    """A data set of `decodetr predict --format coco` as its detections.json."""
    try:
        name_of = {row["id"]: row["name"] for row in document["categories"]}
        found = {row["id"]: [] for row in document["images"]}
        for row in document["annotations"]:
            x, y, width, height = row["bbox"]
            box = [x, y, x + width, y + height]
            found[row["image_id"]].append({"name": name_of[row["category_id"]], "score": row["score"], "box": box})
        images = [
            {"file": row["source"], "width": row["width"], "height": row["height"], "turned": False}
            | {"detections": found[row["id"]]}
            for row in document["images"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected a data set of `decodetr predict --format coco`, whose annotations have a score and "
            f"whose images have a source, got {error!r}; COCO's results format, a list, is read too"
        ) from error
    return {"vocabulary": {"names": list(name_of.values())}, "images": images, "box_format": None}


def _read_predictions(file, document, coco):
    """What `decodetr predict` found, for every image of `coco`. Other images do not count."""
    if missing := document.get("missing"):
        raise ValueError(
            f"{file}: {len(missing)} images are missing; run the same `decodetr predict` again to its end"
        )
    try:
        names = document["vocabulary"]["names"]
        label_of, rows = {name: label for label, name in enumerate(names)}, {}
        for predicted in document["images"]:
            rows.setdefault(PurePath(predicted["file"]).name, []).append(predicted)
        images, columns = [], []
        for entry in coco.images:
            predicted = _of_image(file, entry, rows.get(PurePath(entry["file_name"]).name, []))
            for row in predicted["detections"]:
                images.append(entry["image_id"])
                columns.append((label_of[row["name"]], float(row["score"]), *map(float, row["box"])))
        table = np.array(columns, dtype=np.float64).reshape(-1, 6)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: expected what `decodetr predict` writes, got {error!r}; run it again") from error
    boxes = table[:, 2:].astype(np.float32)
    return names, np.array(images, dtype=np.int64), table[:, 0].astype(np.int64), table[:, 1], boxes


def _of_image(file, entry, candidates):
    """The entry of detections.json that belongs to an image of the data.

    Args:
        entry: of `CocoAnnotations.images`. candidates: predictions for files of its name, in whatever folders.
    """

    def shared(predicted):
        """How many last parts of the two paths are equal."""
        parts = zip(reversed(PurePath(predicted["file"]).parts), reversed(PurePath(str(entry["path"])).parts))
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))

    best = max(map(shared, candidates), default=0)
    found = [predicted for predicted in candidates if shared(predicted) == best]
    if len(found) != 1:
        got = "none" if not found else f"those of {len(found)} files of that name"
        raise ValueError(
            f"{file}: expected detections of the image {entry['file_name']!r}, got {got}; run `decodetr predict` on "
            "the image folder of these annotations"
        )
    (found,) = found
    if (found["width"], found["height"]) != (entry["width"], entry["height"]):
        raise ValueError(
            f"{file}: {found['file']}: expected boxes in the {entry['width']} x {entry['height']} pixels that are "
            f"annotated, got those of {found['width']} x {found['height']}"
            + (", turned upright as its EXIF orientation says" if found["turned"] else "")
            + "; `decodetr eval --model` reads pictures as they are annotated"
        )
    return found


def _read_results(file, rows, coco):
    label_of = {number: label for label, number in enumerate(coco.category_ids)}
    images, columns = [], []
    for place, row in enumerate(rows):
        try:
            image, category, box, score = (row[key] for key in ("image_id", "category_id", "bbox", "score"))
            numbers = [*box, score]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: row {place}: expected image_id, category_id, bbox [x, y, width, height] and score, got "
                f"{short(row)}"
            ) from error
        ids = [whole_number(image), whole_number(category)]  # as annotation files are read
        if None in ids or not -(2**63) <= ids[0] < 2**63:
            raise ValueError(
                f"{file}: row {place}: expected image_id and category_id as whole numbers of 64 bits, got "
                f"{short(image)} and {short(category)}; write the ids of {coco.file}"
            )
        if ids[1] not in label_of:
            raise ValueError(
                f"{file}: row {place}: expected a category_id of {coco.file} ({coco.category_ids[0]} to "
                f"{coco.category_ids[-1]}), got {short(category)}; are the categories numbered from 0, or renumbered?"
            )
        if len(numbers) != 5 or {type(value) for value in numbers} - {int, float}:
            raise ValueError(
                f"{file}: row {place}: expected bbox as four numbers x, y, width, height and score as a number, got "
                f"{short(box)} and {short(score)}"
            )
        images.append(ids[0])
        x, y, width, height, score = map(float, numbers)
        columns.append((label_of[ids[1]], score, x, y, width, height))
    size_of = {entry["image_id"]: (entry["width"], entry["height"]) for entry in coco.images}
    known = [place for place, image in enumerate(images) if image in size_of]
    sizes = np.array([size_of[images[place]] for place in known], dtype=np.float64).reshape(-1, 2)
    if said := doubts(np.array([rows[place]["bbox"] for place in known], dtype=np.float64).reshape(-1, 4), sizes):
        logger.warning("%s: %s; expected bbox as [x, y, width, height] in pixels: is it right?", file, said)
    table = np.array(columns, dtype=np.float64).reshape(-1, 6)
    boxes = corners_of(table[:, 2:]).astype(np.float32)
    return coco.names, np.array(images, dtype=np.int64), table[:, 0].astype(np.int64), table[:, 1], boxes
