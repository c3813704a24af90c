"""A repaired copy of annotations, as a COCO-format folder, whatever form they had."""

from pathlib import Path
from typing import Any

from decodetr.annotations.coco import CocoAnnotations, stored_source
from decodetr.utils.files import committed, regular_file, write_json
from decodetr.utils.paths import link_pictures

REPAIRED = "repaired.json"  # marks a folder that a repair wrote
_SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"GI": ".gif", b"BM": ".bmp", b"II": ".tif"}


def write_repaired(
    folder: str | Path, part: str, document: dict[str, Any], coco: CocoAnnotations, source: str | Path
) -> Path:
    """
    Write DIR/annotations/PART.json.

    Args:
        folder (str or Path): made if missing.
        part (str): the name of the file.
        document (dict): COCO's, repaired.
        coco (CocoAnnotations): what it was made of. Pictures that are inside a data set, not in files, are written
            next to the annotations, DIR/PART/. Others stay where they are, and DIR/PART is a link to them.
        source (str): what was repaired, for the mark.

    Returns:
        Path: the file.
    """
    folder = Path(folder)
    write_json(folder / REPAIRED, {"repaired_from": str(source)})
    if coco.image_folder is None:
        document, images = _with_pictures(folder, part, document, coco), part
    else:
        images = link_pictures(folder, part, coco.image_folder)
    file = folder / "annotations" / f"{part}.json"
    entries = [{key: value for key, value in entry.items() if key != "size_declared"} for entry in document["images"]]
    document = {**document, "info": {**_info(document), "image_folder": images}, "images": entries}
    write_json(file, document, indent=None)
    return file


def _info(document):
    info = document.get("info")
    return info if isinstance(info, dict) else {}


def _with_pictures(folder, part, document, coco):
    """The document with the pictures of a data set as files, their bytes as they are."""
    path_of = {entry["image_id"]: entry["path"] for entry in coco.images}
    images, place = [], folder / part
    if place.is_symlink():  # of another repair, to the pictures of somebody's data set
        place.unlink()
    with committed(place) as staging:
        for number, entry in enumerate(document["images"], start=1):
            source = stored_source(path_of[entry["id"]])
            content = source if isinstance(source, bytes) else regular_file(source).read_bytes()
            name = f"{number:06d}{_SIGNATURES.get(content[:2], '.png')}"
            (staging / name).write_bytes(content)
            images.append({**entry, "file_name": name})
    return {**document, "images": images}
