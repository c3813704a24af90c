"""Broken data sets, one mistake each, and a table of what `decodetr validate` and `decodetr train` make of them.

python tests/helpers/broken_data.py
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask

NAMES = ["crème brûlée", "salt, pepper", "cat"]


def good():
    """A COCO document of six pictures of 96 x 64, two objects on each but the last."""
    rows = [
        {"id": 2 * image + n + 1, "image_id": image + 1, "category_id": (image + n) % 3 + 1, "iscrowd": 0}
        | {"bbox": [10.0 + 30 * n, 8.0, 40.0, 50.0], "area": 2000.0}
        for image in range(5)
        for n in range(2)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 96, "height": 64} for i in range(1, 7)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    return {"images": images, "annotations": rows, "categories": categories}


def write(folder, document):
    """A COCO folder with pictures; `document` may be text."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "train").mkdir()
    for i in range(1, 7):
        Image.new("RGB", (96, 64), (40 * i, 90, 120)).save(folder / "train" / f"{i}.png")
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "annotations" / "train.json").write_text(text)
    return folder


def _each(key, **changes):
    def change(document, folder):
        for row in document[key]:
            row.update(copy.deepcopy(changes))

    return change


def _first(key, **changes):
    def change(document, folder):
        document[key][0].update(changes)

    return change


def _shifted(document, folder):
    for row in document["annotations"]:
        row["category_id"] -= 1


def _two_corners(document, folder):
    for row in document["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


def _relative(document, folder):
    for row in document["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x / 96, y / 64, w / 96, h / 64]


def _polygons(document, folder):
    for row in document["annotations"]:
        x, y, w, h = row.pop("bbox")
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _masks(document, folder):
    """Run lengths as lists and as texts, and boxes that are empty or missing."""
    for row in document["annotations"]:
        x, y, w, h = map(int, row["bbox"])
        pixels = np.zeros((64, 96), np.uint8, order="F")
        pixels[y : y + h, x : x + w] = 1
        row["segmentation"] = {"size": [64, 96], "counts": mask.encode(pixels)["counts"].decode()}
        if row["id"] % 2:
            runs = np.flatnonzero(np.diff(pixels.reshape(-1, order="F"), prepend=0, append=2))
            row["segmentation"]["counts"] = np.diff(runs, prepend=0).tolist()
            row["bbox"] = []
        else:
            del row["bbox"]


def _turned(document, folder):
    for image in document["images"]:
        image["width"], image["height"] = 64, 96


def _relative_centres(document, folder):
    _relative(document, folder)
    for row in document["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x + w / 2, y + h / 2, w, h]


def _text_ids(document, folder):
    for image in document["images"]:
        image["id"] = f"img {image['id']}"
    for row in document["annotations"]:
        row["image_id"] = f"img {row['image_id']}"


def _windows(document, folder):
    for image in document["images"]:
        image["file_name"] = "C:\\data\\train\\" + image["file_name"].upper()


def _root(document, folder):
    document["categories"].insert(0, {"id": 0, "name": "things-3", "supercategory": "none"})
    for entry in document["categories"][1:]:
        entry["supercategory"] = "things-3"


def _numbers_as_names(document, folder):
    for entry in document["categories"]:
        entry["name"] = entry["id"]


def _twice(key):
    return lambda document, folder: document[key].append(copy.deepcopy(document[key][0]))


def _missing_picture(document, folder):
    (folder / "train" / "1.png").unlink()


def _cut_picture(document, folder):
    file = folder / "train" / "1.png"
    file.write_bytes(file.read_bytes()[:60])


def _only(count):
    def change(document, folder):
        document["images"] = document["images"][:count]
        document["annotations"] = [row for row in document["annotations"] if row["image_id"] <= count]

    return change


def _clear(*keys):
    def change(document, folder):
        for key in keys:
            document[key] = []

    return change


# mistake: (what is changed, what `validate` must say, whether it is an error, whether training stops on it)
BROKEN = {
    "nothing is wrong": (lambda document, folder: None, "No problem was found", False, False),
    "category ids from 0": (_shifted, "category ids are off by one", True, True),
    "category id that is not there": (
        _first("annotations", category_id=9),
        "categories that are not in the file",
        True,
        True,
    ),
    "image id that is not there": (_first("annotations", image_id=99), "images that are not in the file", True, True),
    "boxes as two corners": (_two_corners, "boxes seem to be two corners", True, False),
    "boxes in 0..1": (_relative, "relative, not pixels", True, False),
    "polygons only": (_polygons, "polygons and no bbox", True, True),
    "masks only": (_masks, "masks and no bbox", True, True),
    "a crowd": (_first("annotations", iscrowd=1), "No problem was found", False, False),
    "iscrowd 2": (_first("annotations", iscrowd=2), "iscrowd that is neither 0 nor 1", True, True),
    "zero area": (_first("annotations", bbox=[10, 10, 0, 20]), "boxes without area", False, False),
    "NaN": (_first("annotations", bbox=[10, float("nan"), 5, 20]), "not four finite numbers", True, True),
    "negative size": (_first("annotations", bbox=[10, 10, -5, 20]), "boxes of negative size", True, True),
    "outside": (_first("annotations", bbox=[200, 10, 5, 20]), "boxes outside of their image", True, False),
    "half outside": (_first("annotations", bbox=[80, 10, 50, 20]), "reach out of their image", False, False),
    "width and height swapped": (_turned, "width and height are swapped", True, True),
    "spaces around a name": (_first("categories", name=" cat "), "names that repeat", True, False),
    "a name twice": (_first("categories", name="cat"), "names that repeat", True, True),
    "absent picture": (_missing_picture, "images that are not there", True, True),
    "picture cut off": (_cut_picture, "images that cannot be read", True, True),
    "an annotation twice": (_twice("annotations"), "annotations that repeat", True, True),
    "an image twice": (_twice("images"), "image ids that repeat", True, True),
    "a category twice": (_twice("categories"), "category ids that repeat", True, True),
    "no image": (_clear("images", "annotations"), "no images at all", True, True),
    "no category": (_clear("categories", "annotations"), "no categories at all", True, True),
    "no annotation": (_clear("annotations"), "no annotations at all", False, False),
    "one image": (_only(1), "pictures that the annotation file does not name", False, False),
    "ids that are lists": (
        _each("annotations", image_id=[1], category_id=[1]),
        "images that are not in the file",
        True,
        True,
    ),
    "ids that are text": (_each("annotations", image_id="1", category_id="1"), "ids and sizes that are", False, False),
    "image ids that are words": (_text_ids, "ids of images that are texts or beyond 64 bits", True, True),
    "an image id beyond 64 bits": (
        _first("images", id=2**70),
        "ids of images that are texts or beyond 64",
        True,
        True,
    ),
    "no sizes": (_each("images", width=None, height=None), "images without width and height", False, False),
    "a size of 400 digits": (_first("images", width=10**400), "images without width and height", True, True),
    "paths of another system": (_windows, "files in another spelling", False, False),
    "a root above the names": (_root, "categories that are no name of objects", False, False),
    "names that are numbers": (_numbers_as_names, "names that are numbers", True, True),
    "a name that is null": (_first("categories", name=None), "categories without integer id or name", True, True),
    "all boxes are zero": (_each("annotations", bbox=[0, 0, 0, 0]), "boxes without area", False, False),
    "centres in 0..1": (_relative_centres, "relative, not pixels", True, False),
    "a truth value in a box": (_first("annotations", bbox=[True, 1, 5, 5]), "not four finite numbers", True, True),
    "a number of 400 digits": (_first("annotations", bbox=[10**400, 1, 5, 5]), "not four finite numbers", True, True),
    "area that is text": (_each("annotations", area="big"), "areas that are no numbers", True, False),
}
WHOLE = {  # the file itself
    "an empty file": ("", "cannot be read as JSON"),
    "100,000 brackets": ("[" * 100_000, "nested more than 100 deep"),
    "a file cut off": (json.dumps(good())[:200], "cannot be read as JSON"),
    "a list": ("[]", "not a JSON object"),
    "captions only": (json.dumps({"images": [], "annotations": "none"}), "no list under 'annotations'"),
}


def make(case, folder):
    """The broken folder of a case."""
    if case in WHOLE:
        return write(folder, WHOLE[case][0])
    document = good()
    write(folder, document)
    BROKEN[case][0](document, folder)
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    return folder


def training_says(folder):
    """What stops a training on the folder before its first step, or None."""
    from decodetr import DeCoDetrImageProcessor
    from decodetr.annotations.sources import load_annotations
    from decodetr.processing import DetectionDataset, detection_collate

    try:
        coco = load_annotations(folder, "train")
        dataset = DetectionDataset(coco, DeCoDetrImageProcessor(size={"height": 64, "width": 64}), coco.names)
        detection_collate([dataset[i] for i in range(len(dataset))])
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def main():
    """Print the table."""
    import contextlib
    import io

    from decodetr.cli import main as decodetr

    rows = ["| data set | validate | exit | training |", "|---|---|---:|---|"]
    for case in (*BROKEN, *WHOLE):
        with tempfile.TemporaryDirectory() as place:
            folder, text = make(case, Path(place) / "data"), io.StringIO()
            with contextlib.redirect_stdout(text):
                status = decodetr(["validate", str(folder), "--names-split", "none"])
            said = [line.split(" | ") for line in text.getvalue().splitlines() if line[:8] in ("| error ", "| warnin")]
            found = "; ".join(f"{line[0][2:]}: {line[1]} ({line[2]})" for line in said) or "nothing"
            stops = (training_says(folder) or "goes on").replace(place, "").replace("|", "\\|")
        rows.append(f"| {case} | {found} | {status} | {stops[:150]} |")
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
