"""The files that `decodetr predict` writes its detections to, a form each. Results come one by one, and go to the file
one by one.

json and jsonl are ours. coco, yolo and voc are data sets with pictures, for `validate`, `train --data` and other
programs. csv is written by supervision, parquet by pyarrow.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.inference.picture_files import unique_names
from decodetr.utils.files import json_text
from decodetr.utils.paths import link_files
from decodetr.utils.preflight import require_packages
from decodetr.utils.quiet_supervision import detections_to_pascal_voc, sv

if TYPE_CHECKING:
    from typing import Any

DATA_SETS = {"coco": "images", "yolo": "images", "voc": "JPEGImages"}  # form: its folder of pictures
FORMATS = ("json", "jsonl", *DATA_SETS, "csv", "parquet")
CROPS, FRAMES, VIDEOS = "crops", "frames", "videos"
MARK = ".decodetr-predict"  # in folders that this command made: what is in them may be replaced
_ROWS = 4096  # of a row group
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no place for
_COLUMNS = (
    *(("file", "string"), ("frame", "int64"), ("width", "int32"), ("height", "int32"), ("name", "string")),
    *((name, "float32") for name in ("score", "x0", "y0", "x1", "y1")),
    ("track", "int64"),
)  # of Parquet


@dataclass
class Results:
    """
    What is written.

    Args:
        head (dict): what made the detections, and what is said of the boxes. tail (dict): what failed and is missing.
        names (list[str]): of the vocabulary.
        entries (function): gives the results of images in their order, as often as it is called.
    """

    head: dict[str, Any]
    tail: dict[str, Any]
    names: list[str]
    entries: Callable[[], Iterator[dict[str, Any]]]

    @cached_property
    def places(self) -> dict[str, int]:
        """Name to its place in the vocabulary. Made once: vocabularies are long, and pictures many."""
        return {name: place for place, name in reversed(list(enumerate(self.names)))}


def check_formats(formats: list[str], output: str | Path) -> list[str]:
    """The forms without doubles, if what they write replaces nothing of others.

    Raises:
        ValueError: a form that there is not or whose package is missing, or a folder that this command writes into and
            did not make.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"--format {unknown[0]}: expected some of {', '.join(FORMATS)}")
    if "parquet" in formats:
        require_packages(("pyarrow",), "--format parquet")
    for folder in (Path(output) / name for name in (*DATA_SETS, CROPS, FRAMES, VIDEOS)):
        written = folder.name not in DATA_SETS or folder.name in formats
        if written and folder.exists() and not (folder / MARK).exists():
            raise ValueError(f"{folder} is there and not of `decodetr predict`; give another --output")
    return list(dict.fromkeys(formats))


def marked(staging: Path, name: str) -> Path:
    """A folder of `staging` that says that this command made it."""
    folder = staging / name
    folder.mkdir(parents=True, exist_ok=True)
    (staging / name / MARK).touch()
    return folder


def rows_of(result: Mapping[str, list]) -> list[dict[str, Any]]:
    """The dict of lists of one image as a list of dicts, one per detection."""
    singular = {"names": "name", "scores": "score", "boxes": "box", "tracks": "track"}
    keys = [singular.get(key, key) for key in result]
    return [dict(zip(keys, values)) for values in zip(*result.values())]


def write_results(
    formats: list[str], output: Path, staging: Path, results: Results
) -> tuple[list[str], dict[str, str]]:
    """Write all forms into `staging`, which becomes a part of `output`. Pictures of data sets are linked there. Of a
    form that fails nothing is in `staging`, and the others are written.

    Returns:
        Names of files of earlier data sets that are to go, relative to `output`. Form to what went wrong with it.
    """
    gone, failed = [], {}
    for name in formats:
        try:
            if name in DATA_SETS:
                gone += _write_set(name, output, staging, results)
            else:
                _PLAIN[name](staging, results)
        except Exception as error:  # of supervision, pyarrow, an XML parser, the disk: the others are still written
            failed[name] = f"{type(error).__name__}: {error}"
            shutil.rmtree(staging / name, ignore_errors=True)
            (staging / f"detections.{name}").unlink(missing_ok=True)
    return gone, failed


def _write_set(name, output, staging, results):
    """Write a data set. Returns what is to go of an earlier one."""
    folder, pictures = output / name, DATA_SETS[name]
    old = [file for file in folder.rglob("*") if file.is_file() or file.is_symlink()]
    (staging / name).mkdir()
    _SETS[name](staging / name, results)
    marked(output, name)  # before anything else is there: whatever ends this, the next run may write here
    links = dict(_pictures(results))
    link_files(folder / pictures, links)
    kept = {MARK, *(os.path.join(pictures, link) for link in links)}
    return [str(file.relative_to(output)) for file in old if str(file.relative_to(folder)) not in kept]


def _pictures(results):
    """(name in a data set, file) of every image of which there is a picture."""
    files = [picture for entry in results.entries() if (picture := picture_of(entry))]
    return zip(unique_names(files), files)


def picture_of(entry: Mapping[str, Any]) -> str | None:
    """The file with the pixels of a result, where there is one."""
    return entry.get("frame_file") if "frame" in entry else entry["file"]


def _named(results):
    """(name of the picture in a data set, result) of every image of which there is a picture."""
    names = (name for name, _ in _pictures(results))
    yield from zip(names, (entry for entry in results.entries() if picture_of(entry)))


def _write_json(staging, results):
    text = json_text({**results.head, "images": [], **results.tail})
    before, after = text.split('"images": []', 1)
    with open(staging / "detections.json", "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f'{before}"images": [')
        for number, entry in enumerate(results.entries()):
            file.write(",\n" if number else "\n")
            file.write(json_text(entry, None).rstrip("\n"))
        file.write(f"]{after}")


def _write_jsonl(staging, results):
    with open(staging / "detections.jsonl", "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json_text(entry, None) for entry in results.entries())


def _write_csv(staging, results):
    with sv.CSVSink(str(staging / "detections.csv")) as sink:
        for entry in results.entries():
            found = _supervision(entry, results.places)
            found.data["class_name"] = np.array([_utf_8(row["name"]) for row in entry["detections"]], dtype=str)
            said = {"file": _utf_8(entry["file"]), "frame": entry.get("frame", "")}
            sink.append(found, {**said, "width": entry["width"], "height": entry["height"]})


def _write_parquet(staging, results):
    import pyarrow as pa  # here, because an exported model runs without it
    import pyarrow.parquet as pq

    schema = pa.schema(_COLUMNS)
    rows = []
    # pyarrow opens no path that is no UTF-8.
    with open(staging / "detections.parquet", "wb") as file, pq.ParquetWriter(file, schema) as writer:
        for entry in results.entries():
            same = {"file": _utf_8(entry["file"]), "frame": entry.get("frame")}
            same |= {"width": entry["width"], "height": entry["height"]}
            for row in entry["detections"]:
                box = dict(zip(("x0", "y0", "x1", "y1"), row["box"]))
                said = {"name": _utf_8(row["name"]), "score": row["score"], "track": row.get("track")}
                rows.append({**same, **said, **box})
            if len(rows) >= _ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def _write_coco(staging, results):
    """annotations/train.json and images/. Annotations have their score besides COCO's fields."""
    number_of = {name: number for number, name in reversed(list(enumerate(results.names, 1)))}
    head = {"info": {"description": f"detections of {results.head['model']}", "image_folder": "images"}}
    (staging / "annotations").mkdir()
    with open(staging / "annotations" / "train.json", "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(json_text(head, None).rstrip("}\n") + '},\n"images": [')
        for number, (name, entry) in enumerate(_named(results), 1):
            image = {"id": number, "file_name": name, "width": entry["width"], "height": entry["height"]}
            stream.write((",\n" if number > 1 else "\n") + _line(image | {"source": entry["file"]}))
        stream.write('],\n"annotations": [')
        count = 0
        for number, (_, entry) in enumerate(_named(results), 1):
            for row, (x0, y0, x1, y1) in inside_picture(entry):
                count += 1
                annotation = {"id": count, "image_id": number, "category_id": number_of[row["name"]]}
                annotation |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
                annotation |= {key: row[key] for key in ("score", "track") if row.get(key) is not None}
                stream.write((",\n" if count > 1 else "\n") + _line(annotation))
        categories = [{"id": number, "name": name} for name, number in number_of.items()]
        stream.write(f'],\n"categories": {_line(sorted(categories, key=lambda one: one["id"]))}}}\n')


def _write_yolo(staging, results):
    """data.yaml, images/ and labels/."""
    number_of = {name: number for number, name in reversed(list(enumerate(results.names)))}
    (staging / "labels").mkdir()
    for name, entry in _named(results):
        width, height = entry["width"], entry["height"]
        lines = []
        for row, (x0, y0, x1, y1) in inside_picture(entry):
            numbers = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            lines.append(" ".join([str(number_of[row["name"]]), *(f"{number:.8g}" for number in numbers)]))
        with open(staging / "labels" / f"{Path(name).stem}.txt", "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
    names = "".join(f"  {number}: {_line(name)}\n" for number, name in enumerate(results.names))  # YAML holds JSON
    with open(staging / "data.yaml", "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"train: images\nnames:\n{names}")


def _write_voc(staging, results):
    """Annotations/ and JPEGImages/, by supervision: whole pixels from 1."""
    (staging / "Annotations").mkdir()
    names = [_xml(name) for name in results.names]
    for name, entry in _named(results):
        kept = [(row, box) for row, box in inside_picture(entry)]
        found = _supervision({"detections": [{**row, "box": box} for row, box in kept]}, results.places)
        shape = (entry["height"], entry["width"], 3)
        with open(staging / "Annotations" / f"{Path(name).stem}.xml", "w", encoding="utf-8") as file:
            file.write(detections_to_pascal_voc(found, names, _xml(name), shape))


def inside_picture(entry: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[float, float, float, float]]]:
    """Detections of a result with what of their boxes lies in the picture: (x0, y0, x1, y1). Those of which nothing
    does are left out."""
    width, height = entry["width"], entry["height"]
    for row in entry["detections"]:
        x0, y0, x1, y1 = row["box"]
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if box[2] > box[0] and box[3] > box[1]:
            yield row, box


def _supervision(entry, places):
    rows = entry["detections"]
    tracks = [-1 if row.get("track") is None else row["track"] for row in rows]
    return sv.Detections(
        xyxy=np.array([row["box"] for row in rows], dtype=np.float32).reshape(-1, 4),
        confidence=np.array([row["score"] for row in rows], dtype=np.float32),
        class_id=np.array([places[row["name"]] for row in rows], dtype=int),
        tracker_id=np.array(tracks, dtype=int),
    )


def _utf_8(text):
    """A text that UTF-8 can hold: the names of files that are no UTF-8 have surrogates, which become \\udcXX as in
    our JSON."""
    return text.encode("utf-8", "backslashreplace").decode()


def _xml(text):
    """The same for XML, which has no control characters either: they become \\xXX."""
    return _NO_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _line(value):
    return json_text(value, None).rstrip("\n")


_PLAIN = {"json": _write_json, "jsonl": _write_jsonl, "csv": _write_csv, "parquet": _write_parquet}
_SETS = {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}
