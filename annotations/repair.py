"""A repaired copy of annotations, as a COCO-format folder, whatever form they had."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

from decodetr.annotations.coco import CocoAnnotations, stored_source
from decodetr.annotations.formats import PARTS
from decodetr.utils.documents import read_json
from decodetr.utils.files import committed, regular_file, write_json
from decodetr.utils.paths import link_pictures

REPAIRED = "repaired.json"  # marks a folder that a repair wrote
_SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp", b"II": ".tif"}
_COPY = re.compile(rf"\d{{6,}}({'|'.join(_SIGNATURES.values())})")  # name of a picture that was written


@contextmanager
def repaired_copy(
    folder: str | Path, source: str | Path
) -> Iterator[Callable[[str, dict[str, Any], CocoAnnotations], None]]:
    """
    Yield a function that adds a part: its name, its repaired COCO document, and the annotations that this was made of.
    At the end DIR/annotations/PART.json, the pictures and the mark appear, all of them or none, and what an earlier
    repair wrote there is gone. Pictures that are inside a data set, not in files, are written to DIR/PART/. Others
    stay where they are, and DIR/PART is a link to them.

    Args:
        folder (str or Path): made with the first part, if missing.
        source (str): what was repaired, for the mark.
    """
    folder = Path(folder)
    earlier, parts = _parts(folder), {}
    with ExitStack() as stack:

        @cache
        def staging():
            return stack.enter_context(committed(folder, remove=lambda _: _files(folder, earlier)))

        def add(part, document, coco):
            copied = coco.image_folder is None
            images = _free_name(folder, part, earlier, copied)
            if copied:
                document = _with_pictures(staging(), images, document, coco)
            else:
                images = link_pictures(staging(), images, coco.image_folder)
            parts[part] = images
            write_json(staging() / "annotations" / f"{part}.json", _as_written(document, images), indent=None)

        yield add
        if parts:
            write_json(staging() / REPAIRED, {"repaired_from": str(source), "parts": parts})


def _parts(folder):
    """{part: folder of its pictures} of an earlier repair."""
    if not (folder / REPAIRED).is_file():
        return {}
    parts = read_json(folder / REPAIRED, dict).get("parts")
    return parts if isinstance(parts, dict) else {part: part for part in PARTS}  # of a version that did not say


def _files(folder, parts):
    """What is there of an earlier repair, relative to its folder."""
    found = [f"annotations/{os.path.basename(part)}.json" for part in parts]
    for name in parts.values():
        place = folder / name
        if os.path.basename(name) != name or not name.strip("."):  # a path to pictures that could not be linked
            continue
        if place.is_symlink():
            found.append(name)
        elif place.is_dir():
            found += [f"{name}/{file.name}" for file in place.iterdir() if _COPY.fullmatch(file.name)]
    return found


def _free_name(folder, part, earlier, copied):
    """A name for the pictures of a part: the first one that is free, or an earlier repair's for pictures of that kind,
    as neither a folder can replace a link nor a link a folder."""
    for name in chain([part], (f"{part}_{number}" for number in count(2))):
        place = folder / name
        if not os.path.lexists(place) or (name in earlier.values() and place.is_symlink() != copied):
            return name
    raise AssertionError


def _as_written(document, image_folder):
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    images = [{key: value for key, value in entry.items() if key != "size_declared"} for entry in document["images"]]
    return {**document, "info": {**info, "image_folder": image_folder}, "images": images}


def _with_pictures(staging, folder, document, coco):
    """The document with the pictures of a data set as files, their bytes as they are."""
    path_of = {entry["image_id"]: entry["path"] for entry in coco.images}
    images = []
    (staging / folder).mkdir()
    for number, entry in enumerate(document["images"], start=1):
        source = stored_source(path_of[entry["id"]])
        content = source if isinstance(source, bytes) else regular_file(source).read_bytes()
        name = f"{number:06d}{_SIGNATURES.get(content[:2], '.png')}"
        (staging / folder / name).write_bytes(content)
        images.append({**entry, "file_name": name})
    return {**document, "images": images}
