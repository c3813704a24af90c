"""Where annotations come from: a COCO-format folder, a YOLO folder, or a data set of `datasets`. One form for all.

`datasets` takes seconds to import, and only its own data sets need it: it is imported where one is opened.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from decodetr.annotations.box_style import doubts
from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.formats import DATA_HELP
from decodetr.annotations.hub_dataset import read_dataset
from decodetr.annotations.left_over import in_a_line
from decodetr.annotations.stream import AnnotationStream
from decodetr.annotations.yolo import read_data_yaml, read_yolo, yolo_file

if TYPE_CHECKING:
    from decodetr.annotations.findings import Findings

logger = logging.getLogger(__name__)

# What the parts are called in data sets of the Hub.
_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid"), "test": ("test",)}
_SHARDS = 64  # of a saved data set that is streamed. The same whatever the number of processes
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def load_annotations(
    data: str | Path | None,
    part: str,
    file: str | Path | None = None,
    images: str | Path | None = None,
    *,
    class_names: list[str] | None = None,
    box_format: str = "coco",
    check_images: bool = True,
    findings: Findings | None = None,
) -> CocoAnnotations:
    """
    The annotations of a part of a data set.

    Args:
        data: a folder in COCO's form (annotations/PART.json), a YOLO folder or its data.yaml, a folder that `datasets`
            can read, or a data set on the Hub, "NAME" or "NAME:CONFIG"; None where `file` is given.
        part (str): "train", "val" or "test".
        file: a COCO annotation file, wherever it lies. `data` is not looked at then. images: its image folder.
        class_names, box_format: see [`read_dataset`], which alone needs them.
        findings (Findings, optional): of a YOLO or `datasets` data set: is told of what cannot be used, which is left
            out then. Default: the first such thing is an error.

    Returns:
        CocoAnnotations.

    Raises:
        FileNotFoundError: nothing of the kind. ValueError: what the reader refuses.
    """
    coco = _load(data, part, file, images, class_names, box_format, check_images, findings)
    for what, found in (("images", coco.images), ("names", coco.names)):
        if not found:
            raise ValueError(f"{coco.file}: expected {what}, got none; is it the right file?")
    if findings is None and (said := _doubts(coco)):
        logger.warning("%s: %s; `decodetr validate %s --repair DIR` mends a copy", coco.file, said, data or file)
    if findings is None and (unused := in_a_line(coco.left_over)):
        logger.warning("%s: not used: %s", coco.file, unused)
    return coco


def _doubts(coco):
    """What speaks against the boxes of a data set."""
    index = coco.annotations_by_image
    sizes = np.array([(image["width"], image["height"]) for image in coco.images], dtype=np.float64)
    return doubts(index.column("bbox"), sizes[index.image_rows])


def _load(data, part, file, images, class_names, box_format, check_images, findings):
    kind = "coco" if file is not None else kind_of(data)
    if kind == "coco":
        return CocoAnnotations.load(file or coco_file(data, part), images, check_images)
    if kind == "yolo":
        return read_yolo(yolo_file(data), part, findings)
    return read_dataset(*_load_split(data, part, streaming=False), class_names, box_format, findings, _folders(data))


def load_stream(
    data: str | Path, part: str, *, class_names: list[str] | None = None, box_format: str = "coco"
) -> AnnotationStream:
    """
    The same of a data set of `datasets`, streamed: an `AnnotationStream`.

    Raises:
        FileNotFoundError: nothing of the kind. ValueError: a COCO or YOLO folder, or what the reader refuses.
    """
    kind = kind_of(data)
    if kind != "datasets":
        raise ValueError(
            f"{data}: expected a data set of `datasets` to stream, got a {kind.upper()} folder, whose images are read "
            "from disk one by one anyway; leave out --streaming"
        )
    dataset, name = _load_split(data, part, streaming=True)
    return AnnotationStream(dataset, name, class_names, box_format, _folders(data))


def has_part(data: str | Path, part: str) -> bool:
    """Whether a data set has a part."""
    if (file := yolo_file(data)) is not None:
        return bool(read_data_yaml(file).get(part))
    if kind_of(data) == "coco":
        return coco_file(data, part).is_file()
    return _split_of(_dataset(data)[0], part) is not None


def part_names(data: str | Path, parts: Collection[str]) -> list[str]:
    """What a YOLO or `datasets` data set has besides some parts: names of folders of images, or of splits."""
    if (file := yolo_file(data)) is not None:
        config = read_data_yaml(file)
        return [key for key in ("train", "val", "test", "valid", "validation") if config.get(key) and key not in parts]
    splits = _dataset(data)[0]
    return [split for split in splits if split not in {_split_of(splits, part) for part in parts}]


def kind_of(data: str | Path) -> str:
    """ "coco", "yolo" or "datasets".

    Raises:
        FileNotFoundError: there is no such folder, and it is no name of the Hub.
    """
    folder = Path(data)
    if yolo_file(data) is not None:
        return "yolo"
    if not folder.exists():
        if not _HUB_NAME.fullmatch(str(data)):
            raise FileNotFoundError(f"{data}: no such folder; expected a {DATA_HELP}")
        return "datasets"
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json", "metadata.jsonl"))
    if saved or not (any(folder.glob("*.json")) or (folder / "annotations").is_dir()):
        return "datasets" if saved or any(folder.rglob("*.parquet")) or any(folder.rglob("metadata.jsonl")) else "coco"
    return "coco"


def coco_file(data: str | Path, part: str) -> Path:
    """The annotation file of a part: DATA/annotations/PART.json, or DATA/PART.json if only that is there."""
    file, other = Path(data) / "annotations" / f"{part}.json", Path(data) / f"{part}.json"
    return other if other.is_file() and not file.is_file() else file


def _dataset(data):
    """(names of the splits, what loads or streams one) of a data set that is saved, local files, or on the Hub."""
    import datasets

    folder, (name, _, config) = Path(data), str(data).partition(":")
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # a damaged folder: a dozen types
            raise ValueError(
                f"{folder}: expected what `Dataset.save_to_disk` writes, got {type(error).__name__}: {error}; save it "
                "again"
            ) from error
        saved = {"train": saved} if isinstance(saved, datasets.Dataset) else saved
        return list(saved), lambda split, streaming: _stream(saved[split]) if streaming else saved[split]
    name, config = (str(data), None) if folder.exists() else (name, config or None)
    try:
        splits = datasets.get_dataset_split_names(name, config)
    except Exception as error:  # offline, unknown, or nothing that datasets can read: a dozen types
        raise FileNotFoundError(f"{data}: expected a {DATA_HELP}; datasets says: {error}") from error
    return splits, lambda split, streaming: datasets.load_dataset(name, config, split=split, streaming=streaming)


def _stream(dataset):
    """A saved data set as a stream. It has no files to deal out to processes and workers: they are made here."""
    return dataset.to_iterable_dataset(num_shards=max(1, min(_SHARDS, len(dataset))))


def _folders(data):
    """Where images of a data set of `datasets` may lie: in its folder, and where the Hub's files are kept."""
    import datasets
    from huggingface_hub import constants

    caches = [datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]
    return [data, *caches] if os.path.exists(data) else caches


def _load_split(data, part, streaming):
    """(data set of `datasets`, its name for messages)."""
    splits, load = _dataset(data)
    split = _split_of(splits, part)
    if split is None:
        raise ValueError(f"{data}: expected a split called {' or '.join(_SPLITS[part])}, got {', '.join(splits)}")
    try:
        return load(split, streaming), f"{data} ({split})"
    except Exception as error:  # damaged files, no network: a dozen types
        raise ValueError(
            f"{data} ({split}): expected a data set that `datasets` can read, got {type(error).__name__}: {error}"
        ) from error


def _split_of(splits, part):
    return next((split for split in _SPLITS[part] if split in splits), None)
