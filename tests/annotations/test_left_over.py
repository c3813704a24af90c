"""Files of a data set that nothing uses are counted on both sides, and said by validate, training and predict."""

import json
import os
import shutil

import pytest
from helpers.broken_data import good, write
from helpers.data_forms import assert_same, items, picture, write_yolo
from helpers.exported_forms import write_labelme, write_voc
from PIL import Image

from decodetr.annotations.cvat import cvat_subsets
from decodetr.annotations.left_over import pictures_below
from decodetr.annotations.sources import kind_of, load_annotations
from decodetr.cli import main
from decodetr.inference.picture_files import find_images
from decodetr.utils.paths import files_below


def _validate(capsys, folder, status=0):
    assert main(["validate", str(folder), "--names-split", "none"]) == status
    return capsys.readouterr().out


def test_labels_and_pictures_that_do_not_meet(tmp_path, capsys, caplog):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "labels" / "train" / "01.txt").write_text("0 .5 .5 .1 .1")
    (folder / "labels" / "train" / "classes.txt").write_text("cat")
    (folder / "images" / "train" / "d.heic").write_bytes(b"?")
    (folder / "images" / "train" / ".DS_Store").write_bytes(b"?")
    printed = _validate(capsys, folder)
    for row in (
        "| warning | label files of no picture | 1 |",
        "| warning | files that are no pictures by their suffix",
    ):
        assert row in printed
    assert "d.heic" in printed and "01.txt" in printed and "classes.txt" not in printed and "DS_Store" not in printed
    assert "| warning | pictures without a label file: background | 1 |" in printed and "c.png" in printed
    caplog.clear()
    load_annotations(folder, "train")
    (record,) = [record for record in caplog.records if "01.txt" in record.message]
    assert "1 label files of no picture" in record.message and "d.heic" in record.message


def test_hidden_pictures_are_nobodys(tmp_path):
    for name in ("a.png", "._a.png", ".thumbnails/a.png", "inner/b.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="png")
    seen = [tmp_path / "a.png", tmp_path / "inner" / "b.PNG"]
    assert pictures_below(tmp_path) == (seen, [])
    assert find_images([tmp_path]) == seen


def test_annotations_in_hidden_folders_are_nobodys(tmp_path, capsys):
    """Copies that Jupyter makes, and what the Hub's client leaves."""
    for write_form, place in (
        (write_voc, "Annotations/a.xml"),
        (write_labelme, "a.json"),
        (write, "annotations/train.json"),
    ):
        folder = tmp_path / write_form.__name__
        write_form(folder, good()) if write_form is write else write_form(folder)
        (folder / ".ipynb_checkpoints").mkdir()
        file = folder / place
        shutil.copy(file, folder / ".ipynb_checkpoints" / f"{file.stem}-checkpoint{file.suffix}")
        assert len(load_annotations(folder, "train")) == (6 if write_form is write else 3)
        assert "checkpoint" not in _validate(capsys, folder)
    pictures = tmp_path / "pictures"
    (pictures / ".cache").mkdir(parents=True)
    (pictures / ".cache" / "x.parquet").write_bytes(b"?")
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    assert kind_of(pictures) == "images"
    coco = tmp_path / "write"
    (coco / "train" / ".thumbnails").mkdir()
    shutil.copy(coco / "train" / "1.png", coco / "train" / ".thumbnails" / "1.png")
    assert not any(load_annotations(coco, "train").left_over.values())


def test_pictures_of_an_image_folder_that_no_row_names(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for part, name in (("train", "a"), ("validation", "b")):
        folder = tmp_path / "data" / part
        (folder / "inner").mkdir(parents=True)
        for file in (f"{name}.png", "inner/other.JPG"):
            picture(name).save(folder / file, "png")
        row = {"file_name": f"{name}.png", "objects": {"bbox": [[1, 2, 3, 4]], "category": ["cat"]}}
        (folder / "metadata.jsonl").write_text(json.dumps(row))
    coco = load_annotations(tmp_path / "data", "train")
    assert len(coco) == 1 and "2 pictures that no row names" in caplog.text and "metadata" not in caplog.text
    said = [path.relative_to(tmp_path / "data").as_posix() for path in coco.left_over["pictures that no row names"]]
    assert said == ["train/inner/other.JPG", "validation/inner/other.JPG"]
    assert "| warning | pictures that no row names | 2 |" in _validate(capsys, tmp_path / "data")


@pytest.mark.parametrize("label", ["é.TXT", "e\u0301.txt", "É.txt"])
@pytest.mark.parametrize("place", ["labels", "images"])
def test_labels_in_another_spelling_are_found(tmp_path, caplog, label, place):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "images" / "train" / "a.png").rename(folder / "images" / "train" / "é.png")
    (folder / "labels" / "train" / "a.txt").rename(folder / place / "train" / label)
    coco = load_annotations(folder, "train")
    assert len(coco.annotations_by_image.column("id")) == 3
    assert "1 label files in another spelling (as they are in the folder)" in caplog.text
    assert coco.left_over["label files of no picture"] == []
    (folder / "images" / "train" / "É.PNG").write_bytes((folder / "images" / "train" / "é.png").read_bytes())
    coco = load_annotations(folder, "train")
    assert len(coco.annotations_by_image.column("id")) == (3 if label == "É.txt" else 1)  # else it could be of both


def test_label_files_that_could_be_two_are_not_guessed(tmp_path):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "labels" / "train" / "A.TXT").write_text("0 .5 .5 .1 .1")  # beside a.txt
    coco = load_annotations(folder, "train")
    assert len(coco.annotations_by_image.column("id")) == 3
    assert [path.name for path in coco.left_over["label files of no picture"]] == ["A.TXT"]


def test_a_label_file_of_two_pictures_is_said(tmp_path, caplog, capsys):
    folder = write_yolo(tmp_path / "yolo")
    picture("a").save(folder / "images" / "train" / "a.jpg")
    load_annotations(folder, "train")
    assert "1 label files of several pictures" in caplog.text and "a.jpg" in caplog.text and "a.png" in caplog.text
    assert "| warning | label files of several pictures | 1 |" in _validate(capsys, folder)


def test_labels_of_other_parts_are_not_left_over(tmp_path):
    folder = write_yolo(tmp_path / "yolo")
    for part, names in (("train", "ac"), ("val", "b")):
        (folder / f"{part}.txt").write_text("".join(f"images/train/{name}.png\n" for name in names))
    (folder / "data.yaml").write_text(json.dumps({"names": ["a", "b"], "train": "train.txt", "val": "val.txt"}))
    found = load_annotations(folder, "train").left_over
    assert [[path.name for path in paths] for paths in found.values()] == [["c.png"], [], []]


def test_labels_that_are_all_elsewhere_are_an_error(tmp_path, capsys):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "labels").rename(folder / "annotations-txt")
    with pytest.raises(ValueError, match=r"none of the 3 pictures has a label file; expected .*labels/train/a\.txt"):
        load_annotations(folder, "train")
    assert "none of the 3 pictures has a label file" in _validate(capsys, folder, 1)


def test_labels_beside_pictures_below_a_folder_called_images(tmp_path):
    folder = write_yolo(tmp_path / "images" / "mine")
    (folder / "all").mkdir()
    for file in [*folder.glob("images/train/*"), *folder.glob("labels/train/*")]:
        file.rename(folder / "all" / file.name)
    (folder / "data.yaml").write_text(json.dumps({"names": ["a", "b"], "train": "all"}))
    assert len(load_annotations(folder, "train").annotations_by_image.column("id")) == 3


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "ppm", "jp2", "avif", "MPO", "webp"])
def test_every_suffix_is_found_by_every_reader(tmp_path, suffix):
    folder = write_yolo(tmp_path / "yolo")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "MPO": "JPEG"}.get(suffix, suffix.upper())
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow was built without {kind}")
    (folder / "images" / "train" / "a.png").unlink()
    Image.new("RGB", (96, 64)).save(folder / "images" / "train" / f"a.{suffix}", kind)
    coco = load_annotations(folder, "train")
    assert len(coco) == 3 and len(coco.annotations_by_image.column("id")) == 3
    assert folder / "images" / "train" / f"a.{suffix}" in find_images([folder / "images" / "train"])


def test_pictures_that_a_coco_file_does_not_name(tmp_path, capsys, caplog):
    folder = write(tmp_path / "data", good())
    (folder / "train" / "deep").mkdir()
    shutil.copy(folder / "train" / "1.png", folder / "train" / "deep" / "7.jfif")
    (folder / "train" / "8.raw").write_bytes(b"?")
    printed = _validate(capsys, folder)
    assert "| warning | pictures that the annotation file does not name | 1 |" in printed and "7.jfif" in printed
    assert "8.raw" in printed
    load_annotations(folder, "train")
    assert "1 pictures that the annotation file does not name" in caplog.text


@pytest.mark.parametrize("val", ["annotations/val.json", "annotations/instances_val2017.json", "val.json"])
@pytest.mark.parametrize("lvis", [False, True])
def test_pictures_of_another_part_are_not_left_over(tmp_path, capsys, caplog, val, lvis):
    folder, document = write(tmp_path / "data", good()), good()
    (folder / "train").rename(folder / "images")
    for name, colour in (("v 1.png", "red"), ("nobody.png", "blue")):
        Image.new("RGB", (96, 64), colour).save(folder / "images" / name)
    entry = document["images"][0]
    entry["file_name"] = "v 1.png"
    if lvis:
        entry["coco_url"] = f"http://host/images/{entry.pop('file_name')}"
    document["images"] = [entry]
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] == entry["id"]]
    (folder / val).write_text(json.dumps(document))
    for part, own in (("train", 6), ("val", 1)):
        caplog.clear()
        coco = load_annotations(folder, part)
        assert len(coco) == own
        assert [path.name for path in coco.left_over["pictures that the annotation file does not name"]] == [
            "nobody.png"
        ]
        assert "1 pictures that the annotation file does not name" in caplog.text
    printed = _validate(capsys, folder)
    assert printed.count("| warning | pictures that the annotation file does not name | 1 |") == 2
    (folder / "images" / "nobody.png").unlink()
    caplog.clear()
    assert not load_annotations(folder, "train").left_over["pictures that the annotation file does not name"]
    assert "not used" not in caplog.text
    (folder / val).write_text("{")  # damaged: nobody's pictures are left over again
    assert "v 1.png" in str(load_annotations(folder, "train").left_over)


def test_links_are_followed_and_do_not_loop(tmp_path, expected):
    folder = write_yolo(tmp_path / "yolo")
    (folder / "images" / "train").rename(tmp_path / "elsewhere")
    (folder / "images" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(folder / "images")
    assert_same(items(load_annotations(folder, "train")), expected)
    assert [os.path.basename(path) for path in files_below(folder / "images")] == ["a.png", "b.png", "c.png"]


def test_predict_says_what_it_passes_over(tmp_path, caplog):
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    for name in ("c.heic", "notes.txt", ".hidden"):
        (tmp_path / name).write_text("?")
    assert find_images([tmp_path]) == [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    (record,) = caplog.records
    assert "c.heic" in record.message and "notes.txt" not in record.message
    assert find_images([tmp_path / "c.heic"]) == [tmp_path / "c.heic"]  # by name: it is tried
    (tmp_path / "a.png").unlink(), (tmp_path / "sub" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no images.*\.avif.*passed over: 1 .*c\.heic"):
        find_images([tmp_path])


def test_a_tag_that_never_ends_is_searched_once(tmp_path):
    """Not again from each of the tags below it, which took time by the square of them."""
    (tmp_path / "annotations.xml").write_bytes(b'<image "' * 200_000 + b'<image subset="Train &amp; more">')
    assert cvat_subsets(tmp_path / "annotations.xml") == ["Train & more"]
