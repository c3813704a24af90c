"""A COCO-format folder with blank pictures, and `decodetr eval` on the CPU."""

import json

from PIL import Image

from decodetr import eval as decodetr_eval

ROWS = {5: [("cat", [8, 8, 40, 40]), ("dog", [50, 20, 90, 60])], 6: [], 8: [("dog", [0, 0, 96, 64])]}


def write_coco(folder, names, rows_by_image, size=(96, 64)):
    """A COCO-format folder with blank pictures; rows are (name, xyxy). Returns the annotation file."""
    annotations = []
    for image_id, rows in rows_by_image.items():
        for name, (x0, y0, x1, y1) in rows:
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 10 * names.index(name) + 3}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (folder / "val").mkdir(parents=True)
    images = []
    for image_id in rows_by_image:
        Image.new("RGB", size, (90, 120, 90)).save(folder / "val" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": size[0], "height": size[1]})
    categories = [{"id": 10 * i + 3, "name": name} for i, name in enumerate(names)]
    file = folder / "annotations" / "val.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def run_eval(*words):
    """`decodetr eval` on the CPU."""
    return decodetr_eval.main([*map(str, words), "--device", "cpu"])
