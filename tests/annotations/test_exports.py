"""What annotation tools export gives the same training items as COCO's own form, and is told apart."""

import json
import shutil

import numpy as np
import pytest
import supervision
from helpers.data_forms import BOXES, NAMES, SIZES, assert_same, items, picture, write_coco, write_yolo
from helpers.exported_forms import (
    coco_document,
    label_studio_min,
    label_studio_tasks,
    save_picture,
    voc_xml,
    write_coco_layout,
    write_cvat,
    write_cvat_coco,
    write_label_studio,
    write_labelme,
    write_roboflow_coco,
    write_voc,
)

from decodetr.annotations.left_over import NO_LABELS
from decodetr.annotations.sources import has_part, kind_of, load_annotations, part_names
from decodetr.cli import main
from decodetr.utils.images import open_image


def _lists(folder, **parts):
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for part, lines in parts.items():
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def _flat_voc(folder):
    """Roboflow's VOC: a folder for each part."""
    for part in ("train", "valid", "test"):
        write_voc(folder, part, part)
    return folder


def _labelme_parts(folder):
    write_labelme(folder, "train")
    return write_labelme(folder, "val")


def _label_studio_coco(folder):
    """Label Studio's "COCO with images"."""
    for name in BOXES:
        save_picture(folder / "images", name)
    (folder / "result.json").write_text(json.dumps(coco_document("images/{}.png")))
    return folder


def _ultralytics(folder):
    """A yaml that is called after the data set, with `valid`."""
    write_yolo(folder, valid="images/train")
    (folder / "data.yaml").rename(folder / "desserts.yaml")
    return folder


def _label_studio_yolo(folder):
    """Label Studio's "YOLO with images"."""
    write_yolo(folder)
    (folder / "data.yaml").unlink()
    for place in ("images", "labels"):
        for file in (folder / place / "train").iterdir():
            file.rename(folder / place / file.name)
        (folder / place / "train").rmdir()
    (folder / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    (folder / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": NAMES[0]}], "info": {}}))
    return folder


def _nested(folder):
    """LabelMe and pictures in folders of their own, on Windows."""
    write_labelme(folder, "shots/one")
    (folder / "labels").mkdir()
    for file in (folder / "shots" / "one").glob("*.json"):
        document = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
        text = json.dumps({**document, "imagePath": f"..\\shots\\one\\{document['imagePath']}"})
        (folder / "labels" / file.name).write_text(text)
    return folder


FORMS = {
    "Roboflow COCO": (write_roboflow_coco, "coco", ["train", "val", "test"]),
    "Roboflow COCO, one part": (lambda folder: write_roboflow_coco(folder, ["train"]), "coco", ["train"]),
    "COCO 2017": (write_coco_layout, "coco", ["train", "val"]),
    "COCO 2014": (lambda folder: write_coco_layout(folder, 2014), "coco", ["train", "val"]),
    "CVAT COCO": (write_cvat_coco, "coco", ["train"]),
    "CVAT COCO, images/": (lambda folder: write_cvat_coco(folder, "images"), "coco", ["train"]),
    "Label Studio COCO": (_label_studio_coco, "coco", ["train"]),
    "CVAT": (write_cvat, "cvat", ["train"]),
    "CVAT, other folder": (lambda folder: write_cvat(folder, "photos/deep"), "cvat", ["train"]),
    "Label Studio": (write_label_studio, "label_studio", ["train"]),
    "Label Studio JSON-MIN": (
        lambda folder: write_label_studio(folder, label_studio_min(label_studio_tasks())),
        "label_studio",
        ["train"],
    ),
    "Pascal VOC": (
        lambda folder: _lists(write_voc(folder), train="abc", val=["b 1", "c"]),
        "voc",
        ["train", "val"],
    ),
    "Pascal VOC, trainval": (lambda folder: _lists(write_voc(folder), trainval="abc"), "voc", ["train"]),
    "Pascal VOC without lists": (lambda folder: write_voc(folder, "annotations", "images"), "voc", ["train"]),
    "Roboflow VOC": (_flat_voc, "voc", ["train", "val", "test"]),
    "VOC in one folder": (lambda folder: write_voc(folder, ".", "."), "voc", ["train"]),
    "VOC from 0": (lambda folder: write_voc(folder, start=0), "voc", ["train"]),
    "LabelMe": (write_labelme, "labelme", ["train"]),
    "LabelMe, parts": (_labelme_parts, "labelme", ["train", "val"]),
    "LabelMe, nested": (_nested, "labelme", ["train"]),
    "YOLO, any name": (_ultralytics, "yolo", ["train", "val"]),
    "Label Studio YOLO": (_label_studio_yolo, "yolo", ["train"]),
}


def _assert_read(coco):
    """The pictures, names and boxes of data_forms.py."""
    for image, (name, boxes) in zip(coco.images, BOXES.items(), strict=True):
        assert open_image(image["path"]).tobytes() == picture(name).tobytes()
        assert (image["width"], image["height"]) == SIZES[name]
        rows = coco.annotations_by_image[image["image_id"]]
        assert [coco.names[row["category"]] for row in rows] == [NAMES[label] for label, _ in boxes]
        for row, (_, box) in zip(rows, boxes):
            assert row["bbox"] == pytest.approx(box, abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_boxes(tmp_path, form):
    write_form, kind, parts = FORMS[form]
    folder = write_form(tmp_path / "data")
    assert kind_of(folder) == kind
    assert [part for part in ("train", "val", "test") if has_part(folder, part)] == parts
    coco = load_annotations(folder, "train")
    assert sorted(coco.names) == sorted(NAMES)
    _assert_read(coco)
    assert [path for what, paths in coco.left_over.items() if what != NO_LABELS for path in paths] == []


@pytest.mark.parametrize("form", ["Roboflow COCO", "CVAT", "Label Studio", "Pascal VOC", "LabelMe"])
def test_the_same_training_items(tmp_path, expected, form):
    assert_same(items(load_annotations(FORMS[form][0](tmp_path / "data"), "train")), expected)


@pytest.mark.parametrize("form", ["CVAT", "Label Studio", "Roboflow VOC", "LabelMe", "COCO 2017", "YOLO, any name"])
def test_validate_finds_nothing_wrong(tmp_path, capsys, form):
    write_form, _, parts = FORMS[form]
    status = main(["validate", str(write_form(tmp_path / "data")), "--parts", "train"])
    printed = capsys.readouterr().out
    assert status == 0 and "| annotations | 3 |" in printed and "| images without objects | 1 |" in printed
    assert "| error |" not in printed and ("Not read" in printed) == (len(parts) > 1)


@pytest.mark.parametrize("form", ["CVAT", "Label Studio", "Pascal VOC", "LabelMe, nested"])
def test_a_repaired_copy_is_read(tmp_path, form):
    folder = FORMS[form][0](tmp_path / "data")
    assert main(["validate", str(folder), "--parts", "train", "--repair", str(tmp_path / "copy")]) == 0
    _assert_read(load_annotations(tmp_path / "copy", "train"))


def test_the_file_itself(tmp_path):
    cvat, studio = write_cvat(tmp_path / "cvat"), write_label_studio(tmp_path / "studio")
    for file in (cvat / "annotations.xml", next(studio.glob("*.json"))):
        _assert_read(load_annotations(file, "train"))
        assert main(["validate", str(file)]) == 0


def test_pictures_elsewhere(tmp_path, capsys):
    for form, write_form in (("cvat", write_cvat), ("studio", write_label_studio), ("voc", write_voc)):
        folder = write_form(tmp_path / form)
        (pictures,) = [path for path in folder.iterdir() if path.is_dir() and path.name != "Annotations"]
        shutil.move(pictures, tmp_path / f"{form} pictures")
        with pytest.raises(ValueError, match="expected one image called '?.*a.png'? below"):
            load_annotations(folder, "train")
        _assert_read(load_annotations(folder, "train", images=tmp_path / f"{form} pictures"))
        if form != "studio":  # which has no size of a picture without boxes
            assert len(load_annotations(folder, "train", check_images=False)) == 3
        capsys.readouterr()
        assert main(["validate", str(folder)]) == 1
        assert "| error | images that are not there | 3 |" in capsys.readouterr().out
        assert main(["validate", str(folder), "--images", str(tmp_path / f"{form} pictures")]) == 0


def test_parts_that_are_not_there(tmp_path):
    folder = write_cvat_coco(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="a COCO folder without a part 'val'; it has train: .*--val-share 0.1"):
        load_annotations(folder, "val")
    (folder / "annotations" / "instances_more.json").write_text(json.dumps(coco_document()))
    with pytest.raises(ValueError, match="several files can be the part 'train': .*default.json, .*more.json; take"):
        load_annotations(folder, "train")
    voc = _lists(write_voc(tmp_path / "voc"), train="ac", val="b")
    assert part_names(voc, ["train"]) == ["val"] and len(load_annotations(voc, "val")) == 1


def test_lists_of_pascal_voc(tmp_path):
    """Names with spaces and folders, quotes, comments, and a picture without an annotation file."""
    folder = write_voc(tmp_path / "data")
    save_picture(folder / "JPEGImages", "c", "my cake.png")
    (folder / "Annotations" / "sub").mkdir()
    save_picture(folder / "JPEGImages" / "sub", "b", "a.png")
    (folder / "Annotations" / "sub" / "a.xml").write_text(voc_xml("b", "sub/a.png"), encoding="utf-8")
    _lists(folder, train=["# cakes", "sub/a", '"my cake"', "", "b -1"])
    coco = load_annotations(folder, "train")
    assert [image["file_name"] for image in coco.images] == [
        f"JPEGImages/{name}" for name in ("sub/a.png", "my cake.png", "b.png")
    ]
    assert [len(rows) for rows in coco.annotations_by_image.values()] == [1, 0, 1]
    _lists(tmp_path / "other", train=["nothing"])
    shutil.copy(tmp_path / "other" / "ImageSets" / "Main" / "train.txt", folder / "ImageSets" / "Main" / "train.txt")
    with pytest.raises(ValueError, match=r"train.txt: line 1: expected one image called 'nothing'"):
        load_annotations(folder, "train")


def test_what_is_not_recognised_is_listed(tmp_path, caplog):
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "table.csv").write_text("file,label\n")
    with pytest.raises(
        FileNotFoundError,
        match=r"no pictures were found\. Looked for: .*annotations\.xml.*There is: inner/ \(0 entries\), table\.csv$",
    ):
        kind_of(folder)
    write_coco(folder / "wrapped")
    with pytest.raises(ValueError, match=r"got pictures without boxes.*wrapped is a COCO folder: is it meant\?"):
        load_annotations(folder, "train")
    assert len(load_annotations(folder, "train", boxes=False)) == 3
    assert "wrapped is a COCO folder: is it meant?" in caplog.text
    yolo = write_yolo(tmp_path / "yolo")
    (yolo / "data.yaml").unlink()
    with pytest.raises(ValueError, match="there are labels as YOLO has them, but no data.yaml with their names"):
        load_annotations(yolo, "train")


@pytest.mark.parametrize(
    "form, kind", [("pascal_voc", "voc"), ("labelme", "labelme"), ("yolo", "yolo"), ("coco", "coco")]
)
def test_what_supervision_writes(tmp_path, form, kind):
    """The files of another library, which also reads them."""
    pytest.importorskip("cv2", reason="supervision needs it to write pictures")
    for name in BOXES:
        save_picture(tmp_path / "source", name)
    paths = {name: str(tmp_path / "source" / f"{name}.png") for name in BOXES}
    found = {}
    for name, boxes in BOXES.items():
        corners = np.array([[x, y, x + w, y + h] for _, (x, y, w, h) in boxes], dtype=np.float32).reshape(-1, 4)
        labels = np.array([label for label, _ in boxes], dtype=int)
        found[paths[name]] = supervision.Detections(xyxy=corners, class_id=labels)
    dataset = supervision.DetectionDataset(classes=NAMES, images=list(paths.values()), annotations=found)
    folder = tmp_path / "data"
    places = {"images_directory_path": str(folder / "images")}
    if form == "coco":
        (folder / "annotations").mkdir(parents=True)
        dataset.as_coco(**places, annotations_path=str(folder / "annotations" / "instances.json"))
    elif form == "yolo":
        labels = {"annotations_directory_path": str(folder / "labels"), "data_yaml_path": str(folder / "cakes.yaml")}
        dataset.as_yolo(**places, **labels)
        (folder / "recipe.yaml").write_text("names: [cake]\n")  # of something else
    else:
        getattr(dataset, f"as_{form}")(**places, annotations_directory_path=str(folder / "Annotations"))
    assert kind_of(folder) == kind
    _assert_read(load_annotations(folder, "train"))


def test_a_yolo_folder_whose_file_names_no_part_says_what_to_write(tmp_path):
    write_yolo(tmp_path, train="")
    with pytest.raises(FileNotFoundError, match="got names alone; write `train: images/train`, or wherever"):
        load_annotations(tmp_path, "train")
