"""Ten pictures with base and novel names, as a COCO-format folder."""

import json

import numpy as np
from PIL import Image

BASE, NOVEL = ["cat", "dog"], ["cup", "yak"]
WHOLE = [*BASE, *NOVEL]


def write_data(folder, novel="present"):
    """Ten coloured images of 80 x 60 with a cat and a dog each; cups and yaks are "present", "absent" (annotations and
    categories) or "scrambled" (boxes, names, category ids and order)."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    ids = {"cat": 1, "cup": 2, "dog": 3, "yak": 4} if novel == "present" else {"yak": 1, "cat": 5, "dog": 7, "cup": 9}
    images, annotations = [], []
    for i in range(10):
        file = f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((80, 60), 0).save(
            folder / "train" / file
        )
        images.append({"id": 10 + i, "file_name": file, "width": 80, "height": 60})
        corner = rng.integers(0, 20, (4, 2)).tolist()
        for n, (name, (x, y)) in enumerate(zip(BASE + NOVEL, corner)):
            box = [x + 10 * n, y, 20 + n, 25 - n]
            if name in NOVEL and novel == "scrambled":
                name, box = NOVEL[i % 2], [i * 3, 2, 11 + 5 * n, 40]
            annotations.append(
                {"id": 10 * i + n, "image_id": 10 + i, "category_id": ids[name], "bbox": box, "iscrowd": 0}
            )
    used = BASE if novel == "absent" else BASE + NOVEL
    annotations = [entry for entry in annotations if entry["category_id"] in [ids[name] for name in used]]
    if novel == "scrambled":  # novel ones first
        annotations.sort(key=lambda entry: entry["category_id"] in [ids[name] for name in BASE])
    categories = [{"id": ids[name], "name": name} for name in used]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "train.json").write_text(json.dumps(data))
    split = {"base": dict(enumerate(BASE)), "novel": dict(enumerate(NOVEL, 2))}
    (folder / "names.json").write_text(json.dumps(split))
    return folder
