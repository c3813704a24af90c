"""What one entry, one file or one part of an export does not tell: turned boxes, whose picture or part, where pixels
begin."""

import json

import pytest
from helpers.data_forms import NAMES
from helpers.exported_forms import (
    label_studio_min,
    label_studio_tasks,
    region,
    save_picture,
    voc_xml,
    write_cvat,
    write_cvat_coco,
    write_label_studio,
    write_voc,
)

from decodetr.annotations.findings import Findings
from decodetr.annotations.left_over import NO_PICTURE
from decodetr.annotations.sources import load_annotations, part_names
from decodetr.cli import main


def _boxes(coco):
    """{name: boxes as corners} of the first image."""
    image_id, found = coco.images[0]["image_id"], {}
    index = coco.annotations_by_image
    for label, box in zip(index.arrays(image_id)["category"], index.corners(image_id)):
        found.setdefault(coco.names[label], []).append([round(value, 3) for value in box.tolist()])
    return found


def test_turned_boxes_of_cvat_are_the_same_in_all_of_its_forms(tmp_path, caplog):
    """A box of 20 x 10 at 30, 20 by a quarter turn, and one by 30 degrees: the attribute, and `bbox` before it."""
    boxes, degrees = [(0, [30, 20, 20, 10]), (1, [60, 25, 20, 10])], (90.0, -30.0)
    half = 5 * 3**0.5 + 2.5, 5 + 2.5 * 3**0.5
    expected = {
        NAMES[0]: [[35, 15, 45, 35]],
        NAMES[1]: [[round(v, 3) for v in (70 - half[0], 30 - half[1], 70 + half[0], 30 + half[1])]],
    }
    file = write_cvat(tmp_path / "xml", boxes={"a": boxes, "b": [], "c": []}) / "annotations.xml"
    text = file.read_text(encoding="utf-8")
    for number in degrees:
        text = text.replace('z_order="0">', f'rotation="{number}" z_order="0" >', 1)
    file.write_text(text, encoding="utf-8")
    file = write_voc(tmp_path / "voc", start=0) / "Annotations" / "a.xml"
    text = voc_xml("a", boxes=boxes, start=0)
    for number in degrees:
        attributes = f"<attribute><name>rotation</name><value>{number}</value></attribute>"
        attributes = f"<attribute><name>color</name><value>red</value></attribute>{attributes}"
        text = text.replace("</object>", f"<attributes>{attributes}</attributes></object >", 1)
    file.write_text(text, encoding="utf-8")
    file = write_cvat_coco(tmp_path / "coco") / "annotations" / "instances_default.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["annotations"] = [
        {"id": place, "image_id": 1, "category_id": label + 1, "bbox": box, "area": 200.0, "segmentation": []}
        | {"iscrowd": 0, "attributes": {"occluded": False, "rotation": degrees[place]}}
        for place, (label, box) in enumerate(boxes)
    ]
    file.write_text(json.dumps(document), encoding="utf-8")
    for form in ("xml", "voc", "coco"):
        assert _boxes(load_annotations(tmp_path / form, "train")) == expected, form
    assert (
        "2 boxes that are turned (the box around it), the first: annotations[0]: [30, 20, 20, 10] by 90" in caplog.text
    )
    assert load_annotations(tmp_path / "coco", "train").annotations_by_image.column("area").tolist() == [200, 200]
    assert main(["validate", str(tmp_path / "coco"), "--repair", str(tmp_path / "repaired")]) == 0
    repaired = load_annotations(tmp_path / "repaired", "train")  # is not turned once more
    assert _boxes(repaired) == expected and repaired.annotations_by_image.column("area").tolist() == [200, 200]
    document["annotations"][0]["segmentation"] = [[31, 21, 52, 22, 40, 33]]  # a polygon in a group with the box
    file.write_text(json.dumps(document), encoding="utf-8")
    assert _boxes(load_annotations(tmp_path / "coco", "train"))[NAMES[0]] == [[31, 21, 52, 33]]


def test_two_entries_of_one_picture_are_not_guessed(tmp_path, capsys):
    """Tasks of CVAT, or uploads of Label Studio, whose pictures had one name: only one of them is in the folder."""
    file = write_cvat(tmp_path / "cvat") / "annotations.xml"
    file.write_text(file.read_text(encoding="utf-8").replace('name="b.png"', 'name="a.png"'), encoding="utf-8")
    tasks = label_studio_tasks()
    for place, task in enumerate(tasks[:2]):
        task["data"] = {"image": f"/data/upload/1/{place}aaaaaaa-a.png"}
    write_label_studio(tmp_path / "studio", tasks)
    for folder in ("cvat", "studio"):
        with pytest.raises(ValueError, match=r"expected a picture of its own, got .*a\.png, which 2 entries are of"):
            load_annotations(tmp_path / folder, "train")
        assert main(["validate", str(tmp_path / folder), "--parts", "train"]) == 1
        assert "entries that are of one picture | 2 |" in capsys.readouterr().out
    for place in (0, 1):  # the uploads as they are on the server
        save_picture(tmp_path / "studio", "a", f"{place}aaaaaaa-a.png")
    assert len(load_annotations(tmp_path / "studio", "train")) == 3


def test_all_parts_of_pascal_voc_tell_where_its_pixels_begin(tmp_path, caplog):
    """A part alone may have no box at the edge, and be read in another way than the others."""
    listed, folders = tmp_path / "listed", tmp_path / "folders"
    write_voc(listed, start=0)
    (listed / "ImageSets" / "Main").mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "b")):
        (listed / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{name}\n{name}\n")
        write_voc(folders, f"Annotations/{part}", f"JPEGImages/{part}", start=0)
        for other in set("abc") - {name}:
            (folders / "Annotations" / part / f"{other}.xml").unlink()
    for folder in (listed, folders):
        caplog.clear()
        val = load_annotations(folder, "val")
        assert len(val) == 1 and _boxes(val) == {NAMES[0]: [[5, 10, 25, 40]]}
        assert "read as counted from 0, not from 1 as Pascal VOC's own: of 3 boxes 1 begin below 1" in caplog.text


def _pair(*tags, **data):
    """A task of the pictures a and b, with a region on each, whose tags are called so."""
    task = label_studio_tasks()[0]
    regions = [region("a", 0, [1, 2, 30, 40]), region("b", 1, [5, 6, 7, 8])]
    regions = [{**one, "id": str(n), "to_name": tag} for n, (one, tag) in enumerate(zip(regions, tags))]
    task["annotations"][0]["result"] = regions
    return {**task, "data": data or {"image1": "/data/upload/1/a.png", "image2": "/data/upload/1/b.png"}}


def _read(coco):
    return {
        image["file_name"]: (image["width"], [[round(side, 3) for side in row["bbox"]] for row in rows])
        for image, rows in zip(coco.images, coco.annotations_by_image.values())
    }


def test_a_task_of_several_images_whose_regions_say_which(tmp_path):
    expected = {"images/a.png": (96, [[1, 2, 30, 40]]), "images/b.png": (40, [[5, 6, 7, 8]])}
    assert (
        _read(load_annotations(write_label_studio(tmp_path / "keys", [_pair("image1", "image2")]), "train"))
        == expected
    )
    pages = _pair("img", "img", pages=["/data/upload/1/a.png", "/data/upload/1/b.png", "/data/upload/1/c.png"])
    for page, one in enumerate(pages["annotations"][0]["result"]):
        one["item_index"] = page
    coco = load_annotations(write_label_studio(tmp_path / "pages", [pages]), "train")
    assert _read(coco) == expected | {"images/c.png": (64, [])}
    empty = _pair("image1", "image2", image1="c.png")  # a task with one picture alone
    empty["annotations"][0]["result"] = []
    coco = load_annotations(write_label_studio(tmp_path / "less", [_pair("image1", "image2"), empty]), "train")
    assert _read(coco) == expected | {"images/c.png": (64, [])}


def test_a_task_of_several_images_is_refused_where_nothing_says_which(tmp_path, capsys):
    pages = _pair("img", "img", pages=["a.png", "b.png"])
    other = _pair("img1", image1="a.png")
    both = _pair("img1", "img2")
    row = {**label_studio_min([{**both, "data": {"image": ""}}])[0], **both["data"]}
    del row["image"]
    row |= {"label1": row["label"][:1], "label2": row.pop("label")[1:]}
    for number, tasks in enumerate(([both, other], [pages, other], [row])):
        folder = write_label_studio(tmp_path / str(number), tasks)
        with pytest.raises(ValueError, match=r"\[0\] \(id 101\): expected regions that say which picture they are on"):
            load_annotations(folder, "train")
        assert main(["validate", str(folder)]) == 1
        assert "| error | tasks of several images | 1 |" in capsys.readouterr().out
    findings = Findings()
    assert [image["file_name"] for image in load_annotations(tmp_path / "0", "train", findings=findings).images] == [
        "images/a.png"
    ]


def test_other_places_in_a_task_of_one_image_change_nothing(tmp_path):
    """A thumbnail, the address where it came from, a picture that the project shows too."""
    away = {"thumb": "http://host/thumb.png", "photograph": "a.png", "page": "http://host/a.html"}
    for number, data in enumerate((away, {"thumb": "c.png", "image": "a.png"})):
        task = _pair("img", "img", **data)
        task["annotations"][0]["result"].pop()
        for form, tasks in (
            ("json", [task]),
            ("min", [{**label_studio_min([{**task, "data": {"image": ""}}])[0], **data}]),
        ):
            if not tasks[0].get("image", "a"):
                del tasks[0]["image"]
            coco = load_annotations(write_label_studio(tmp_path / f"{number}{form}", tasks), "train")
            assert _read(coco) == {"images/a.png": (96, [[1, 2, 30, 40]])}, (number, form)


def test_images_of_a_cvat_project_that_are_in_no_part_are_said(tmp_path, capsys, caplog):
    file = write_cvat(tmp_path, subset="Train") / "annotations.xml"
    text = file.read_text(encoding="utf-8").replace('b.png" subset="Train"', 'b.png" subset="A&amp;B"')
    file.write_text(text.replace('c.png" subset="Train"', 'c.png"'), encoding="utf-8")
    coco = load_annotations(tmp_path, "train")
    assert [image["file_name"] for image in coco.images] == ["images/a.png"]
    assert "2 images that are in no part: subsets A&B, (none) (not used" in caplog.text
    assert part_names(tmp_path, ["train"]) == ["A&B", "(none)"] and coco.left_over[NO_PICTURE] == []
    assert main(["validate", str(tmp_path)]) == 0
    assert "| warning | images that are in no part: subsets A&B, (none) | 2 |" in capsys.readouterr().out
    file.write_text(text.replace('"Train"', "'rest'"), encoding="utf-8")  # none is called as a part: all are one
    caplog.clear()
    assert len(load_annotations(tmp_path, "train")) == 3 and "in no part" not in caplog.text


def test_exports_beside_those_of_parts_are_said(tmp_path, caplog):
    file = next(write_label_studio(tmp_path).glob("*.json"))
    file.rename(tmp_path / "train.json")
    (tmp_path / "more.json").write_text((tmp_path / "train.json").read_text(encoding="utf-8"), encoding="utf-8")
    load_annotations(tmp_path, "train")
    assert "exports that are in no part, not read: more.json" in caplog.text
