"""What stages of a build are made of, besides the words of their commands, by digests: so a build goes on wherever
its folders lie, and over nothing else than it began with."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from decodetr.annotations.names_split import names_split_file
from decodetr.annotations.picture_digest import picture_digest
from decodetr.building.photos import photos_root
from decodetr.utils.documents import read_text
from decodetr.utils.model_identity import json_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from decodetr.annotations.coco import CocoAnnotations
    from decodetr.building.options import BuildOptions

_DIGEST = re.compile(r" # [0-9a-f]{12}$")  # what the commands of earlier records end with


def contents_of(
    stage: str,
    options: BuildOptions,
    photos: Sequence[Path],
    training: CocoAnnotations | None,
    validation: CocoAnnotations | None,
) -> dict[str, str]:
    """{what it is made of, in words: digest} of a stage; empty where its command says all.

    Args:
        photos (list of Path): of a build without boxes. training (CocoAnnotations, optional): of one with boxes.
        validation (CocoAnnotations, optional): of that one, if it has any.
    """
    if stage == "names":
        return {"names": json_digest(options.names, 12)}
    if training is None:
        if stage != "photos":
            return {}
        top = photos_root(options.images)
        names = sorted(os.path.relpath(path, top) for path in photos)
        return {"photos": json_digest([names, picture_digest(photos, lambda path: path)], 12)}
    split = names_split_file(options.images)
    found = {"names split": json_digest(None if split is None else read_text(split), 12)}
    if stage in ("first-pool", "pool"):
        return found | _of_data(training, "boxes", "pictures")
    if stage in ("boxes", "model", "report"):  # the validation images choose the checkpoint of a training, too
        return found | ({} if validation is None else _of_data(validation, "validation boxes", "validation pictures"))
    return {}


def difference(done: dict[str, Any], command: str, made_of: dict[str, str]) -> str | None:
    """What a finished stage was made by or of and would not be now, as a part of a message. None if there is nothing.

    Args:
        done (dict): its record: "command", and "made_of", which earlier versions have not written.
    """
    before = _DIGEST.sub("", done["command"])
    if before != command:
        return f"by another command:\n  {before}\nnow\n  {command}\n"
    found = done.get("made_of", made_of)
    other = [what for what in {**found, **made_of} if found.get(what) != made_of.get(what)]
    return f"of other {', '.join(other)}; " if other else None


def _of_data(coco, boxes, pictures):
    return {boxes: coco.digest(), pictures: coco.picture_digest()}
