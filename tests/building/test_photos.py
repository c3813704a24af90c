"""Photos in forms that are not read, and folders that are none."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from decodetr.annotations.sources import load_annotations
from decodetr.building.photos import (
    LEARNED,
    coco_document,
    find_photos,
    has_boxes,
    kept_aside,
    photos_root,
    photos_to_learn,
    write_photos,
)
from decodetr.utils.files import write_json


def test_pictures_in_forms_that_are_not_read_are_named_and_counted(tmp_path, caplog):
    photos = tmp_path / "photos"
    (photos / "raw").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 8)).save(photos / f"{number}.jpg")
    for name in ("IMG_1.HEIC", "raw/2.dng", "notes.docx"):
        (photos / name).write_bytes(b"whatever")
    with caplog.at_level(logging.WARNING):
        assert write_photos(photos, tmp_path / "data") == {"photos": 3, "kept": 1, "unreadable": 2}
    assert "left out: 2 photos in forms that are not read (.dng, .heic); convert" in caplog.text
    found = json.loads((tmp_path / "data/unreadable.json").read_text())
    assert [row["file"] for row in found] == [str(photos / "IMG_1.HEIC"), str(photos / "raw/2.dng")]
    assert found[0]["error"].endswith("IMG_1.HEIC: .HEIC is not read; convert .heic, .dng and the like to JPEG")


def test_files_that_build_wrote_give_no_warning_about_what_they_leave_to_others(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"photos/{number}.jpg")
    write_photos(tmp_path / "photos", tmp_path / "data")
    file = tmp_path / "data/annotations" / LEARNED
    assert len(load_annotations(None, "train", file).images) == 4 and "not used" not in caplog.text
    document = json.loads(file.read_text())
    del document["info"]["some_of_folder"]
    write_json(file, document)
    for other in file.parent.glob("*.json"):
        if other != file:
            other.unlink()  # what another file of the folder names is no matter either
    load_annotations(None, "train", file)
    assert "learned.json: not used: 1 pictures that the annotation file does not name" in caplog.text


def test_a_folder_with_nothing_else_says_what_to_do(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"whatever")
    with pytest.raises(FileNotFoundError, match=r"expected pictures .*got none \(there is IMG_1.HEIC\); convert"):
        has_boxes(tmp_path)


def test_a_misspelt_folder_is_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="--images nonex: no such folder; expected a folder of photos"):
        has_boxes("nonex")


def _data_set_without_training_boxes(folder):
    """Three pictures in each part; those for training have no boxes."""
    for part in ("train", "val", "test"):
        images = [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 8} for number in (1, 2, 3)]
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
        document = coco_document(images, ["cat"], [] if part == "train" else [box])
        write_json(folder / f"annotations/{part}.json", document | {"info": {}})
        (folder / part).mkdir()
        for entry in images:
            Image.new("RGB", (8, 8)).save(folder / part / entry["file_name"])
        (folder / part / "raw.HEIC").write_bytes(b"whatever")


def test_of_a_data_set_without_training_boxes_only_its_training_images_are_photos(tmp_path, caplog):
    data = tmp_path / "data"
    data.mkdir()
    _data_set_without_training_boxes(data)
    assert not has_boxes(data)
    assert "training images have no boxes: they alone count as photos" in caplog.text
    assert find_photos(data) == [data / f"train/{number}.png" for number in (1, 2, 3)]
    assert write_photos(data, tmp_path / "out") == {"photos": 3, "kept": 1, "unreadable": 0}
    names = {
        entry["file_name"] for entry in json.loads((tmp_path / "out/annotations/train.json").read_text())["images"]
    }
    assert names == {"train/1.png", "train/2.png", "train/3.png"}


def test_training_images_of_a_described_data_set_lie_beside_the_file_or_are_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    for place in (data / "images/train", data / "images/val", tmp_path / "elsewhere/images"):
        place.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(place / "1.png")
        labels = Path(str(place).replace("/images", "/labels"))
        labels.mkdir(parents=True)
        (labels / "1.txt").write_text("")  # nothing is in it
    file = data / "data.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    assert not has_boxes(file) and photos_root(file) == data
    assert find_photos(file) == [data / "images/train/1.png"]
    trusted = SimpleNamespace(images=[{"path": str(tmp_path / "elsewhere/images/1.png")}])  # as --allow-outside reads
    monkeypatch.setattr("decodetr.building.photos.load_annotations", lambda *_, **__: trusted)
    with pytest.raises(
        ValueError, match="elsewhere/images/1.png, a training image, lies outside of it; give a .txt file"
    ):
        find_photos(file)


def test_fewer_than_two_photos_that_can_be_read_are_refused_before_they_are_listed(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="expected at least two pictures that can be read, got 1"):
        photos_to_learn(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    assert photos_to_learn(tmp_path) == [tmp_path / f"{number}.png" for number in (1, 2, 3)]


@pytest.mark.parametrize(("photos", "kept"), [(2, 1), (3, 1), (14, 1), (25, 2), (100, 10), (9000, 200)])
def test_a_tenth_of_the_photos_is_kept_aside_but_at_least_one(photos, kept):
    assert kept_aside(photos) == kept


def test_a_data_set_without_training_images_is_photos_and_says_so(tmp_path, caplog):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val/0.png")
    images = [{"id": 1, "file_name": "0.png", "width": 8, "height": 8}]
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    write_json(tmp_path / "annotations/val.json", coco_document(images, ["cat"], [row]) | {"info": {}})
    assert not has_boxes(tmp_path) and find_photos(tmp_path) == [tmp_path / "val/0.png"]
    assert "without training images: all its pictures count as photos, and its boxes are not used" in caplog.text
