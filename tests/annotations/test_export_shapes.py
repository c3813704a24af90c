"""Shapes, tasks and files of exports: what becomes a box, what is passed over, and what is an error with its place."""

import json
import math

import pytest
from helpers.data_forms import BOXES, NAMES, write_coco
from helpers.exported_forms import (
    coco_document,
    cvat_xml,
    label_studio_min,
    label_studio_tasks,
    labelme_document,
    region,
    save_picture,
    voc_xml,
    write_cvat,
    write_label_studio,
    write_labelme,
    write_roboflow_coco,
    write_voc,
)
from PIL import Image

from decodetr.annotations.exported import NOT_ANNOTATED
from decodetr.annotations.sources import has_part, kind_of, load_annotations, part_names
from decodetr.cli import main


def _boxes(coco, place=0):
    """{name: boxes as corners} of an image."""
    image_id = coco.images[place]["image_id"]
    found = {}
    for label, box in zip(
        coco.annotations_by_image.arrays(image_id)["category"], coco.annotations_by_image.corners(image_id)
    ):
        found.setdefault(coco.names[label], []).append([round(value, 3) for value in box.tolist()])
    return found


def _validate(capsys, folder):
    status = main(["validate", str(folder), "--parts", "train"])
    return status, capsys.readouterr().out


# CVAT


def test_shapes_of_cvat(tmp_path, caplog):
    shapes = (
        '<box label="turned" source="manual" occluded="0" xtl="30" ytl="20" xbr="50" ybr="30" rotation="90.0" '
        'z_order="0"></box><polygon label="area" source="file" occluded="0" points="10.5,20;30,40.25;12,8" '
        'z_order="0"><attribute name="size">1</attribute></polygon><ellipse label="round" cx="40" cy="30" rx="20" '
        'ry="10" rotation="90" z_order="0"></ellipse><mask label="mask" occluded="0" rle="0, 3, 1" left="5" top="6" '
        'width="7" height="8" z_order="0"></mask><points label="dot" points="1,2"></points>'
        '<polyline label="line" points="1,2;3,4"></polyline><tag label="sweet" source="manual"></tag>'
    )
    coco = load_annotations(write_cvat(tmp_path, boxes={"a": [], "b": [], "c": []}, shapes=shapes), "train")
    assert _boxes(coco) == {
        "turned": [[35, 15, 45, 35]],
        "area": [[10.5, 8, 30, 40.25]],
        "round": [[30, 10, 50, 50]],
        "mask": [[5, 6, 12, 14]],
    }
    assert coco.names == [*NAMES, "area", "mask", "round", "turned"]
    assert "2 shapes that are neither boxes nor areas (left out), the first:" in caplog.text
    assert "image 0 ('a.png'), points 4: 'points'" in caplog.text


def test_subsets_of_a_cvat_project(tmp_path):
    write_cvat(tmp_path / "data", images="images/Train", subset="Train")
    assert [part for part in ("train", "val") if has_part(tmp_path / "data", part)] == ["train"]
    file = tmp_path / "data" / "annotations.xml"
    text = file.read_text(encoding="utf-8")
    file.write_text(
        text.replace('b.png" subset="Train"', 'b.png" subset="Validation"').replace(
            'c.png" subset="Train"', 'c.png" subset="rest"'
        ),
        encoding="utf-8",
    )
    (tmp_path / "data" / "images" / "Validation").mkdir()
    (tmp_path / "data" / "images" / "Train" / "b.png").rename(tmp_path / "data" / "images" / "Validation" / "b.png")
    assert part_names(tmp_path / "data", ["train"]) == ["val", "rest"]
    train, val = (load_annotations(tmp_path / "data", part) for part in ("train", "val"))
    assert [image["file_name"] for image in train.images] == ["images/Train/a.png"]
    assert [image["file_name"] for image in val.images] == ["images/Validation/b.png"]
    assert train.names == val.names == NAMES and train.left_over[NOT_ANNOTATED] == []


def test_a_video_of_cvat(tmp_path):
    text = cvat_xml().replace("</annotations>", '<track id="0" label="x"></track></annotations>')
    write_cvat(tmp_path)
    (tmp_path / "annotations.xml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="expected images, got the tracks of a video; export it as 'CVAT for images"):
        load_annotations(tmp_path, "train")


# Label Studio


def _one(*results, **task):
    first = label_studio_tasks()[0]
    first["annotations"] = [{**first["annotations"][0], "result": result} for result in results]
    return [{**first, **task}]


def test_regions_of_label_studio(tmp_path, caplog):
    turned = region("a", 0, [48, 10, 20, 10], rotation=90)
    named_apart = [region("a", 1, [1, 2, 3, 4], "labels"), region("a", 1, [1, 2, 3, 4], "rectangle")]
    del named_apart[1]["value"]["rectangle"]
    polygon = region("a", 1, [0, 0, 0, 0], "polygonlabels", points=[[0, 0], [50, 0], [25, 50]])
    ellipse = region("a", 1, [48, 32, 0, 0], "ellipselabels", radiusX=10, radiusY=25)
    brush = region("a", 1, [0, 0, 0, 0], "brushlabels", format="rle", rle=[0, 1])
    choice = {"value": {"choices": ["good"]}, "id": "q", "type": "choices", "from_name": "c", "to_name": "image"}
    relation = {"from_id": "r0", "to_id": "r1", "type": "relation", "direction": "right"}
    regions = [turned, polygon, ellipse, brush, choice]
    regions = [{**entry, "id": f"r{place}"} for place, entry in enumerate(regions)] + [relation] + named_apart
    coco = load_annotations(write_label_studio(tmp_path, _one(regions)), "train")
    cake, salt = NAMES
    assert _boxes(coco) == {
        cake: [[38, 10, 48, 30]],  # a quarter turn clockwise around the corner at the top left
        salt: [[0, 0, 48, 32], [38.4, 16, 57.6, 48], [1, 2, 4, 6]],
    }
    assert "1 shapes that are neither boxes nor areas" in caplog.text and "result[3]: 'brushlabels'" in caplog.text


def test_annotations_of_a_task(tmp_path, caplog):
    """The ground truth counts, else the newest. Cancelled ones, drafts and predictions do not."""
    results = [[region("a", 0, [place, 0, 10, 10])] for place in range(4)]
    tasks = _one(*results, predictions=[{"result": results[3]}])
    for place, (day, more) in enumerate([("03", {}), ("05", {}), ("07", {"was_cancelled": True}), ("01", {})]):
        tasks[0]["annotations"][place].update({"created_at": f"2024-05-{day}T08:00:00Z", **more})
    folder = write_label_studio(tmp_path / "data", tasks)
    assert _boxes(load_annotations(folder, "train")) == {NAMES[0]: [[1, 0, 11, 10]]}
    assert "1 tasks with several annotations (the ground truth, else the newest)" in caplog.text
    tasks[0]["annotations"][3]["ground_truth"] = True
    folder = write_label_studio(tmp_path / "data", tasks)
    assert _boxes(load_annotations(folder, "train")) == {NAMES[0]: [[3, 0, 13, 10]]}


@pytest.mark.parametrize(
    "reference, saved",
    [
        ("/data/upload/1/7a3a8b1c-{}.png", "7a3a8b1c-{}.png"),
        ("/data/upload/1/7a3a8b1c-{}.png", "{}.png"),
        ("/data/local-files/?d=cakes%2F{}.png", "{}.png"),
        ("/data/local-files/?d=cakes/cr%C3%A8me,%20{}.png", "crème, {}.png"),
        ("s3://bucket/cakes/{}.png", "{}.PNG"),
        ("https://example.com/cakes/{}.png?Expires=1&Signature=x", "{}.png"),
        ("images/{}.png", "{}.png"),
    ],
)
def test_places_of_images(tmp_path, reference, saved):
    for form in (lambda tasks: tasks, label_studio_min):
        folder = write_label_studio(tmp_path / form.__name__[:3], form(label_studio_tasks(reference)), saved)
        coco = load_annotations(folder, "train")
        assert [image["file_name"] for image in coco.images] == [f"images/{saved.format(name)}" for name in BOXES]
        assert len(coco.annotations_by_image.column("id")) == 3


def test_tasks_that_wait_are_not_background(tmp_path):
    tasks = label_studio_tasks()
    tasks[1]["annotations"] = []
    tasks[2]["annotations"][0]["was_cancelled"] = True
    coco = load_annotations(write_label_studio(tmp_path, tasks), "train")
    assert [image["file_name"] for image in coco.images] == ["images/a.png"]
    assert [path.name for path in coco.left_over[NOT_ANNOTATED]] == ["b.png", "c.png"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"value": {"x": 1, "y": 2, "width": 3}}, r"result\[0\]: expected a name, got None"),
        ({"value": {"x": "left", "y": 2, "width": 3, "height": 4, "rectanglelabels": ["a"]}}, "expected finite coord"),
        ({"value": {"points": [[1, 2, 3]], "polygonlabels": ["a"]}}, "expected finite coordinates"),
        ({"value": None}, r"\[0\] \(id 101\): result\[0\]: expected a region with a value, got None"),
        ({"image_rotation": 90}, "expected an image that is not turned, got image_rotation 90"),
    ],
)
def test_regions_that_are_none(tmp_path, capsys, change, message):
    folder = write_label_studio(tmp_path, _one([{**region("a", 0, [1, 2, 3, 4]), **change}]))
    with pytest.raises(ValueError, match=message):
        load_annotations(folder, "train")
    status, printed = _validate(capsys, folder)
    assert status == 1 and "| error |" in printed


# LabelMe


def test_shapes_of_labelme(tmp_path, caplog):
    def shape(label, kind, points, **more):
        return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}

    shapes = [
        shape("area", "polygon", [[10.5, 20], [30, 40.25], [12, 8]]),
        shape("round", "circle", [[40, 30], [43, 34]]),
        shape("two", "polygon", [[1, 1], [5, 1], [5, 5]], group_id=3),
        shape("two", "rectangle", [[20, 2], [10, 9]], group_id=3),
        shape("two", "rectangle", [[50, 2], [60, 9]], group_id=4),
        shape("other", "rectangle", [[50, 2], [60, 9]], group_id=3),
        shape("dot", "point", [[1, 1]]),
    ]
    write_labelme(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(labelme_document("a", shapes=shapes)))
    coco = load_annotations(tmp_path, "train")
    assert _boxes(coco) == {
        "area": [[10.5, 8, 30, 40.25]],
        "round": [[35, 25, 45, 35]],
        "two": [[1, 1, 20, 9], [50, 2, 60, 9]],
        "other": [[50, 2, 60, 9]],
    }
    assert "a.json: shapes[6]: 'point'" in caplog.text


@pytest.mark.parametrize(
    "shape, message",
    [
        ("no shape", r"a.json: shapes\[0\]: expected a shape with label and points, got 'no shape'"),
        ({"label": None, "points": [[1, 2], [3, 4]], "shape_type": "rectangle"}, "expected a name, got None"),
        ({"label": "x", "points": [[1, 2]], "shape_type": "rectangle"}, "expected finite coordinates"),
        ({"label": "x", "points": "1 2", "shape_type": "rectangle"}, "expected finite coordinates"),
        ({"label": "x", "points": [[1, math.inf], [2, 3]], "shape_type": "rectangle"}, "expected finite coordinates"),
    ],
)
def test_shapes_that_are_none(tmp_path, shape, message):
    write_labelme(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(labelme_document("a", shapes=[shape])))
    with pytest.raises(ValueError, match=message):
        load_annotations(tmp_path, "train")


def test_other_files_among_labelme(tmp_path, capsys):
    write_labelme(tmp_path)
    (tmp_path / "settings.json").write_text('{"zoom": 2}')
    coco = load_annotations(tmp_path, "train")
    assert [path.name for path in coco.left_over["JSON files that are not LabelMe's"]] == ["settings.json"]
    (tmp_path / "b.json").write_text('{"zoom": 2}')
    with pytest.raises(ValueError, match="b.json: expected LabelMe's shapes, got {'zoom': 2}; annotate .*b.png again"):
        load_annotations(tmp_path, "train")
    assert _validate(capsys, tmp_path)[0] == 1


# Pascal VOC


def test_pixels_of_pascal_voc_begin_at_1_unless_a_box_says_otherwise(tmp_path):
    boxes = [(0, [9, 4, 20, 30])]
    for start in (0, 1):
        folder = tmp_path / str(start)
        write_voc(folder)
        (folder / "Annotations" / "a.xml").write_text(voc_xml("a", boxes=boxes, start=start), encoding="utf-8")
        for name in "bc":
            (folder / "Annotations" / f"{name}.xml").write_text(voc_xml(name, boxes=[]), encoding="utf-8")
    assert _boxes(load_annotations(tmp_path / "1", "train")) == {NAMES[0]: [[9, 4, 29, 34]]}
    assert _boxes(load_annotations(tmp_path / "0", "train")) == {
        NAMES[0]: [[8, 3, 29, 34]]
    }  # nothing tells them apart
    at_the_edge = voc_xml("b", boxes=[(0, [0, 0, 5, 5])], start=0)
    (tmp_path / "0" / "Annotations" / "b.xml").write_text(at_the_edge, encoding="utf-8")
    assert _boxes(load_annotations(tmp_path / "0", "train")) == {NAMES[0]: [[9, 4, 29, 34]]}
    fractions = voc_xml("a", boxes=[(0, [9.25, 4.5, 20, 30])], start=0)
    (tmp_path / "1" / "Annotations" / "a.xml").write_text(fractions, encoding="utf-8")
    assert _boxes(load_annotations(tmp_path / "1", "train")) == {NAMES[0]: [[9.25, 4.5, 29.25, 34.5]]}


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("<xmin>51</xmin>", "<xmin>left</xmin>", "a.xml: object 1: expected finite coordinates"),
        ("<xmin>51</xmin>", "", "a.xml: object 1: expected finite coordinates"),
        ("<xmin>51</xmin>", "<xmin>95</xmin>", r"a.xml: object 1: expected x0 <= x1 and y0 <= y1, got \[94"),
        ("<name>salt, pepper</name>", "<name> </name>", "a.xml: object 1: expected a name, got ''"),
        ("<name>salt, pepper</name>", "", "a.xml: object 1: expected a name, got ''"),
        ("<bndbox>", "<bndbix>", "a.xml: expected XML, got: mismatched tag"),
    ],
)
def test_objects_that_are_none(tmp_path, capsys, old, new, message):
    write_voc(tmp_path)
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_annotations(tmp_path, "train")
    status, printed = _validate(capsys, tmp_path)
    assert status == 1 and "a.xml" in printed


def test_sizes_that_are_missing_or_wrong(tmp_path, capsys):
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml("a", size=(0, 0)), encoding="utf-8")
    assert load_annotations(tmp_path, "train").images[0]["width"] == 96
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml("a", size=(64, 96)), encoding="utf-8")
    assert "| error | width and height are swapped | 1 |" in _validate(capsys, tmp_path)[1]


def test_an_annotation_file_that_was_renamed_with_its_picture(tmp_path):
    write_voc(tmp_path, ".", ".", file_name="IMG_0001.JPG")
    assert [image["file_name"] for image in load_annotations(tmp_path, "train").images] == ["a.png", "b.png", "c.png"]


# Files


def test_suffixes_in_capitals_accents_and_commas(tmp_path):
    for kind, write_form in (("cvat", write_cvat), ("voc", write_voc), ("labelme", write_labelme)):
        folder = write_form(tmp_path / kind)
        picture = next(folder.rglob("a.png"))
        picture.rename(picture.with_name("crème, a.PNG"))
        for file in [*folder.rglob("*.xml"), *folder.rglob("*.json")]:
            text = file.read_text(encoding="utf-8").replace("a.png", "crème, a.PNG")
            file.unlink()
            name = f"{file.stem}{file.suffix.upper()}" if kind == "voc" else file.name
            (file.with_name(name)).write_text(text, encoding="utf-8")
        if kind == "voc":
            (folder / "Annotations" / "a.XML").rename(folder / "Annotations" / "crème, a.XML")
        coco = load_annotations(folder, "train")
        assert sum("crème, a.PNG" in image["file_name"] for image in coco.images) == 1
        assert len(coco.annotations_by_image.column("id")) == 3


@pytest.mark.parametrize("form, file", [(write_cvat, "annotations.xml"), (write_voc, "Annotations/b.xml")])
@pytest.mark.parametrize(
    "content, message",
    [
        ("", "expected XML, got: no element found"),
        ("<annotations><image", "expected XML, got"),
        (
            '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotations>&y;</annotations>',
            "entities and document types are not read",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "entities and document types are not read"),
        ("<html></html>", "expected the root element <annotations?>, got <html>"),
        ('<?xml version="1.0" encoding="gb2312"?><annotations/>', "multi-byte encodings are not supported"),
    ],
)
def test_xml_that_is_none(tmp_path, capsys, form, file, content, message):
    from decodetr.annotations.cvat import read_cvat

    folder = form(tmp_path)
    (folder / file).write_text(content)
    read = (lambda: read_cvat(folder / file)) if form is write_cvat else (lambda: load_annotations(folder, "train"))
    with pytest.raises(ValueError, match=rf"{file}: .*{message}"):
        read()
    if form is write_voc:
        assert "| error | annotation files that cannot be read | 1 |" in _validate(capsys, folder)[1]


@pytest.mark.parametrize("content", ["", "[{", "[" * 100_000])
def test_json_that_is_none(tmp_path, content):
    from decodetr.annotations.label_studio import read_label_studio

    write_labelme(tmp_path)
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(ValueError, match=r"b\.json: "):
        load_annotations(tmp_path, "train")
    with pytest.raises(ValueError, match=r"b\.json: "):
        read_label_studio(tmp_path / "b.json")
    folder = write_roboflow_coco(tmp_path / "roboflow")
    (folder / "valid" / "_annotations.coco.json").write_text(content)
    with pytest.raises(ValueError, match=r"_annotations.coco.json: "):
        load_annotations(folder, "val")


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png", "..\\..\\secret.png"])
def test_paths_that_lead_out_of_the_folder(tmp_path, name, capsys, monkeypatch):
    save_picture(tmp_path, "a", "secret.png")
    folders = [write_cvat(tmp_path / "x" / "cvat"), write_voc(tmp_path / "x" / "voc")]
    folders += [write_labelme(tmp_path / "x" / "labelme"), write_label_studio(tmp_path / "x" / "studio")]
    for folder in folders:
        next(folder.rglob("a.png")).unlink()
        for file in [*folder.rglob("*.xml"), *folder.glob("*.json")]:
            written = json.dumps(name)[1:-1] if file.suffix == ".json" else name
            text = file.read_text(encoding="utf-8").replace("/data/upload/1/a.png", "a.png")
            file.write_text(text.replace("a.png", written), encoding="utf-8")
        with pytest.raises(ValueError, match=r"leads out of .*--allow-outside|expected one image called"):
            load_annotations(folder, "train")
        assert _validate(capsys, folder)[0] == 1
    if name == "../../secret.png":  # of cvat/images: not the secret; of voc/JPEGImages neither
        monkeypatch.setenv("DECODETR_ALLOW_OUTSIDE", "1")
        coco = load_annotations(folders[2], "train")
        assert coco.images[0]["path"] == str(tmp_path / "secret.png")


def test_two_pictures_of_one_name(tmp_path):
    folder = write_label_studio(tmp_path)
    save_picture(folder / "more", "b", "a.png")
    with pytest.raises(
        ValueError, match="expected one image called '/data/upload/1/a.png' below .*, got none, or sev"
    ):
        load_annotations(folder, "train")


# Pictures alone


def _photos(folder):
    for name, place in (("a", "."), ("b", "trip"), ("c", "trip/day, été")):
        save_picture(folder / place, name, f"{name}.PNG")
    Image.new("L", (30, 20)).save(folder / "grey.jpeg")
    (folder / "trip" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def test_a_folder_of_pictures(tmp_path, caplog, capsys):
    folder = _photos(tmp_path / "photos")
    assert kind_of(folder) == "images" and has_part(folder, "train") and not has_part(folder, "val")
    coco = load_annotations(folder, "train", boxes=False)
    assert [image["file_name"] for image in coco.images] == ["a.PNG", "grey.jpeg", "trip/b.PNG", "trip/day, été/c.PNG"]
    assert coco.names == [] and [image["width"] for image in coco.images] == [96, 30, 40, 64]
    assert "1 images that cannot be read (left out), the first: " in caplog.text and "broken.jpg" in caplog.text
    status, printed = _validate(capsys, folder)
    assert status == 1 and "| error | no categories at all | 1 |" in printed and "broken.jpg" in printed


def test_who_needs_boxes_says_so(tmp_path, capsys):
    folder = _photos(tmp_path / "photos")
    said = f"{folder}: expected annotated images, got pictures without boxes (a.PNG, grey.jpeg, trip/ (3 entries))"
    with pytest.raises(ValueError, match="expected annotated images, got pictures without boxes"):
        load_annotations(folder, "train")
    for words in (
        ["train", "--model", "scenes-decodetr", "--data", folder, "--output_dir", tmp_path / "out"],
        ["eval", "--model", "scenes-decodetr", "--data", folder],
        ["calibrate", "--model", "scenes-decodetr", "--data", folder, "--output", tmp_path / "out"],
    ):
        assert main([str(word) for word in words]) == 1
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_proposals_of_a_folder_of_pictures(tmp_path, capsys):
    import pyarrow.parquet as pq

    folder, out = _photos(tmp_path / "photos"), tmp_path / "out"
    words = ["pool", "proposals", "--data", str(folder), "--detector", "grid", "--output", str(out), "--device", "cpu"]
    assert main(words) == 0, capsys.readouterr().err
    (shard,) = (out / "proposals").glob("*.parquet")
    assert set(pq.read_table(shard).column("image_id").to_pylist()) == {1, 2, 3, 4}


def test_folders_of_parts(tmp_path):
    for place in ("Train", "validation"):
        _photos(tmp_path / place)
    assert len(load_annotations(tmp_path, "val", boxes=False)) == 4
    save_picture(tmp_path / "more", "a")
    assert not has_part(tmp_path, "val") and len(load_annotations(tmp_path, "train", boxes=False)) == 9


def test_parts_further_down(tmp_path):
    """annotations/train/ and images/train/, as some data sets have them; the same for pictures alone."""
    for part in ("train", "val"):
        write_voc(tmp_path / "voc", f"annotations/{part}", f"images/{part}")
        _photos(tmp_path / "photos" / "images" / part)
    save_picture(tmp_path / "voc" / "images" / "train", "a", "new.png")
    for part, rest in (("train", ["new.png"]), ("val", [])):
        coco = load_annotations(tmp_path / "voc", part)
        assert [image["file_name"] for image in coco.images] == [f"images/{part}/{name}.png" for name in BOXES]
        assert [path.name for path in coco.left_over[NOT_ANNOTATED]] == rest
        assert len(load_annotations(tmp_path / "photos", part, boxes=False)) == 4


def test_several_exports_in_one_folder(tmp_path):
    folder = write_label_studio(tmp_path)
    (folder / "project-2.json").write_text(json.dumps(label_studio_tasks()))
    with pytest.raises(
        ValueError, match="several files can be the part 'train': .*project-1.*project-2.json; take the"
    ):
        load_annotations(folder, "train")
    (folder / "project-2.json").rename(folder / "val.json")
    assert part_names(folder, ["val"]) == ["project-1-at-2024-05-02-08-31-0a1b2c3d.json"]
    assert len(load_annotations(folder, "val")) == 3
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(json.dumps({"names": NAMES, "train": "images"}))
    (folder / "recipe.yaml").write_text("learning_rate: 1e-4\n")
    with pytest.raises(ValueError, match="several files can be the part 'train': .*one.yaml, .*two.yaml"):
        load_annotations(folder, "train")


def test_other_files_beside_those_of_coco_change_nothing(tmp_path):
    folder = write_coco(tmp_path)
    (folder / "predictions.json").write_text('[{"image_id": 1, "labels": [3], "data": {}}]')
    (folder / "project.json").write_text(json.dumps(label_studio_tasks()))
    (folder / "validation.json").write_text('{"train": {"images": 3, "annotations": 4, "findings": []}}')
    (folder / "recipe.yaml").write_text("names: [a]\n")
    (folder / "notes.xml").write_text("<annotation/>")
    save_picture(folder, "a", "sheet.png")
    assert kind_of(folder) == "coco" and not has_part(folder, "val")
    assert len(load_annotations(folder, "train")) == 3


def test_a_document_of_coco_without_objects(tmp_path):
    folder = write_roboflow_coco(tmp_path, ["train"])
    file = folder / "train" / "_annotations.coco.json"
    document = {**coco_document("{}_png.rf.0a1b2c.png"), "annotations": []}
    file.write_text(json.dumps(document))
    assert [len(rows) for rows in load_annotations(folder, "train").annotations_by_image.values()] == [0, 0, 0]
