"""What stages of a build are made of, besides the words of their commands, by digests: so a build goes on wherever
its folders lie, and over nothing else than it began with."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from decodetr.annotations.coco import read_annotated
from decodetr.annotations.names_split import names_split_file
from decodetr.annotations.picture_digest import picture_digest
from decodetr.building.photos import can_be_read, listed_otherwise, photos_root
from decodetr.pool_builder.settings import PoolSettings, prompt_text
from decodetr.pool_builder.stages import problem_images
from decodetr.utils.documents import read_json, read_text
from decodetr.utils.model_identity import json_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.building.options import BuildOptions

_DIGEST = re.compile(r" # [0-9a-f]{12}$")  # what the commands of earlier records end with
_READABLE = "pictures that can be read within --max-image-pixels"
_ASKED = "--prompt="


def contents_of(
    stage: str,
    options: BuildOptions,
    photos: Sequence[Path],
    training: CocoAnnotations | None,
    validation: CocoAnnotations | None,
) -> dict[str, str]:
    """{what it is made of, in words: digest} of a stage; empty where its command says all. What a stage has written
    itself, the order of names and which pictures could be read, is among it where it would be another one now.

    Args:
        photos (list of Path): of a build without boxes. training (CocoAnnotations, optional): of one with boxes.
        validation (CocoAnnotations, optional): of that one, if it has any.
    """
    if stage == "names":
        wanted = dict.fromkeys([*([] if training is None else training.names), *(options.names or ())])
        return {"names": json_digest(options.names, 12)} | _other_order(options.output / "names.json", list(wanted))
    if training is None:
        if stage != "photos":
            return {}
        top = photos_root(options.images)
        names = sorted(os.path.relpath(path, top) for path in photos)
        found = {"photos": json_digest([names, picture_digest(photos, lambda path: path)], 12)}
        return found | _if_any(_READABLE, listed_otherwise(photos, top, options.output / "data"))
    split = names_split_file(options.images)
    found = {"names split": json_digest(None if split is None else read_text(split), 12)}
    if stage in ("first-pool", "pool"):
        left_out = _left_out(options.output / ("built" if stage == "pool" else "first"))
        entries = [entry for entry in training.images if entry["image_id"] in left_out]
        readable = [entry["file_name"] for entry in entries if can_be_read(read_annotated, entry)]
        return found | _of_data(training, "boxes", "pictures") | _if_any(_READABLE, readable)
    if stage in ("boxes", "model", "report"):  # the validation images choose the checkpoint of a training, too
        return found | ({} if validation is None else _of_data(validation, "validation boxes", "validation pictures"))
    return {}


def difference(done: dict[str, Any], command: str, made_of: dict[str, str]) -> str | None:
    """What a finished stage was made by or of and would not be now, as a part of a message. None if there is nothing.

    Args:
        done (dict): its record: "command", and "made_of", which earlier versions have not written.
    """
    before, now = _what_counts(_DIGEST.sub("", done["command"])), _what_counts(command)
    if before != now:
        return f"by another command:\n  {shlex.join(before)}\nnow\n  {shlex.join(now)}\n"
    found = done.get("made_of", made_of)
    other = [what for what in {**found, **made_of} if found.get(what) != made_of.get(what)]
    return f"of other {', '.join(other)}; " if other else None


def _what_counts(command):
    """The words of a command, without the device, and with the question that is asked in the place of its name: of no
    prompt, the default one."""
    words = shlex.split(command)
    if "--device" in words:
        place = words.index("--device")
        del words[place : place + 2]
    asked = [_ASKED + prompt_text(word.removeprefix(_ASKED)) if word.startswith(_ASKED) else word for word in words]
    return [word for word in asked if word != _ASKED + PoolSettings.prompt]


def _other_order(file, names):
    """The order of the names where the vocabulary that was made of a file has these in another one."""
    made = list(read_json(file, dict)) if names and file.is_file() else names
    return {"order of names": json_digest(names, 12)} if made != names and set(made) == set(names) else {}


def _left_out(pool):
    """Ids of the images that a pool was made without."""
    return {one["image_id"] for one in problem_images(pool)} if (pool / "proposals").is_dir() else set()


def _if_any(what, found):
    return {what: json_digest(sorted(map(str, found)), 12)} if found else {}


def _of_data(coco, boxes, pictures):
    return {boxes: coco.digest(), pictures: coco.picture_digest()}
