"""`decodetr eval prepare`: the annotation files of a protocol, from the official ones (paper 6).

What is written is a folder like any other of the project: annotations/train.json with base names only, annotations/
val.json with the images that count, names.json with the split. Images stay where they are.
"""

import sys
from functools import partial
from pathlib import Path

from decodetr.evaluation.protocols import Protocol
from decodetr.utils.files import claim, committed, output_folder, write_json
from decodetr.utils.outputs import apart
from decodetr.utils.paths import link_pictures
from decodetr.utils.preflight import run_checks
from decodetr.utils.shipped import expect_file

PREPARED = ("ov-coco", "ov-lvis")
_FILES = {
    "ov-coco": {"train": "instances_train2017.json", "val": "instances_val2017.json"},
    "ov-lvis": {"train": "lvis_v1_train.json", "val": "lvis_v1_val.json"},
}


def prepare(name, output, coco, annotations=None, any_counts=False):
    """Write the files of a protocol.

    Args:
        name (str): one of PREPARED.
        output (Path): a folder, made if missing; files that are there are replaced.
        coco (Path): COCO's folder, with train2017/, val2017/ and annotations/.
        annotations (Path, optional): where the official files lie; default: COCO's annotations/.
        any_counts (bool): write a part of the published set too.

    Returns:
        dict: "train" and "val": {"images", "annotations", "names"} that were written.

    Raises:
        FileNotFoundError: an official file or image folder is missing.
        ValueError: not the official file: names, ids or counts differ.
    """
    from decodetr.annotations.coco import CocoAnnotations

    protocol, coco, output = Protocol.load(name), Path(coco), Path(output)
    folder, files = Path(annotations or coco / "annotations"), _FILES[name]
    image_folders = {"train": coco / "train2017", "val": coco / "val2017"} if name == "ov-coco" else {}
    for path in image_folders.values() or (coco,):
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; --coco takes the one with train2017 and val2017")
    official = CocoAnnotations.load(folder / files["val"], check_images=False)
    _check_ids(protocol, official)
    train = CocoAnnotations.load(folder / files["train"], check_images=False)
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
    parts = {
        "val": {"names": {*split["base"], *split["novel"]}, "images": {image["image_id"] for image in chosen.images}},
        "train": {"names": set(split["base"]), "images": None},
    }
    written = {}
    with committed(output) as staging:
        for part, kept in parts.items():
            source, target = folder / files[part], Path("annotations") / f"{part}.json"
            sys.stderr.write(f"{source} -> {output / target}\n")
            images = link_pictures(output, part, image_folders.get(part, coco))
            document = _filter(source, {ids[n] for n in kept["names"]}, kept["images"], protocol.images == "annotated")
            document["info"] = {**(document.get("info") or {}), "image_folder": images, "protocol": name, "part": part}
            write_json(staging / target, document, indent=None)
            written[part] = {key: len(document[key]) for key in ("images", "annotations", "categories")}
        names = {group: {str(ids[name]): name for name in split[group]} for group in ("base", "novel")}
        write_json(staging / "names.json", names, indent=None)
    return written


def _check_ids(protocol, coco):
    """The file's ids must be those of the protocol: a file numbered anew is not the official one."""
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
    from decodetr.annotations.coco_checks import read_document

    document = read_document(file)
    rows = [row for row in document["annotations"] if row["category_id"] in category_ids]
    if image_ids is None and only_annotated:
        image_ids = {row["image_id"] for row in rows}
    if image_ids is not None:
        document["images"] = [image for image in document["images"] if image["id"] in image_ids]
        rows = [row for row in rows if row["image_id"] in image_ids]
    for image in document["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                image[key] = [number for number in image[key] if number in category_ids]
    document["annotations"] = rows
    document["categories"] = [entry for entry in document["categories"] if entry["id"] in category_ids]
    return document


def add_arguments(parser):
    """Arguments of `decodetr eval prepare`."""
    parser.add_argument("protocol", choices=PREPARED)
    parser.add_argument("--coco", required=True, metavar="DIR", help="folder with train2017, val2017, annotations")
    parser.add_argument(
        "--official",
        metavar="DIR",
        help="folder of the official annotation files (default: DIR/annotations of --coco)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for annotations/ and names.json")
    parser.add_argument("--any-counts", action="store_true", help="also if it is only a part of the published set")


def run(args):
    """Run `decodetr eval prepare`; returns the exit status."""
    coco, files = Path(args.coco), _FILES[args.protocol].values()
    official = Path(args.official or coco / "annotations")
    option = "--official" if args.official else "--coco"
    run_checks(
        lambda: output_folder(args.output, "--output"),
        lambda: apart("--output", args.output, {"--coco": args.coco, "--official": args.official}),
        *(partial(expect_file, option, official / file) for file in files),
    )
    with claim(args.output, "decodetr eval prepare"):
        written = prepare(args.protocol, args.output, args.coco, args.official, args.any_counts)
    for part, counts in written.items():
        words = (f"{count:,} {'names' if key == 'categories' else key}" for key, count in counts.items())
        sys.stdout.write(f"{part}: {', '.join(words)}\n")
    return 0
