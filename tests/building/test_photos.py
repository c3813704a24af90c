"""Photos in forms that are not read, and folders that are none."""

import json
import logging

import pytest
from PIL import Image

from decodetr.annotations.sources import load_annotations
from decodetr.building.photos import LEARNED, has_boxes, write_photos
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
    load_annotations(None, "train", file)
    assert "learned.json: not used: 1 pictures that the annotation file does not name" in caplog.text


def test_a_folder_with_nothing_else_says_what_to_do(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"whatever")
    with pytest.raises(FileNotFoundError, match=r"expected pictures .*got none \(there is IMG_1.HEIC\); convert"):
        has_boxes(tmp_path)


def test_a_misspelt_folder_is_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="--images nonex: no such folder; expected one of photos"):
        has_boxes("nonex")
