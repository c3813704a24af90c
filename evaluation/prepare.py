"""Write the annotation files of a protocol from the official ones (paper 6).

What is written is a folder like any other of the project: annotations/train.json with base names only, annotations/
val.json with the images that count, names.json with the split. Images stay where they are.
"""

import sys
from pathlib import Path

from decodetr.annotations.coco import CocoAnnotations
from decodetr.annotations.coco_checks import read_document
from decodetr.annotations.federated_lists import LISTS
from decodetr.evaluation.protocols import Protocol
from decodetr.utils.files import committed, write_json
from decodetr.utils.paths import link_pictures

_FILES = {
    "ov-coco": {"train": "instances_train2017.json", "val": "instances_val2017.json"},
    "ov-lvis": {"train": "lvis_v1_train.json", "val": "lvis_v1_val.json"},
}


def prepare(
    name: str,
    output: str | Path,
    coco: str | Path,
    annotations: str | Path | None = None,
    any_counts: bool = False,
) -> dict[str, dict[str, int]]:
    """Write the files of a protocol.

    Args:
        name: one of PREPARED.
        output: a folder, made if missing. Files that are there are replaced.
        coco: COCO's folder, with train2017/, val2017/ and annotations/.
        annotations: where the official files lie. Default: COCO's annotations/.
        any_counts: write a part of the published set too.

    Returns:
        "train" and "val": how many "images", "annotations" and "categories" were written.

    Raises:
        FileNotFoundError: an official file or image folder is missing.
        ValueError: not the official file: names, ids or counts differ.
    """
    protocol, coco, output = Protocol.load(name), Path(coco), Path(output)
    files = official_files(name, coco, annotations)
    image_folders = {"train": coco / "train2017", "val": coco / "val2017"} if name == "ov-coco" else {}
    for path in image_folders.values() or (coco,):
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; --coco takes the one with train2017 and val2017")
    official = CocoAnnotations.load(files["val"], check_images=False)
    _check_ids(protocol, official)
    train = CocoAnnotations.load(files["train"], check_images=False)
    if (train.names, train.category_ids) != (official.names, official.category_ids):
        raise ValueError(f"{train.file}: its categories are not those of {official.file}; take the official files")
    split = protocol.split(official)
    chosen = protocol.select_images(official)
    differences = protocol.differences(chosen)
    if differences and not any_counts:
        raise ValueError(
            f"{official.file}: not the set that {name} is measured on: {', '.join(differences)}; take the official "
            "file, or give --any-counts to write it all the same (reports will say so)"
        )
    ids = dict(zip(official.names, official.category_ids))
    parts = {  # names and images
        "val": ({*split["base"], *split["novel"]}, {image["image_id"] for image in chosen.images}),
        "train": (set(split["base"]), None),
    }
    written = {}
    with committed(output) as staging:
        for part, (kept, image_ids) in parts.items():
            source, target = files[part], Path("annotations") / f"{part}.json"
            sys.stderr.write(f"{source} -> {output / target}\n")
            images = link_pictures(output, part, image_folders.get(part, coco))
            document = _filter(source, {ids[n] for n in kept}, image_ids, protocol.images == "annotated")
            document["info"] = {**(document.get("info") or {}), "image_folder": images, "protocol": name, "part": part}
            write_json(staging / target, document, indent=None)
            written[part] = {key: len(document[key]) for key in ("images", "annotations", "categories")}
        names = {group: {str(ids[name]): name for name in split[group]} for group in ("base", "novel")}
        write_json(staging / "names.json", names, indent=None)
    return written


def official_files(name: str, coco: str | Path, annotations: str | Path | None = None) -> dict[str, Path]:
    """The official annotation file of "train" and of "val". Arguments: as of [`prepare`]."""
    folder = Path(annotations or Path(coco) / "annotations")
    return {part: folder / file for part, file in _FILES[name].items()}


def _check_ids(protocol, coco):
    """The file's ids must be those of the protocol: a file with new numbers is not the official one."""
    ids = {str(number): name for number, name in zip(coco.category_ids, coco.names)}
    wrong = [
        (number, name)
        for number, name in {**(protocol.base or {}), **(protocol.novel or {})}.items()
        if ids.get(number) != name
    ]
    if wrong:
        number, name = wrong[0]
        raise ValueError(
            f"{coco.file}: expected category {number} to be {name!r}, got {ids.get(number)!r} ({len(wrong)} such "
            "categories); take the official file"
        )


def _filter(file, category_ids, image_ids, only_annotated):
    """The official document with these categories and images (None: all, or all annotated ones) only."""
    document = read_document(file)
    rows = [row for row in document["annotations"] if row["category_id"] in category_ids]
    if image_ids is None and only_annotated:
        image_ids = {row["image_id"] for row in rows}
    if image_ids is not None:
        document["images"] = [image for image in document["images"] if image["id"] in image_ids]
        rows = [row for row in rows if row["image_id"] in image_ids]
    for image in document["images"]:
        for key in LISTS:
            if key in image:
                image[key] = [number for number in image[key] if number in category_ids]
    document["annotations"] = rows
    document["categories"] = [entry for entry in document["categories"] if entry["id"] in category_ids]
    return document
