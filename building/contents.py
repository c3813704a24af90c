"""What stages of a build are made of, besides the words of their commands, by digests: so a build goes on wherever
its folders lie, and over nothing else than it began with."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodetr.annotations.names_split import names_split_file
from decodetr.annotations.picture_digest import picture_digest
from decodetr.annotations.sources import load_annotations
from decodetr.building.photos import photos_root
from decodetr.utils.documents import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.building.options import BuildOptions

_TRAINED, _JUDGED = ("boxes", "pictures"), ("validation boxes", "validation pictures")


def contents_of(
    stage: str, options: BuildOptions, photos: Sequence[Path], training: CocoAnnotations | None, has_val: bool
) -> dict[str, str]:
    """{what it is made of, in words: digest} of a stage; empty where its command says all.

    Args:
        photos (list of Path): of a build without boxes. training (CocoAnnotations, optional): of one with boxes.
        has_val (bool): whether that one has something to evaluate on.
    """
    if stage == "names":
        return {"names": _digest(options.names)}
    if training is None:
        if stage != "photos":
            return {}
        top = photos_root(options.images)
        return {"photos": _digest([sorted(os.path.relpath(path, top) for path in photos), _of_files(photos)])}
    if stage not in ("pool", "model", "report"):
        return {}
    split = names_split_file(options.images if Path(options.images).is_dir() else None)
    found = {"names split": _digest(None if split is None else read_text(split))}
    if stage == "pool":
        return found | _of_data(training, _TRAINED)
    # The validation images choose the checkpoint of the model, too.
    return found | (_of_data(load_annotations(options.images, "val", check_images=False), _JUDGED) if has_val else {})


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The words for what is another one now, or is there now or no longer."""
    return [what for what in {**before, **now} if before.get(what) != now.get(what)]


def _of_data(coco, words):
    return dict(zip(words, (coco.digest(), coco.picture_digest())))


def _of_files(paths):
    read: Callable[[Any], Path] = Path
    return picture_digest(paths, read)


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
