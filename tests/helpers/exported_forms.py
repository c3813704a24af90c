"""The pictures and boxes of data_forms.py as annotation tools export them: their files, key by key."""

import json
from xml.sax.saxutils import escape, quoteattr

from helpers.data_forms import BOXES, NAMES, SIZES, picture


def save_picture(folder, name, file=None):
    folder.mkdir(parents=True, exist_ok=True)
    picture(name).save(folder / (file or f"{name}.png"))


def coco_document(file_name="{}.png", **info):
    rows, images = [], []
    for number, (name, boxes) in enumerate(BOXES.items(), start=1):
        width, height = SIZES[name]
        image = {"id": number, "license": 1, "file_name": file_name.format(name), "height": height, "width": width}
        images.append({**image, "date_captured": "2024-05-02T08:31:10+00:00"})
        for label, (x, y, w, h) in boxes:
            row = {"id": len(rows), "image_id": number, "category_id": label + 1, "bbox": [x, y, w, h]}
            rows.append({**row, "area": w * h, "segmentation": [], "iscrowd": 0})
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(NAMES, start=1)]
    return {"info": {"year": "2024", **info}, "licenses": [], "categories": categories, "images": images} | {
        "annotations": rows
    }


def write_roboflow_coco(folder, parts=("train", "valid", "test")):
    """Roboflow: images beside the file, and the project as a category above all others."""
    document = coco_document("{}_png.rf.0a1b2c.png", description="Exported from roboflow.com")
    document["categories"] = [{"id": 0, "name": "desserts", "supercategory": "none"}] + [
        {**row, "supercategory": "desserts"} for row in document["categories"]
    ]
    for part in parts:
        for name in BOXES:
            save_picture(folder / part, name, f"{name}_png.rf.0a1b2c.png")
        (folder / part / "_annotations.coco.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def write_coco_layout(folder, year=2017, parts=("train", "val")):
    """cocodataset.org: annotations/instances_train2017.json, train2017/, captions beside them."""
    (folder / "annotations").mkdir(parents=True)
    for part in parts:
        document = coco_document()
        (folder / "annotations" / f"instances_{part}{year}.json").write_text(json.dumps(document))
        captions = {"images": document["images"], "annotations": [{"id": 1, "image_id": 1, "caption": "a cake"}]}
        (folder / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(captions))
        for name in BOXES:
            save_picture(folder / f"{part}{year}", name)
    return folder


def write_cvat_coco(folder, images="images/default"):
    """CVAT's "COCO 1.0"."""
    (folder / "annotations").mkdir(parents=True)
    document = json.dumps(coco_document(contributor="", version="", url=""))
    (folder / "annotations" / "instances_default.json").write_text(document)
    for name in BOXES:
        save_picture(folder / images, name)
    return folder


def cvat_xml(subset=None, boxes=None, shapes=""):
    """CVAT for images 1.1. `shapes`: more of them on the first image."""
    labels = "".join(
        f"        <label>\n          <name>{escape(name)}</name>\n          <color>#c06060</color>\n"
        "          <type>any</type>\n          <attributes>\n          </attributes>\n        </label>\n"
        for name in NAMES
    )
    images = ""
    for number, (name, rows) in enumerate((boxes or BOXES).items()):
        width, height = SIZES[name]
        of_subset = "" if subset is None else f' subset="{subset}" task_id="7"'
        images += f'  <image id="{number}" name="{name}.png"{of_subset} width="{width}" height="{height}">\n'
        for label, (x, y, w, h) in rows:
            images += (
                f'    <box label={quoteattr(NAMES[label])} source="manual" occluded="0" xtl="{x:.2f}" ytl="{y:.2f}" '
                f'xbr="{x + w:.2f}" ybr="{y + h:.2f}" z_order="0">\n    </box>\n'
            )
        images += (shapes if number == 0 else "") + "  </image>\n"
    kind = "task" if subset is None else "project"
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <{kind}>\n'
        f"      <id>7</id>\n      <name>desserts</name>\n      <size>3</size>\n      <mode>annotation</mode>\n"
        f"      <labels>\n{labels}      </labels>\n    </{kind}>\n    <dumped>2024-05-02 08:31:10.1+00:00</dumped>\n"
        f"  </meta>\n{images}</annotations>\n"
    )


def write_cvat(folder, images="images", **more):
    for name in BOXES:
        save_picture(folder / images, name)
    (folder / "annotations.xml").write_text(cvat_xml(**more), encoding="utf-8")
    return folder


def region(name, label, box, kind="rectanglelabels", **value):
    """A region of Label Studio, in percent."""
    (width, height), (x, y, w, h) = SIZES[name], box
    place = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height}
    value = {**place, "rotation": 0, kind: [NAMES[label]], **value}
    return {
        "original_width": width, "original_height": height, "image_rotation": 0, "value": value, "id": "k8Jd3",
        "from_name": "label", "to_name": "image", "type": kind, "origin": "manual",
    }  # fmt: skip


def label_studio_tasks(reference="/data/upload/1/{}.png"):
    tasks = []
    for number, (name, boxes) in enumerate(BOXES.items(), start=101):
        result = [{**region(name, label, box), "id": f"r{place}"} for place, (label, box) in enumerate(boxes)]
        annotation = {
            "id": number, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False,
            "created_at": "2024-05-02T08:31:10.123456Z", "updated_at": "2024-05-02T08:31:10.123456Z", "lead_time": 7.5,
            "prediction": {}, "result_count": len(result), "task": number, "project": 1, "parent_prediction": None,
        }  # fmt: skip
        tasks.append(
            {
                "id": number, "annotations": [annotation], "file_upload": f"{name}.png", "drafts": [],
                "predictions": [], "data": {"image": reference.format(name)}, "meta": {}, "inner_id": number - 100,
                "created_at": "2024-05-02T08:30:00.000000Z", "updated_at": "2024-05-02T08:31:10.200000Z",
                "total_annotations": 1, "cancelled_annotations": 0, "project": 1, "updated_by": 1,
            }
        )  # fmt: skip
    return tasks


def label_studio_min(tasks):
    """The same tasks as JSON-MIN."""
    rows = []
    for task in tasks:
        (annotation,) = task["annotations"]
        sizes = ("original_width", "original_height")
        label = [entry["value"] | {key: entry[key] for key in sizes} for entry in annotation["result"]]
        rows.append(
            {"image": task["data"]["image"], "id": task["id"], **({"label": label} if label else {})}
            | {"annotator": 1, "annotation_id": annotation["id"], "created_at": annotation["created_at"]}
        )
    return rows


def write_label_studio(folder, tasks=None, saved="{}.png"):
    for name in BOXES:
        save_picture(folder / "images", name, saved.format(name))
    document = json.dumps(label_studio_tasks() if tasks is None else tasks, ensure_ascii=False)
    (folder / "project-1-at-2024-05-02-08-31-0a1b2c3d.json").write_text(document, encoding="utf-8")
    return folder


def voc_xml(name, file_name=None, start=1, boxes=None, size=None):
    """Pascal VOC's own form: pixels from 1, the last one included. `start` 0: as other tools count."""
    width, height = size or SIZES[name]
    objects = "".join(
        f"\t<object>\n\t\t<name>{escape(NAMES[label])}</name>\n\t\t<pose>Unspecified</pose>\n"
        "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{x + start}</xmin>\n\t\t\t<ymin>{y + start}</ymin>\n\t\t\t<xmax>{x + w}</xmax>\n"
        f"\t\t\t<ymax>{y + h}</ymax>\n\t\t</bndbox>\n\t\t<part>\n\t\t\t<name>head</name>\n\t\t\t<bndbox>\n"
        "\t\t\t\t<xmin>1</xmin>\n\t\t\t</bndbox>\n\t\t</part>\n\t</object>\n"
        for label, (x, y, w, h) in (BOXES[name] if boxes is None else boxes)
    )
    return (
        f"<annotation>\n\t<folder>VOC2007</folder>\n\t<filename>{escape(file_name or f'{name}.png')}</filename>\n"
        "\t<source>\n\t\t<database>The VOC2007 Database</database>\n\t</source>\n\t<size>\n"
        f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def write_voc(folder, annotations="Annotations", images="JPEGImages", **more):
    (folder / annotations).mkdir(parents=True, exist_ok=True)
    for name in BOXES:
        save_picture(folder / images, name)
        (folder / annotations / f"{name}.xml").write_text(voc_xml(name, **more), encoding="utf-8")
    return folder


def labelme_document(name, image_path=None, shapes=None):
    rows = [
        {"label": NAMES[label], "points": [[x + w, y], [x, y + h]], "group_id": None, "description": ""}
        | {"shape_type": "rectangle", "flags": {}, "mask": None}
        for label, (x, y, w, h) in BOXES[name]
    ]
    return {
        "version": "5.4.1", "flags": {}, "shapes": rows if shapes is None else shapes,
        "imagePath": image_path or f"{name}.png", "imageData": None,
        "imageHeight": SIZES[name][1], "imageWidth": SIZES[name][0],
    }  # fmt: skip


def write_labelme(folder, part=""):
    for name in BOXES:
        save_picture(folder / part, name)
        text = json.dumps(labelme_document(name), ensure_ascii=False, indent=2)
        (folder / part / f"{name}.json").write_text(text, encoding="utf-8")
    return folder
